"""Speech of which every block of samples is a word of its own, and an engine that hears these words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tests.unit.fakes import LOUD, CountingRecogniser, FakeEngine
from trio_stt.recognition.engine import HeardWord

BLOCK = 320
"""Samples of a word: 20 ms at 16 kHz."""

_LABELS = 24_000
"""So many blocks can be told apart: their sample values begin at `LOUD`."""


def spoken(first: int, blocks: int) -> np.ndarray:
    """Loud sound of that many blocks, the first of which has that number."""
    numbers = np.arange(first, first + blocks) % _LABELS
    return np.repeat((LOUD + numbers).astype("<i2"), BLOCK)


def word_of(block: int) -> str:
    """What the engine hears in that block, or in a part of it."""
    return f"b{block % _LABELS}"


class BlockRecogniser:
    """Names the blocks that it is given, or parts of them, in order."""

    def __init__(self) -> None:
        self._heard: list[np.ndarray] = []

    def accept(self, samples: np.ndarray) -> None:
        self._heard.append(samples)

    def partial(self) -> str:
        return " ".join(word.text for word in self._words())

    def finish(self) -> tuple[HeardWord, ...]:
        words, self._heard = tuple(self._words()), []
        return words

    def forget(self) -> None:
        self._heard = []

    def _words(self) -> list[HeardWord]:
        if not self._heard:
            return []
        samples = np.concatenate(self._heard)
        edges = [0, *(np.flatnonzero(np.diff(samples)) + 1).tolist(), len(samples)]
        return [
            HeardWord(word_of(int(samples[start]) - LOUD), start, end, 1.0)
            for start, end in pairwise(edges)
            if start < end and samples[start] >= LOUD
        ]


class BlockEngine(FakeEngine):
    """An `Engine` of such recognisers; where the sound was resampled, which no label survives, of others."""

    def __init__(self, *, labelled: bool) -> None:
        super().__init__()
        self._labelled = labelled

    def open(self):
        return BlockRecogniser() if self._labelled else CountingRecogniser(self)

    def close(self, recogniser):
        pass
