"""What a speaker says in a drill, and which of its samples are speech by any account."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from trio_stt.bench.speech import SAMPLE_RATE, Clip, Samples, trimmed
from trio_stt.bench.spoken_sessions import LENGTH_TOLERANCE, conversation_session
from trio_stt.bench.traffic import SPEECH_SHARE

LOUD_DBFS = -35.0
"""Half of a recording's windows are 7 dB louder than this or more; its background and the room are 10 dB softer."""

CLOSED_S = 0.25
"""Shorter silences are within a phrase."""

LEAST_PHRASE_S = 0.1
"""What is loud for a shorter time may be a click."""

_WINDOW = SAMPLE_RATE // 100  # samples, 10 ms


@frozen
class Script:
    """One speaker's part: the sound, its words, and its phrases, each from a first sample up to one behind the last."""

    clip: Clip
    phrases: tuple[tuple[int, int], ...]


def write_scripts(clips: Sequence[Clip], speakers: int, seconds: float, seed: int) -> list[Script]:
    """`speakers` parts of `seconds` or somewhat more, 38 % speech in a quiet room; for the same seed the same ones."""
    said = [trimmed(clip) for clip in clips]
    parts = []
    for number in range(speakers):
        dice = random.Random((seed << 16) + number)
        clip = conversation_session(said, seconds / (1 - LENGTH_TOLERANCE), SPEECH_SHARE, dice)
        parts.append(Script(clip, loud_phrases(clip.samples)))
    return parts


def loud_phrases(samples: Samples) -> tuple[tuple[int, int], ...]:
    """Where `samples`, at 16 kHz, are loud for long enough; in whole windows of 10 ms."""
    windows = samples[: len(samples) // _WINDOW * _WINDOW].reshape(-1, _WINDOW).astype(np.float64)
    loud = np.flatnonzero(np.mean(np.square(windows / 32768), axis=1) > 10 ** (LOUD_DBFS / 10))
    if not len(loud):
        return ()
    breaks = np.flatnonzero(np.diff(loud) > CLOSED_S * 100) + 1
    found = [(int(run[0]) * _WINDOW, (int(run[-1]) + 1) * _WINDOW) for run in np.split(loud, breaks)]
    return tuple((begin, end) for begin, end in found if end - begin >= LEAST_PHRASE_S * SAMPLE_RATE)
