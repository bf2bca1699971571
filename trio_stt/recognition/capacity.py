"""How many streams the instance can serve, and how much of that is used: in core-seconds a second, never in wall time.

Each stream counts with what its decoding costs: at first what is expected of its kind, then more and more what was
measured. So a hundred people in conversation, who speak by turns, may be let in where sixty who never pause may not;
and a crowd that comes at one moment is counted before it has shown its load. No clock and no event loop: times are
passed in.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import define, frozen

REST_SHARE: Final = 1 / 7
"""What the process does besides decoding, as a share of that, until it is measured: with a `max_load` of 0.8, the usual
0.7 of the cores may decode."""

LOOP_COST: Final = 0.01
"""Core-seconds a second that the event loop's thread spends on a stream, until it is measured: 0.0075 to 0.011 were."""

SETTLE_S: Final = 2.0
"""A stream's first seconds say nothing of its cost: there is little to decode before its speaker has said something."""

STREAM_PRIOR_S: Final = 10.0
"""A stream's expected cost weighs as much as so many seconds of its measured one. Not less: the same speech costs a
recogniser a fifth to a third more after half a minute than in its first seconds."""

STREAM_MEMORY_S: Final = 20.0
"""A stream's measured cost is forgotten with this time constant: some turns of a conversation."""

KIND_PRIOR_S: Final = 600.0
"""What is assumed of a kind of stream weighs as much as so many stream-seconds of what was measured: ten streams for a
minute."""

KIND_MEMORY_S: Final = 300.0
"""What was measured of a kind of stream is forgotten with this time constant."""

LATE_S: Final = 0.25
"""Recogniser calls that begin so late, on average, show that there is less capacity than was thought."""

PUNCTUAL_S: Final = 0.05
"""Recogniser calls that begin no later than this let a capacity that was lowered grow again."""

MOST_PACE: Final = 1.25
"""Audio that is decoded before it is due counts up to so many times real time: for clocks that are fast, and for the
ends of utterances, which take longer than their audio. More is done with cores that nobody else asked for, and stops
when somebody does (`trio_stt.recognition.schedule`): it is no reason to do less for the others, or to refuse any."""

MOST_CREDIT_S: Final = 2.0
"""So much of that may come at one moment: some longest chunks."""

PEAK_MEMORY_S: Final = 10.0
LOWER_BY: Final = 0.05
RAISE_BY_PER_S: Final = 0.002
LEAST_FACTOR: Final = 0.3
"""When late, capacity falls to 5 % below the most that was used in the last 10 s or so, by what the streams count for
and took besides, or by the CPU time that was really had, whichever is less, and to 30 % at least; when punctual it
grows by 0.2 % a second. So slow that it is found again where it was lost, not passed at once: else it would swing."""

_ROUNDING: Final = 1e-9  # no stream that just fits is kept out by arithmetic


@frozen
class CpuTimes:
    """CPU seconds used so far, by the whole process and by the event loop's thread."""

    process_s: float
    loop_s: float


@define
class _Rate:
    """Core-seconds a second, from a prior and from what was measured, which is forgotten by and by."""

    prior: float
    prior_s: float
    memory_s: float
    cpu_s: float = 0.0
    seconds: float = 0.0

    @property
    def value(self) -> float:
        return (self.prior * self.prior_s + self.cpu_s) / (self.prior_s + self.seconds)

    def add(self, cpu_s: float, seconds: float, *, elapsed_s: float) -> None:
        kept = math.exp(-elapsed_s / self.memory_s)
        self.cpu_s = self.cpu_s * kept + cpu_s
        self.seconds = self.seconds * kept + seconds


@frozen
class _Kind:
    """Streams that are expected to cost the same: by language, and by whether silence is decoded too."""

    language: str  # "": all whose cost was not measured by itself
    continuous: bool


@define
class _Stream:
    kind: _Kind
    cost: _Rate
    counted: float  # what the sum of all streams has of it
    age_s: float = 0.0
    fresh_cpu_s: float = 0.0  # since the last look
    credit_s: float = MOST_CREDIT_S  # audio that may be decoded before it is due and counts


class Capacity:
    """The streams that are in, what they cost, and whether one more fits. Used on the event loop only."""

    def __init__(self, cores: float, decode_cost: float, *, max_load: float) -> None:
        """`decode_cost`: core-seconds of decoding for a second of unbroken speech, as far as known yet.

        `max_load`: share of the cores that the whole process may use, and of one core that the event loop's thread may,
        by what is measured under load.
        """
        self._max_load = max_load
        self._budget = self._lasting_budget = cores * max_load
        self._loop_budget = max_load  # the event loop has one core: where there are many, it is the first to be busy
        self._streams: dict[str, _Stream] = {}
        self._costs: dict[str, float] = {}  # by language, where it was measured
        self._decoding = 0.0  # the sum of all streams' `counted`
        self._factor = 1.0
        self._peak = 0.0  # the most that streams counted for lately, and took besides, as a share of all
        self._busiest = 0.0  # the most CPU time that was really had lately, as a share of all
        self._looked_at: float | None = None
        self._cpu = CpuTimes(0.0, 0.0)
        self._fresh_cpu_s = 0.0  # since the last look; of streams that are over too
        self._spare_cpu_s = 0.0  # what of it does not count
        self.calibrate(decode_cost)

    def set_cores(self, cores: float, lasting: float) -> None:
        """The instance has more or fewer cores from now on; newcomers are let in for the lasting ones."""
        self._budget = cores * self._max_load
        self._lasting_budget = lasting * self._max_load

    def calibrate(self, decode_cost: float) -> None:
        """The cost of decoding was measured: what was expected of newcomers before is forgotten."""
        self.decode_cost = decode_cost
        rest = decode_cost * REST_SHARE
        # What gated streams cost is learnt: their speakers may not pause either.
        self._kinds: dict[_Kind, _Rate] = {}
        self._rest = _Rate(rest, KIND_PRIOR_S, KIND_MEMORY_S)
        self._loop = _Rate(LOOP_COST, KIND_PRIOR_S, KIND_MEMORY_S)

    def calibrate_language(self, language: str, decode_cost: float) -> None:
        """The cost of decoding a language by a model of its own was measured."""
        self._costs[language] = decode_cost
        for kind in [kind for kind in self._kinds if kind.language == language]:
            del self._kinds[kind]

    @property
    def calibrated_streams(self) -> int:
        """Streams of unbroken speech that fit, by the calibration alone; at least one."""
        return self.streams_at(self.decode_cost)

    def streams_at(self, decode_cost: float) -> int:
        """Streams of unbroken speech that would fit if decoding cost that; at least one."""
        return max(1, math.floor(self._lasting_budget / (decode_cost * (1 + REST_SHARE)) + _ROUNDING))

    @property
    def load(self) -> float:
        """Used share of the capacity; 1 is all."""
        return self._load_of(self._budget)

    def _load_of(self, budget: float) -> float:
        count = len(self._streams)
        cpu = (self._decoding + count * self._rest.value) / budget
        return max(cpu, count * self._loop.value / self._loop_budget) / self._factor

    @property
    def factor(self) -> float:
        """What lateness has left of the capacity; 1 is all."""
        return self._factor

    def room(self, *, continuous: bool = False, language: str = "") -> int:
        """How many more streams of that kind fit now. `continuous`: decoded without a speech gate."""
        each = self._expected(self._kind(language, continuous)).value + self._rest.value
        budget = self._lasting_budget
        share = max(each / budget, self._loop.value / self._loop_budget) / self._factor
        fitting = max(0, math.floor((1 - self._load_of(budget)) / share + _ROUNDING))
        return fitting if self._streams else max(1, fitting)

    def enter(self, stream_id: str, *, continuous: bool = False, language: str = "") -> None:
        """A stream was let in: it counts from now on with what is expected of its kind."""
        kind = self._kind(language, continuous)
        expected = self._expected(kind).value
        self._streams[stream_id] = _Stream(kind, _Rate(expected, STREAM_PRIOR_S, STREAM_MEMORY_S), expected)
        self._decoding += expected

    def change_language(self, stream_id: str, language: str) -> None:
        """A stream is decoded by another model from now on: what was measured of it says nothing any more.

        Does nothing to a stream that is over.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            self.leave(stream_id)
            self.enter(stream_id, continuous=stream.kind.continuous, language=language)

    def _kind(self, language: str, continuous: bool) -> _Kind:
        return _Kind(language if language in self._costs else "", continuous)

    def _expected(self, kind: _Kind) -> _Rate:
        if kind not in self._kinds:
            cost = self._costs.get(kind.language, self.decode_cost)
            self._kinds[kind] = _Rate(cost, KIND_PRIOR_S, KIND_MEMORY_S)
        return self._kinds[kind]

    def leave(self, stream_id: str) -> None:
        """A stream is over."""
        self._decoding -= self._streams.pop(stream_id).counted

    def spent(self, stream_id: str, cpu_s: float, ahead_s: float = 0.0) -> None:
        """A recogniser call of that stream took so much CPU time. A stream that is over is not counted.

        `ahead_s`: seconds of audio that it decoded before they were due, see `MOST_PACE`; 0: it was due.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            counted_s = min(ahead_s, stream.credit_s)
            stream.credit_s -= counted_s
            counted = cpu_s * (counted_s / ahead_s if ahead_s else 1.0)
            stream.fresh_cpu_s += counted
            self._fresh_cpu_s += cpu_s
            self._spare_cpu_s += cpu_s - counted

    def look(self, now: float, cpu: CpuTimes, *, delay_s: float) -> None:
        """Takes what was measured since the last look, about once a second. `delay_s`: how late calls begin."""
        elapsed_s = 0.0 if self._looked_at is None else now - self._looked_at
        if elapsed_s > 0:
            used = CpuTimes(cpu.process_s - self._cpu.process_s, cpu.loop_s - self._cpu.loop_s)
            self._learn(elapsed_s, used)
            self._correct(elapsed_s, used, delay_s)
        self._looked_at = now
        self._cpu = cpu

    def _learn(self, elapsed_s: float, used: CpuTimes) -> None:
        for kind, rate in self._kinds.items():
            settled = [one for one in self._streams.values() if one.kind == kind and one.age_s >= SETTLE_S]
            cpu_s = sum(stream.fresh_cpu_s for stream in settled)
            rate.add(cpu_s, len(settled) * elapsed_s, elapsed_s=elapsed_s)
        for stream in self._streams.values():
            if stream.age_s >= SETTLE_S:
                stream.cost.add(stream.fresh_cpu_s, elapsed_s, elapsed_s=elapsed_s)
            stream.cost.prior = self._expected(stream.kind).value
            stream.counted = stream.cost.value
            stream.age_s += elapsed_s
            stream.fresh_cpu_s = 0.0
            stream.credit_s = min(stream.credit_s + MOST_PACE * elapsed_s, MOST_CREDIT_S)
        self._decoding = sum(stream.counted for stream in self._streams.values())
        rest_s = max(0.0, used.process_s - self._fresh_cpu_s)
        self._fresh_cpu_s = 0.0
        if self._streams:
            stream_s = len(self._streams) * elapsed_s
            self._rest.add(rest_s, stream_s, elapsed_s=elapsed_s)
            self._loop.add(used.loop_s, stream_s, elapsed_s=elapsed_s)

    def _correct(self, elapsed_s: float, used: CpuTimes, delay_s: float) -> None:
        kept = math.exp(-elapsed_s / PEAK_MEMORY_S)
        spare = self._spare_cpu_s / elapsed_s / self._budget
        self._spare_cpu_s = 0.0
        self._peak = max(self.load * self._factor + spare, self._peak * kept)
        self._busiest = max(used.process_s / elapsed_s / self._budget, self._busiest * kept)
        if delay_s >= LATE_S:
            # Who is late uses all that there is: where others have the cores, that is less than was counted on.
            there_is = min(self._peak, self._busiest)
            self._factor = max(LEAST_FACTOR, min(self._factor, there_is * (1 - LOWER_BY)))
        elif delay_s <= PUNCTUAL_S:
            self._factor = min(1.0, self._factor + RAISE_BY_PER_S * elapsed_s)
