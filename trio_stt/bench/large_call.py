"""What one call does to the others' lag, with many listeners and with translation; and how soon translations come."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median

import trio
from attrs import evolve

from trio_stt.bench.call_members import LAST_S, Members, command
from trio_stt.bench.figures import Figure, percentiles
from trio_stt.bench.generator.process import GeneratorError
from trio_stt.bench.measured_load import LoadBench, Measured
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.traffic import talkers

MOST_MORE_MS = 20.0
"""The others' p95 lag may rise by so much beside a call with many listeners."""

MOST_TRANSLATING_MS = 100.0
"""95 of 100 translations come so soon after their finals."""

CONNECT_TIMEOUT_S = 60.0

CALL_BEGINS_S = 1.0
"""Before the others' load; and it lasts as much longer."""


class LargeCallBench:
    """Measures rounds of alone, beside many listeners, beside translation; gathers `figures` and `notes`."""

    def __init__(
        self,
        bench: LoadBench,
        server: MeasuredServer,
        calls: dict[str, Members],
        speakers: int,
        rounds: int,
        say: Callable[[str], None],
    ) -> None:
        """`calls` by name; `speakers`: the others, in calls of their own."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.measured: list[dict[str, object]] = []
        self._bench = bench
        self._server = server
        self._calls = calls
        self._speakers = speakers
        self._rounds = rounds
        self._say = say
        self._lags_ms: dict[str, list[float]] = {name: [] for name in ("alone", *calls)}
        self._delays_s: list[float] = []
        self._untranslated = 0

    async def run(self) -> None:
        """Measures all rounds. Raises `GeneratorError`, `OSError`. May be cancelled."""
        for number in range(self._rounds):
            others = talkers(self._speakers, self._bench.library, seed=number)
            for name, lags_ms in self._lags_ms.items():
                self._say(f"Round {number + 1} of {self._rounds}: {self._speakers} speakers, {name}")
                if name == "alone":
                    measured = await self._bench.put(self._server, others)
                    self.notes += measured.notes()
                else:
                    async with self._held(evolve(self._calls[name], seed=number)):
                        measured = await self._bench.put(self._server, others)
                lags_ms.append(self._p95_ms(measured))
                self.measured.append({"round": number, "beside": name, "lag_p95_ms": lags_ms[-1]})
        self._sum_up()

    @asynccontextmanager
    async def _held(self, members: Members) -> AsyncIterator[None]:
        """While the block runs the call is held; then it is waited for."""
        seconds = self._bench.settle_s + self._bench.measured_s + 2 * CALL_BEGINS_S
        arguments, asked = command(evolve(members, seconds=seconds))
        process = await trio.lowlevel.open_process(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if process.stdin is None or process.stdout is None:
            raise GeneratorError("the call's process has no pipes")
        try:
            await process.stdin.send_all(asked)
            await process.stdin.aclose()
            said = b""
            with trio.move_on_after(CONNECT_TIMEOUT_S):
                while b"\n" not in said and (piece := await process.stdout.receive_some()):
                    said += piece
            if not said.startswith(b"ready\n"):
                raise GeneratorError("the members of the call could not connect")
            await trio.sleep(CALL_BEGINS_S)
            yield
            with trio.move_on_after(seconds + LAST_S):
                while piece := await process.stdout.receive_some():
                    said += piece
            self._note(members, said.partition(b"\n")[2])
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    def _note(self, members: Members, said: bytes) -> None:
        try:
            heard = json.loads(said)
        except ValueError as error:
            raise GeneratorError("the members of the call did not hold out to its end") from error
        if members.language:
            self._delays_s += heard["delays_s"]
            self._untranslated += heard["untranslated"]

    def _p95_ms(self, measured: Measured) -> float:
        if measured.dropped or measured.refused:
            self.notes.append(f"{measured.dropped} speakers were dropped and {measured.refused} refused.")
        return float("inf") if measured.lag is None else measured.lag.p95_ms

    def _sum_up(self) -> None:
        add = self.figures.append
        alone_ms = self._lags_ms["alone"]
        add(Figure("the others' p95 lag alone", median(alone_ms), "ms"))
        for name, members in self._calls.items():
            more_ms = median(there - here for here, there in zip(alone_ms, self._lags_ms[name], strict=True))
            most_ms = None if members.language else MOST_MORE_MS
            add(Figure(f"beside {name}: above that, median of {len(alone_ms)} pairs", more_ms, "ms", most_ms))
        if self._delays_s:
            seen = percentiles(self._delays_s)
            add(Figure(f"translations after their finals, p50 of {seen.count}", seen.p50_ms, "ms"))
            add(Figure("translations after their finals, p95", seen.p95_ms, "ms", MOST_TRANSLATING_MS))
            add(Figure("finals without a translation", self._untranslated, "", 0))
