"""What decoding costs on this machine: core-seconds for each second of speech, measured in CPU time of the thread.

Noise would be no measure: white noise and silence cost the small English model about a quarter less than speech,
three voices at once twice as much. The canned speech (``calibration_speech.wav``: two sentences of synthetic speech,
by Kokoro, an Apache-2.0 model) costs it what recorded speech does, within what two measurements differ by. To a model
of another language it is unlikely speech, which may cost more: then fewer speakers are let in until their own cost
has been seen.
"""

from __future__ import annotations

import time
import wave
from importlib import resources
from typing import Final

import numpy as np

from trio_stt.recognition.decoders import MAX_CHUNK_MS
from trio_stt.recognition.engine import SAMPLE_RATE, Engine, Recogniser, Samples

ASSUMED_COST: Final = 0.04
"""Core-seconds a second that are assumed until they are measured: the small English model, compiled, on an old core."""

ASSUMED_SHIPPED_COST: Final = 0.16
"""The same while the graph is composed in decoding: what the small English model took with new recognisers."""

LEAST_COST: Final = 0.001
"""Nothing decodes faster; a smaller figure would be no measurement."""

SPEAKERS: Final = 8
"""Recognisers that take turns, so that each finds the caches as cold as it will in service."""

PARTIAL_EVERY: Final = 2
"""Calls to a partial, as with larger chunks."""

ENOUGH_S: Final = 0.8
"""CPU time after which what was measured is enough, in s."""

_CHUNK: Final = MAX_CHUNK_MS * SAMPLE_RATE // 1000


def canned_speech() -> Samples:
    """The speech that calibration decodes: 9.2 s."""
    with (
        resources.files(__package__).joinpath("calibration_speech.wav").open("rb") as file,
        wave.open(file) as sound,
    ):
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.int16)


class Measurement:
    """Decodes canned speech step by step, by recognisers that take turns, and adds up the CPU time of that.

    Each recogniser hears all of `speech`, from another place on, or until `ENOUGH_S` is spent.
    """

    def __init__(self, engine: Engine, speech: Samples) -> None:
        self._engine = engine
        self._speech = speech
        # A pooled recogniser is large and stays: one is enough there.
        self._count = SPEAKERS if engine.recogniser_limit is None else 1
        self._recognisers: list[Recogniser] = []
        self._steps = iter(range(0, len(speech), _CHUNK))
        self._spent_s = 0.0
        self._costs: list[float] = []

    @property
    def decode_cost(self) -> float:
        """Core-seconds for each second of unbroken speech: in 95 of 100 steps no more. Call it after the last step."""
        return max(LEAST_COST, float(np.quantile(self._costs, 0.95)))

    def step(self) -> bool:
        """Gives each recogniser a chunk, or at the end takes its final; returns whether there is more to do.

        Blocks for about a tenth of a second. Raises `EngineError`.
        """
        if not self._recognisers:
            self._recognisers = [self._engine.open() for _ in range(self._count)]
        start = next(self._steps, None) if self._spent_s < ENOUGH_S else None
        began, heard = time.thread_time(), 0
        for number, recogniser in enumerate(self._recognisers):
            if start is None:
                recogniser.finish()
            else:
                heard += self._accept(recogniser, start + number * len(self._speech) // self._count)
                if start // _CHUNK % PARTIAL_EVERY == 0:
                    recogniser.partial()
        spent_s = time.thread_time() - began
        self._spent_s += spent_s
        if heard:
            self._costs.append(spent_s * SAMPLE_RATE / heard)
        else:
            while self._recognisers:
                self._engine.close(self._recognisers.pop())
        return start is not None

    def _accept(self, recogniser: Recogniser, start: int) -> int:
        start %= len(self._speech)
        chunk = self._speech[start : start + _CHUNK]
        recogniser.accept(chunk)
        return len(chunk)
