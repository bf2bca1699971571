"""The figures of drills, beside what was promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trio_stt.bench.figures import Figure, percentiles
from trio_stt.drill.drill import Outcome

MOST_ADDED_S = 3.0
"""Catching up may delay captions so much, in 99 of 100 cases."""

MOST_ADDED_ERRORS = 1.0
"""Percentage points of words, above the undisturbed run."""

_SHOWN = 5


def figures_of(outcome: Outcome, undisturbed: Outcome) -> Iterator[Figure]:
    """What is to be known of one drill. `undisturbed`: the same scripts, left in peace."""
    name = outcome.drill.name
    words = outcome.words
    yield Figure(f"{name}: words said", words.words, "")
    yield Figure(f"{name}: word errors", 100 * words.rate, "%")
    if outcome is not undisturbed:
        added = 100 * (words.rate - undisturbed.words.rate)
        yield Figure(f"{name}: above undisturbed", added, "points", MOST_ADDED_ERRORS)
    yield Figure(f"{name}: phrases", sum(len(each.script.phrases) for each in outcome.speakers), "")
    yield Figure(f"{name}: samples of them not in exactly one final", outcome.miscounted_samples, "", 0)
    yield Figure(f"{name}: finals out of order or overlapping", len(outcome.faults), "", 0)
    yield Figure(f"{name}: errors that users see", len(outcome.errors), "", 0)
    stalls = outcome.stalls_s()
    yield Figure(f"{name}: connections lost or moved", len(stalls), "", outcome.drill.most_interruptions)
    if stalls:
        stall = percentiles(stalls)
        most_ms = None if outcome.drill.stall_p99_s is None else 1000 * outcome.drill.stall_p99_s
        yield Figure(f"{name}: stall, p50", stall.p50_ms, "ms")
        yield Figure(f"{name}: stall, p99", stall.p99_ms, "ms", most_ms)
    if stalls and (delays := outcome.added_delays_s(undisturbed)):
        delay = percentiles(delays)
        yield Figure(f"{name}: captions of {len(delays)} phrases in a stall came later by, p50", delay.p50_ms, "ms")
        yield Figure(f"{name}: the same, p99", delay.p99_ms, "ms", 1000 * MOST_ADDED_S)
    if outcome.crowd is not None:
        refusals = outcome.crowd.refusals
        yield Figure(f"{name}: the crowd's connections", outcome.crowd.connections, "")
        yield Figure(f"{name}: of them refused with 503", refusals.get(503, 0), "", at_least=1)
        others = sum(count for status, count in refusals.items() if status != 503)
        yield Figure(f"{name}: refused in another way, or not answered", others, "", 0)


def notes_of(outcome: Outcome) -> Iterator[str]:
    """What was done, and the first of what went wrong."""
    name = outcome.drill.name
    done = Counter(blow.what for blow in outcome.blows)
    if done:
        yield f"{name}: " + ", ".join(f"{what} × {count}" for what, count in done.items())
    for each in [*outcome.faults, *outcome.errors][:_SHOWN]:
        yield f"{name}: {each}"
    if outcome.crowd is not None:
        yield f"{name}: the crowd: {outcome.crowd}"
