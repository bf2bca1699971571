"""When a stream deals with what has arrived: with many speakers several frames at once, each stream in its own beat.

Streams of one beat are judged by one call of the voice detector and decoded one after the other, while the model's
weights are in the processor's caches; and a stream's tasks are woken once for several frames.
"""

from __future__ import annotations

import math

BEAT_MS = 100
"""Streams share beats of this length: who takes 400 ms at a time has every fourth."""


def next_beat(now: float, chunk_ms: int, number: int) -> float:
    """The time after `now` (s) of the next beat of stream `number`, when streams take `chunk_ms` at a time."""
    beats = max(1, chunk_ms // BEAT_MS)
    following = math.floor(now * 1000 / BEAT_MS) + 1
    return (following + (number - following) % beats) * BEAT_MS / 1000
