"""What one client that misbehaves does to the others: their lag alone beside their lag in its company, in pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from trio_stt.bench.figures import Figure
from trio_stt.bench.generator.load import FramedSession, Talker
from trio_stt.bench.generator.websocket_bytes import TEXT, masked_frame
from trio_stt.bench.measured_load import LoadBench, Measured
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.speech import Clip
from trio_stt.bench.spoken_sessions import silent_session
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import framed, talkers

HURRY = 10.0
"""So many times faster than real time sends the hasty one."""

MOST_RATIO = 1.2
MOST_MORE_MS = 30.0
"""The others' p99 lag may rise to `MOST_RATIO` times, or by this, whichever is more."""

LONG_S = 300.0
"""Audio of the misbehaving ones' sessions."""

DEAF_FRAME_MS = 10
"""The one that never reads asks for as many answers as it can, so that whatever holds them fills within the run."""


class NeighboursBench:
    """Measures rounds of alone, hasty, deaf, silent; gathers `figures` and `notes`."""

    def __init__(
        self,
        bench: LoadBench,
        offenders: Mapping[str, Talker],
        server: MeasuredServer,
        speakers: int,
        rounds: int,
        say: Callable[[str], None],
    ) -> None:
        """`bench`'s library holds the others' sessions first, then what the `offenders` say."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.measured: list[dict[str, object]] = []
        self._bench = bench
        self._offenders = offenders
        self._server = server
        self._speakers = speakers
        self._rounds = rounds
        self._say = say

    async def run(self) -> None:
        """Measures all rounds. Raises `GeneratorError`, `OSError`. May be cancelled."""
        lags_ms: dict[str, list[float]] = {name: [] for name in ("alone", *self._offenders)}
        ordinary = range(len(self._bench.library) - len(self._offenders))
        for number in range(self._rounds):
            others = talkers(self._speakers, [self._bench.library[place] for place in ordinary], seed=number)
            for name in lags_ms:
                self._say(f"Round {number + 1} of {self._rounds}: {self._speakers} speakers, {name}")
                company = (self._offenders[name],) if name in self._offenders else ()
                measured = await self._bench.put(self._server, (*others, *company), counted=len(others))
                self.notes += measured.notes()
                lags_ms[name].append(self._p99_ms(measured))
                self.measured.append({"round": number, "beside": name, "lag_p99_ms": lags_ms[name][-1]})
        for name in self._offenders:
            self._compare(name, lags_ms["alone"], lags_ms[name])

    def _p99_ms(self, measured: Measured) -> float:
        if measured.dropped or measured.refused:
            self.notes.append(f"{measured.dropped} speakers were dropped and {measured.refused} refused.")
        return float("inf") if measured.lag is None else measured.lag.p99_ms

    def _compare(self, name: str, alone_ms: Sequence[float], beside_ms: Sequence[float]) -> None:
        usual_ms = median(alone_ms)
        more_ms = median(there - here for here, there in zip(alone_ms, beside_ms, strict=True))
        most_ms = max(MOST_MORE_MS, (MOST_RATIO - 1) * usual_ms)
        add = self.figures.append
        add(Figure(f"the others' p99 lag beside {name}", median(beside_ms), "ms"))
        add(Figure(f"beside {name}: above that alone, median of {len(alone_ms)} pairs", more_ms, "ms", most_ms))
        add(Figure(f"alone, in the same rounds as {name}", usual_ms, "ms"))


def offending_sessions(speech: Clip, frame_ms: int, dialect: Dialect) -> list[FramedSession]:
    """What the hasty, the deaf and the silent one say, in the order of `offenders`."""
    return [
        framed(speech, frame_ms, dialect),
        framed(speech, DEAF_FRAME_MS, dialect),
        framed(silent_session(LONG_S), frame_ms, dialect),
    ]


def offenders(first: int, dialect: Dialect) -> dict[str, Talker]:
    """The misbehaving clients, by name; `first` is the place of `offending_sessions` in the library."""
    ping = masked_frame(TEXT, json.dumps({"type": "ping", "id": "x" * 128}).encode())
    return {
        f"one that sends {HURRY:g} times too fast": Talker((first,), pace=HURRY),
        "one that never reads": Talker((first + 1,), reads=False, beside=ping if dialect is Dialect.NATIVE else b""),
        "one that sends silence": Talker((first + 2,)),
    }
