"""Whether the promise was kept: from what a client received, and what it is known to have said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from trio_stt.client.resume_events import Ended, EndReason, Lost, Restarted, ResumeUnavailable, ResumingEvent
from trio_stt.dialects.events import Ack, Failure, Transcript

Phrase = tuple[int, int]
"""The first sample, and the one behind the last."""


def disorder(events: Iterable[ResumingEvent], client_id: str) -> list[str]:
    """What is wrong with the finals of `client_id` among what it received, in order.

    Accepted finals are disjoint, come in the order of their samples, each once, and none begins before a sample that
    was acknowledged before it came.
    """
    faults: list[str] = []
    seen: set[str] = set()
    last, acked = (0, 0), 0
    for event in events:
        if isinstance(event, Ack):
            if event.sample < acked:
                faults.append(f"ack {event.sample} after ack {acked}")
            acked = max(acked, event.sample)
        elif isinstance(event, Transcript) and event.is_final and event.client_id == client_id:
            span = (event.start_sample, event.end_sample)
            if span[1] < span[0]:
                faults.append(f"{span} ends before it begins")
            if span[0] < last[1]:
                faults.append(f"{span} begins within or before {last}")
            if span[0] < acked:
                faults.append(f"{span} begins before the acknowledged sample {acked}")
            if event.segment_id in seen:
                faults.append(f"{event.segment_id} came twice")
            seen.add(event.segment_id)
            last = span
    return faults


def miscounted(phrases: Sequence[Phrase], finals: Sequence[Transcript]) -> list[tuple[Phrase, int]]:
    """The phrases with samples that do not lie in exactly one of `finals`, and how many of their samples do not."""
    edges = sorted({at for each in finals for at in (each.start_sample, each.end_sample)})
    wrong = []
    for begin, end in phrases:
        marks = [begin, *(at for at in edges if begin < at < end), end]
        bad = sum(
            after - before
            for before, after in pairwise(marks)
            if sum(each.start_sample <= before < each.end_sample for each in finals) != 1
        )
        if bad:
            wrong.append(((begin, end), bad))
    return wrong


def visible_errors(events: Sequence[ResumingEvent]) -> list[str]:
    """What a user would have noticed other than a late caption: errors, losses, new streams, an end that is none."""
    seen = [repr(event) for event in events if isinstance(event, Failure | Lost | Restarted | ResumeUnavailable)]
    last = events[-1] if events else None
    if not isinstance(last, Ended) or last.reason is not EndReason.FINISHED:
        seen.append(f"ended with {last!r}")
    return seen
