"""Speakers come and go for long: what a server's memory does meanwhile."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import trio
from attrs import evolve

from trio_stt.bench.figures import Figure
from trio_stt.bench.generator.load import Talker
from trio_stt.bench.measured_load import LoadBench
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.robust_measures import theil_sen_slope
from trio_stt.bench.traffic import talkers

MOST_MB_AN_HOUR = 4.0

COUNTED_SHARE = 0.75
"""Of the run, at its end: the memory that a server takes once is not what is looked for."""

VANISHING_SHARE = 0.2
"""So many sessions end without a goodbye."""

PART_S = 60.0
"""The load is put on in parts of this length, so that the generator's own memory stays small."""

COME_WITHIN_S = 8.0
"""At a part's begin the speakers come within so many seconds: a server that all call at once refuses some."""

LEAST_PARTS = 4

REST_S = 3.0
"""Between the end of a part and the reading of memory: three times what the allocator keeps freed pages for. Under load
memory goes up and down with who speaks at the moment, by tens of MB; at rest it shows what stays."""


class ChurnBench:
    """Lets speakers come and go; gathers `figures` and `notes`, and the `readings` of memory."""

    def __init__(
        self, bench: LoadBench, server: MeasuredServer, speakers: int, minutes: float, say: Callable[[str], None]
    ) -> None:
        """`bench` measures parts; how long one is, is its own affair. `server` must be on this machine."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.readings: list[tuple[float, float]] = []
        """Seconds since the begin, and the server's memory in MB, at rest after each part."""
        self._most_mb = 0.0
        self._bench = bench
        self._server = server
        self._speakers = speakers
        self._seconds = minutes * 60
        self._say = say

    async def run(self) -> None:
        """Measures. Raises `GeneratorError`, `OSError`. May be cancelled."""
        began_at = time.monotonic()
        sessions = failed = part = 0
        while part < LEAST_PARTS or time.monotonic() - began_at < self._seconds:
            coming = talkers(self._speakers, self._bench.library, seed=part, within_s=COME_WITHIN_S)
            plan = [_vanishing(talker, part) for talker in coming]
            measured = await self._bench.put(self._server, plan)
            await trio.sleep(REST_S)
            now_s, at_rest_mb = time.monotonic() - began_at, self._server.resident_mb()
            if measured.usage is not None and at_rest_mb is not None:
                self.readings.append((now_s, at_rest_mb))
                self._most_mb = max(self._most_mb, measured.usage.resident_mb)
                most = f"{measured.usage.resident_mb:.0f} MB at most"
                self._say(f"{now_s / 60:.1f} minutes: {most}, {at_rest_mb:.0f} MB at rest")
            self.notes += measured.notes()
            sessions += len(measured.result.connections)
            failed += measured.dropped + measured.refused
            part += 1
        self._sum_up(sessions, failed)

    def _sum_up(self, sessions: int, failed: int) -> None:
        first = math.floor(len(self.readings) * (1 - COUNTED_SHARE))
        counted = self.readings[first:]
        slope = theil_sen_slope([at_s / 3600 for at_s, _ in counted], [mb for _, mb in counted])
        add = self.figures.append
        add(Figure("sessions", sessions, ""))
        add(Figure("sessions that were refused or dropped", failed, "", 0))
        add(Figure("memory, most", self._most_mb, "MB"))
        add(Figure("memory at rest, at the end", self.readings[-1][1], "MB"))
        minutes = (counted[-1][0] - counted[0][0]) / 60
        name = f"slope of memory at rest over the last {minutes:.0f} minutes"
        add(Figure(name, slope, "MB an hour", MOST_MB_AN_HOUR))


def _vanishing(talker: Talker, seed: int) -> Talker:
    dice = random.Random((seed << 16) + talker.sessions[0])
    return evolve(talker, vanishes=tuple(dice.random() < VANISHING_SHARE for _ in range(16)))
