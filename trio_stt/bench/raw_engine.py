"""What the processor can do at most: the engine alone on all cores, measured again and again while servers are."""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from trio_stt.bench.engine_process import EngineProcess, Slice
from trio_stt.bench.speech import Clip
from trio_stt.bench.word_errors import WordErrors

SLICE_S = 2.0
"""Length of one measurement: the machine's speed drifts, so many short ones say more than one long one."""


class RawEngine:
    """Decodes on all cores at once, in slices of time between other measurements."""

    def __init__(self, process: EngineProcess) -> None:
        self.cores = len(os.sched_getaffinity(0))
        self._process = process
        self._slices: list[Slice] = []

    @property
    def cpu_s(self) -> float:
        """Processor seconds for each second of audio, over all slices so far."""
        return sum(each.cpu_s for each in self._slices) / sum(each.audio_s for each in self._slices)

    @property
    def speakers(self) -> float:
        """Real-time speakers whom all cores could serve if they did nothing but decode."""
        return self.cores / self.cpu_s

    async def slice(self) -> float:
        """Measures one more slice; its processor seconds for each second of audio. Raises `EngineError`."""
        measured = await trio.to_thread.run_sync(self._process.decode_for, SLICE_S, self.cores)
        self._slices.append(measured)
        return measured.cpu_s / measured.audio_s

    async def errors(self, sessions: Sequence[Clip]) -> WordErrors:
        """Decodes `sessions` (16 kHz), a new recogniser for each. Raises `EngineError`."""
        decoded = await trio.to_thread.run_sync(lambda: self._process.decode(fresh=True, clips=sessions))
        return decoded.errors
