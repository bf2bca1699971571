"""What the processor can do at most: the engine alone on all cores, measured again and again while servers are."""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio
from attrs import frozen

from trio_stt.bench.engine_process import EngineProcess, Slice
from trio_stt.bench.speech import Clip
from trio_stt.bench.word_errors import WordErrors

SLICE_S = 2.0
"""Length of one measurement: the machine's speed drifts, so many short ones say more than one long one."""

TOGETHER = 10
"""Speakers whom a core decodes in turn where it does as a server has to: each call then finds the caches cold."""


@frozen
class RawCost:
    """Processor seconds for each second of audio, one speaker after the other and `TOGETHER` in turn on each core."""

    one_by_one_s: float
    in_turn_s: float


class RawEngine:
    """Decodes on all cores at once, in slices of time between other measurements."""

    def __init__(self, process: EngineProcess) -> None:
        self.cores = len(os.sched_getaffinity(0))
        self._process = process
        self._one_by_one: list[Slice] = []
        self._in_turn: list[Slice] = []

    @property
    def cost(self) -> RawCost:
        """Over all slices so far."""
        return RawCost(_cost_s(self._one_by_one), _cost_s(self._in_turn))

    @property
    def speakers(self) -> float:
        """Real-time speakers whom all cores could serve if they did nothing but decode, one after the other."""
        return self.cores / self.cost.one_by_one_s

    async def slice(self) -> RawCost:
        """Measures one more slice of both kinds. Raises `EngineError`."""
        for slices, together in ((self._one_by_one, 1), (self._in_turn, TOGETHER)):
            decode_for = self._process.decode_for
            slices.append(await trio.to_thread.run_sync(decode_for, SLICE_S, self.cores, together))
        return RawCost(_cost_s(self._one_by_one[-1:]), _cost_s(self._in_turn[-1:]))

    async def errors(self, sessions: Sequence[Clip]) -> WordErrors:
        """Decodes `sessions` (16 kHz), a new recogniser for each. Raises `EngineError`."""
        decoded = await trio.to_thread.run_sync(lambda: self._process.decode(fresh=True, clips=sessions))
        return decoded.errors


def _cost_s(slices: Sequence[Slice]) -> float:
    return sum(each.cpu_s for each in slices) / sum(each.audio_s for each in slices)
