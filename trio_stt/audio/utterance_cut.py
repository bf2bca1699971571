"""Where an utterance that is too long is cut, and which words then belong to which of its two finals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from trio_stt.audio.samples import MODEL_RATE, Samples

_LEAST_GAP_SAMPLES = MODEL_RATE * 60 // 1000
"""A shorter gap between words is no more than the closure of a plosive."""

_OPEN_END_SAMPLES = MODEL_RATE * 200 // 1000
"""The newest sound, whose words a recogniser may still move."""

_REACH_SAMPLES = 2 * MODEL_RATE
_QUIET_SAMPLES = MODEL_RATE * 30 // 1000
_QUIET_STEP_SAMPLES = MODEL_RATE * 10 // 1000

_JITTER_SAMPLES = MODEL_RATE * 100 // 1000
"""How far apart two decodings of the same sound, with different beginnings, place the start of the same word."""


class TimedWord(Protocol):
    """A word with its place in model samples."""

    @property
    def text(self) -> str:
        """What was said."""

    @property
    def start(self) -> int:
        """Its first sample."""

    @property
    def end(self) -> int:
        """The sample after its last."""


Word = TypeVar("Word", bound=TimedWord)


def choose_cut(words: Sequence[tuple[int, int]], tail: Samples, tail_start: int) -> int:
    """The position at which to cut an utterance whose newest sound is `tail`, beginning at `tail_start`.

    `words`: (start, end) of the words heard so far. The middle of the widest gap of at least 60 ms between two words
    within the last 2 s, the newest 200 ms left out; without one, the quietest 30 ms of those 2 s.
    """
    now = tail_start + len(tail)
    earliest, latest = max(tail_start, now - _REACH_SAMPLES), now - _OPEN_END_SAMPLES
    gaps = [(max(end, earliest), min(start, latest)) for (_, end), (start, _) in pairwise(words)]
    begin, end = max(gaps, key=lambda gap: gap[1] - gap[0], default=(0, 0))
    if end - begin >= _LEAST_GAP_SAMPLES:
        return (begin + end) // 2
    return earliest + _quietest(tail[earliest - tail_start :])


def _quietest(samples: Samples) -> int:
    """The middle of the quietest 30 ms, in steps of 10 ms; the middle of all where there is less."""
    if len(samples) <= _QUIET_SAMPLES:
        return (len(samples) + 1) // 2
    energy = np.concatenate(([0.0], np.cumsum(samples.astype(np.float64) ** 2)))
    begins = np.arange(0, len(samples) - _QUIET_SAMPLES, _QUIET_STEP_SAMPLES)
    return int(begins[np.argmin(energy[begins + _QUIET_SAMPLES] - energy[begins])]) + _QUIET_SAMPLES // 2


def words_before(words: Sequence[Word], cut: int) -> list[Word]:
    """Of the words of the decoding up to the cut, those of the first final: they begin before `cut`."""
    return [word for word in words if word.start < cut]


def own_words(previous: Sequence[TimedWord], current: Sequence[Word], cut: int) -> list[Word]:
    """Of the words of the decoding that began before the cut (`current`), those of the second final.

    `previous`: all words of the first decoding, also those behind the cut. A word belongs to the final that holds its
    first sample, as the first decoding placed it; the second may place it up to 100 ms elsewhere. So a word that both
    heard (same text, near or overlapping) is where the first one put it. Any other is the second final's if it reaches
    behind the cut and begins no more than that jitter before it, unless it is mostly the sound of a word which the
    first final has and the second decoding did not hear so.
    """
    same = _same_words(previous, current)
    taken = [word for index, word in enumerate(previous) if word.start < cut and index not in same.values()]
    owned = []
    for index, word in enumerate(current):
        if index in same:
            own = previous[same[index]].start >= cut
        else:
            own = (
                word.end > cut
                and word.start >= cut - _JITTER_SAMPLES
                and not any(_mostly_same_sound(word, other) for other in taken)
            )
        if own:
            owned.append(word)
    return owned


def _same_words(previous: Sequence[TimedWord], current: Sequence[TimedWord]) -> dict[int, int]:
    """Which word of `current` is which of `previous`, by index: in order, each at most once, the nearest start."""
    same: dict[int, int] = {}
    following = 0
    for index, word in enumerate(current):
        candidates = [
            other
            for other in range(following, len(previous))
            if previous[other].text == word.text
            and (abs(previous[other].start - word.start) <= _JITTER_SAMPLES or _overlap(previous[other], word) > 0)
        ]
        if candidates:
            same[index] = min(candidates, key=lambda other: abs(previous[other].start - word.start))
            following = same[index] + 1
    return same


def _overlap(one: TimedWord, other: TimedWord) -> int:
    return min(one.end, other.end) - max(one.start, other.start)


def _mostly_same_sound(one: TimedWord, other: TimedWord) -> bool:
    return 2 * _overlap(one, other) >= min(one.end - one.start, other.end - other.start) > 0
