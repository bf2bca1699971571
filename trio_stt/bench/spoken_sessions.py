"""What simulated speakers say in one session: clips in many orders, without pauses or as in a conversation."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from trio_stt.bench.speech import SAMPLE_RATE, Clip, Samples

ROOM_NOISE_DBFS = -60.0
"""Level of the noise under a conversation: a quiet room. Digital silence would be too easy for any speech gate."""

LENGTH_TOLERANCE = 0.15
"""A session may be so much longer or shorter than asked for, because its clips are whole."""

_DRAWS = 200  # of which the nearest in length is taken, if none is within the tolerance


def continuous_session(clips: Sequence[Clip], seconds: float, dice: random.Random) -> Clip:
    """Whole clips one after the other without a pause, about `seconds` in all (see `LENGTH_TOLERANCE`)."""
    chosen = _draw(clips, seconds, dice)
    return Clip(
        " ".join(clip.name for clip in chosen),
        np.concatenate([clip.samples for clip in chosen]),
        tuple(word for clip in chosen for word in clip.words),
    )


def conversation_session(clips: Sequence[Clip], seconds: float, speech_share: float, dice: random.Random) -> Clip:
    """As `continuous_session`, with silence of random lengths before, between and behind the clips.

    Speech is `speech_share` of the whole. Under all of it lies the noise of a quiet room.
    """
    chosen = _draw(clips, seconds * speech_share, dice)
    spoken = sum(len(clip.samples) for clip in chosen)
    silent = round(spoken / speech_share) - spoken
    marks = sorted(dice.random() for _ in chosen)
    gaps = np.diff(np.round(np.array([0.0, *marks, 1.0]) * silent).astype(np.int64))
    line: list[Samples] = [np.zeros(gaps[0], np.int16)]
    for clip, gap in zip(chosen, gaps[1:], strict=True):
        line += [clip.samples, np.zeros(gap, np.int16)]
    quiet = np.concatenate(line)
    return Clip(
        " ".join(clip.name for clip in chosen),
        _with_room_noise(quiet, dice),
        tuple(word for clip in chosen for word in clip.words),
    )


def _draw(clips: Sequence[Clip], seconds: float, dice: random.Random) -> list[Clip]:
    """Clips in a random order, none twice before all were said, until nearest to `seconds`."""
    best: list[Clip] = []
    for _ in range(_DRAWS):
        chosen: list[Clip] = []
        while not chosen or _seconds(chosen) < seconds * (1 - LENGTH_TOLERANCE):
            chosen += dice.sample(list(clips), len(clips))
            while len(chosen) > 1 and _seconds(chosen[:-1]) >= seconds * (1 - LENGTH_TOLERANCE):
                chosen.pop()
        if not best or abs(_seconds(chosen) - seconds) < abs(_seconds(best) - seconds):
            best = chosen
        if abs(_seconds(best) - seconds) <= seconds * LENGTH_TOLERANCE:
            break
    return best


def _seconds(clips: Sequence[Clip]) -> float:
    return sum(clip.seconds for clip in clips)


def _with_room_noise(samples: Samples, dice: random.Random) -> Samples:
    noise = np.random.default_rng(dice.randrange(2**32)).standard_normal(len(samples))
    loud = samples + noise * 32768 * 10 ** (ROOM_NOISE_DBFS / 20)
    return np.clip(np.round(loud), -32768, 32767).astype(np.int16)


def silent_session(seconds: float) -> Clip:
    """Nothing but digital silence."""
    return Clip("silence", np.zeros(round(seconds * SAMPLE_RATE), np.int16), ())
