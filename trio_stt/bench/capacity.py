"""How many speakers a server holds in real time; beside it, in turn, another server and the engine alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
from attrs import frozen

from trio_stt.bench.engine_process import EngineProcess
from trio_stt.bench.figures import Figure
from trio_stt.bench.generator.process import Generators
from trio_stt.bench.limit_search import LimitSearch
from trio_stt.bench.measured_load import LoadBench, Measured
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.raw_engine import TOGETHER, RawEngine
from trio_stt.bench.speech import Clip
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import Kind, Traffic, framed, record_sessions, talkers
from trio_stt.bench.word_errors import WordErrors, total

MOST_LAG_S = 0.5
"""A server holds a load if 95 of 100 captions lag no more than this."""

LEAST_TIMES_PEER: Mapping[Kind, float] = {Kind.CONTINUOUS: 4.0, Kind.CONVERSATION: 6.0}
LEAST_OF_RAW = 0.7
MOST_TIMES_RAW_CPU = 1.35
MOST_MB: Mapping[int, float] = {100: 700.0}
"""For a number of speakers: the memory that they may take."""
MOST_WORSE_POINTS = 0.5
"""So much worse than the engine alone may the word error rate be, in percentage points."""

ENOUGH_WORDS = 1000
"""With fewer words an error rate is not compared."""


@frozen
class Contender:
    """A server to measure, under these loads; without any, its limit is looked for from `first` on."""

    server: MeasuredServer
    first: int
    loads: tuple[int, ...] = ()


@frozen
class Plan:
    """How to measure. `hangover_left_s`: see `stream_lag.answers`; `turns`: see `LimitSearch`."""

    traffic: Traffic
    settle_s: float
    measured_s: float
    generators: int
    hangover_left_s: float
    turns: int


@frozen
class Step:
    """A load that was measured, and what the raw engine took just before and after, decoding in turn.

    `raw_cpu_s`: processor seconds for each second of audio.
    """

    measured: Measured
    raw_cpu_s: float
    held: bool

    @property
    def times_raw(self) -> float | None:
        """The server's processor time to that of the raw engine for the audio that was decoded; None: not known."""
        usage = self.measured.usage
        if usage is None:
            return None
        decoded_s = 1.0 if usage.decoded_audio_s is None else usage.decoded_audio_s
        return usage.total_s / (decoded_s * self.raw_cpu_s) if decoded_s else None


class CapacityBench:
    """Measures one load after another, the servers in turn, and gathers `figures`, `notes` and `steps`."""

    def __init__(
        self,
        plan: Plan,
        contenders: Sequence[Contender],
        clips: Sequence[Clip],
        model: Path,
        say: Callable[[str], None],
    ) -> None:
        """The first of `contenders` is the one that promises are about. `model`: what the raw engine decodes with."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.steps: list[Step] = []
        self._plan = plan
        self._contenders = contenders
        self._say = say
        self._model = model
        self._clips = clips
        self._sessions = record_sessions(clips, plan.traffic)

    async def run(self) -> None:
        """Measures until every limit is found. May be cancelled.

        Raises `ModelError`, `EngineError`, `GeneratorError`, `OSError`.
        """
        with contextlib.ExitStack() as stack:
            self._say("The raw engine")
            spoken = record_sessions(self._clips, attrs.evolve(self._plan.traffic, kind=Kind.CONTINUOUS))
            raw = RawEngine(stack.enter_context(EngineProcess(self._model, spoken)))
            benches = {
                dialect: stack.enter_context(self._bench(dialect))
                for dialect in {each.server.dialect for each in self._contenders}
            }
            raw_errors = await raw.errors(self._sessions)  # which warms it up as well
            courses = [_Course(contender, self._plan.turns) for contender in self._contenders]
            before_s = (await raw.slice()).in_turn_s
            while waiting := [course for course in courses if course.next is not None]:
                for course in waiting:
                    load = course.next
                    if load is not None:
                        measured = await self._measure(benches[course.server.dialect], course.server, load)
                        after_s = (await raw.slice()).in_turn_s
                        course.note(Step(measured, (before_s + after_s) / 2, measured.holds(MOST_LAG_S)))
                        self._tell(course.steps[-1])
                        before_s = after_s
            self._sum_up(courses, raw, raw_errors)

    @contextlib.contextmanager
    def _bench(self, dialect: Dialect) -> Iterator[LoadBench]:
        library = [framed(session, self._plan.traffic.frame_ms, dialect) for session in self._sessions]
        with Generators(library, self._plan.generators) as generators:
            yield LoadBench(
                generators,
                self._sessions,
                library,
                self._plan.hangover_left_s,
                self._plan.settle_s,
                self._plan.measured_s,
            )

    async def _measure(self, bench: LoadBench, server: MeasuredServer, load: int) -> Measured:
        self._say(f"{server.name}: {load} speakers")
        return await bench.put(server, talkers(load, bench.library, seed=load))

    def _tell(self, step: Step) -> None:
        self.steps.append(step)
        measured = step.measured
        lag = "no answers" if measured.lag is None else f"p95 lag {measured.lag.p95_ms:.0f} ms"
        self._say(f"{measured.server}: {measured.talkers} speakers, {lag}: {'held' if step.held else 'not held'}")
        self.notes += measured.notes()

    def _sum_up(self, courses: Sequence[_Course], raw: RawEngine, raw_errors: WordErrors) -> None:
        self._add("raw engine, one speaker after the other: CPU per second of audio", raw.cost.one_by_one_s, "s")
        self._add(f"raw engine: speakers on {raw.cores} cores (cores ÷ that)", raw.speakers, "")
        self._add(f"raw engine, {TOGETHER} speakers in turn: CPU per second of audio", raw.cost.in_turn_s, "s")
        self._add("raw engine: word error rate on the same sessions", 100 * raw_errors.rate, "%")
        for place, course in enumerate(courses):
            ours = place == 0
            name = course.server.name
            if course.limit is not None:
                self._add(f"{name}: speakers held", course.limit, "")
                of_raw = LEAST_OF_RAW if ours and self._plan.traffic.kind is Kind.CONTINUOUS else None
                self._add(f"{name}: of the raw engine's speakers", course.limit / raw.speakers, "", at_least=of_raw)
            for step in course.worth_telling():
                self._describe(step, ours)
            self._compare_errors(course, raw_errors, ours)
        self._compare(courses)

    def _compare(self, courses: Sequence[_Course]) -> None:
        limits = [course.limit for course in courses]
        if len(limits) > 1 and limits[0] is not None and limits[1]:
            least = LEAST_TIMES_PEER[self._plan.traffic.kind]
            names = [course.server.name for course in courses]
            self._add(f"speakers of {names[0]} to those of {names[1]}", limits[0] / limits[1], "×", at_least=least)

    def _describe(self, step: Step, ours: bool) -> None:
        measured, usage = step.measured, step.measured.usage
        label = f"{measured.server}, {measured.talkers} speakers"
        if measured.lag is not None:
            self._add(f"{label}: lag, p95", measured.lag.p95_ms, "ms")
        if usage is not None:
            self._add(f"{label}: memory", usage.resident_mb, "MB", MOST_MB.get(measured.talkers) if ours else None)
        if step.times_raw is not None:
            most = MOST_TIMES_RAW_CPU if ours and self._plan.traffic.kind is Kind.CONTINUOUS else None
            self._add(f"{label}: CPU to the raw engine's", step.times_raw, "×", most)

    def _compare_errors(self, course: _Course, raw_errors: WordErrors, ours: bool) -> None:
        errors = total(step.measured.errors for step in course.steps if step.held)
        if errors.words:
            self._add(f"{course.server.name}: word error rate, {errors.words} words", 100 * errors.rate, "%")
        if errors.words >= ENOUGH_WORDS:
            worse = 100 * (errors.rate - raw_errors.rate)
            most = MOST_WORSE_POINTS if ours else None
            self._add(f"{course.server.name}: word error rate above the raw engine's", worse, "points", most)

    def _add(
        self, name: str, value: float, unit: str, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        self.figures.append(Figure(name, value, unit, at_most, at_least))

    def measurements(self) -> list[dict[str, object]]:
        """Every load that was measured, for the saved file."""
        return [as_record(step) for step in self.steps]


class _Course:
    """One server's loads, and its limit in the end."""

    def __init__(self, contender: Contender, turns: int) -> None:
        self.server = contender.server
        self.steps: list[Step] = []
        self._loads = list(contender.loads)
        self._search = None if contender.loads else LimitSearch(contender.first, turns=turns)

    @property
    def next(self) -> int | None:
        if self._search is not None:
            return self._search.next
        return self._loads[0] if self._loads else None

    @property
    def limit(self) -> float | None:
        """None where it was not looked for."""
        return None if self._search is None else self._search.limit

    def note(self, step: Step) -> None:
        self.steps.append(step)
        if self._search is not None:
            self._search.note(step.held)
        else:
            del self._loads[0]

    def worth_telling(self) -> list[Step]:
        """All loads that were asked for; of a search, the last of the largest that was held."""
        if self._search is None:
            return self.steps
        held = [step for step in self.steps if step.held]
        return [max(reversed(held), key=lambda step: step.measured.talkers)] if held else []


def as_record(step: Step) -> dict[str, object]:
    """The step as JSON takes it."""
    measured = step.measured
    return {
        "server": measured.server,
        "speakers": measured.talkers,
        "held": step.held,
        "lag": None if measured.lag is None else attrs.asdict(measured.lag),
        "last_words": None if measured.last_words is None else attrs.asdict(measured.last_words),
        "words": measured.errors.words,
        "word_errors": measured.errors.errors,
        "unanswered": measured.unanswered,
        "refused": measured.refused,
        "dropped": measured.dropped,
        "usage": None if measured.usage is None else attrs.asdict(measured.usage),
        "raw_cpu_s": step.raw_cpu_s,
        "times_raw": step.times_raw,
        "generator_cpu_s": measured.generator_s,
        "generator_cores": measured.generator_cores,
        "generator_microseconds_a_message": measured.microseconds_a_message,
        "late_p99_ms": 1000 * measured.late_p99_s,
        "other_processes_cores": measured.others_cores,
    }
