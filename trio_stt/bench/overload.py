"""More speakers than a server can serve: what becomes of those who were let in, and how the others are told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from trio_stt.bench.figures import Figure, percentiles
from trio_stt.bench.measured_load import LoadBench, Measured
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.robust_measures import jain_index
from trio_stt.bench.stream_lag import Answered
from trio_stt.bench.traffic import talkers

GOOD_S = 1.0
"""Audio whose caption came within this is goodput."""

LEAST_GOODPUT = 0.95
"""Of the goodput at the load that the server is meant for."""
MOST_P99_S = 1.0
MOST_REFUSAL_MS = 50.0
LEAST_JAIN = 0.95


@frozen
class Overload:
    """What became of one load. `goodput` is in seconds of audio for each second; `jain` is None with nobody let in."""

    times: float
    offered: int
    admitted: int
    goodput: float
    lag_p99_s: float
    refusals: int
    refusal_p99_s: float | None
    jain: float | None
    dropped: int


class OverloadBench:
    """Puts once, twice, four times its capacity on a server; gathers `figures` and `notes`."""

    def __init__(
        self,
        bench: LoadBench,
        server: MeasuredServer,
        capacity: int,
        times: Sequence[float],
        say: Callable[[str], None],
    ) -> None:
        """`capacity`: the speakers that the server is meant for."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.loads: list[Overload] = []
        self._bench = bench
        self._server = server
        self._capacity = capacity
        self._times = times
        self._say = say

    async def run(self) -> None:
        """Measures all loads. Raises `GeneratorError`, `OSError`. May be cancelled."""
        for times in self._times:
            count = round(self._capacity * times)
            self._say(f"{self._server.name}: {count} speakers, {times:g} × its capacity")
            measured = await self._bench.put(self._server, talkers(count, self._bench.library, seed=count))
            self.notes += measured.notes()
            self.loads.append(judge(times, measured, self._bench.measured_s))
        for load in self.loads:
            self._describe(load)

    def _describe(self, load: Overload) -> None:
        label = f"{load.times:g} × ({load.offered} speakers)"
        first = self.loads[0]
        add = self.figures.append
        add(Figure(f"{label}: let in", load.admitted, "speakers"))
        add(Figure(f"{label}: goodput, audio a second", load.goodput, "s"))
        if load is not first and first.goodput:
            of_first = load.goodput / first.goodput
            add(Figure(f"{label}: goodput to that of {first.times:g} ×", of_first, "", at_least=LEAST_GOODPUT))
        add(Figure(f"{label}: lag of those let in, p99", 1000 * load.lag_p99_s, "ms", 1000 * MOST_P99_S))
        add(Figure(f"{label}: refusals", load.refusals, ""))
        if load.refusal_p99_s is not None:
            add(Figure(f"{label}: refused within, p99", 1000 * load.refusal_p99_s, "ms", MOST_REFUSAL_MS))
        if load.jain is not None:
            add(Figure(f"{label}: Jain's index over those let in", load.jain, "", at_least=LEAST_JAIN))
        add(Figure(f"{label}: dropped after they were let in", load.dropped, "", 0))


def judge(times: float, measured: Measured, seconds: float) -> Overload:
    """What the connections of a load of `times` the capacity tell, over `seconds`."""
    connections = measured.result.connections
    refusal_s = [each.answered_at - each.began_at for each in connections if each.refused and each.answered_at]
    shares = good_shares(measured.found)
    return Overload(
        times=times,
        offered=measured.talkers,
        admitted=len({each.talker for each in connections if each.accepted}),
        goodput=sum(each.audio_s for each in measured.found if _is_good(each)) / seconds,
        lag_p99_s=0.0 if measured.lag is None else measured.lag.p99_ms / 1000,
        refusals=len(refusal_s),
        refusal_p99_s=percentiles(refusal_s).p99_ms / 1000 if refusal_s else None,
        jain=jain_index(list(shares.values())) if shares else None,
        dropped=measured.dropped,
    )


def good_shares(found: Sequence[Answered]) -> Mapping[int, float]:
    """For each talker: how much of its audio had its caption in time (see `GOOD_S`), from 0 to 1."""
    audio_s: defaultdict[int, float] = defaultdict(float)
    good_s: defaultdict[int, float] = defaultdict(float)
    for each in found:
        audio_s[each.talker] += each.audio_s
        good_s[each.talker] += each.audio_s if _is_good(each) else 0.0
    return {talker: good_s[talker] / seconds for talker, seconds in audio_s.items() if seconds}


def _is_good(answered: Answered) -> bool:
    return answered.answered and answered.lag_s <= GOOD_S
