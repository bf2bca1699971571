"""What of a track's sound is sent: nothing of its silence, and all around what is loud enough to be speech.

Whether it is speech the server's own gate decides; this one only spares what nobody can have said.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import numpy as np
from attrs import frozen

PRE_ROLL_S = 0.4
"""Sound before the first loud moment that is sent too: soft first sounds of a word."""

HANGOVER_S = 1.2
"""Silence that is sent after the last loud moment: the server's gate finds the utterance's end in it, and words that
fade are whole."""

_FULL_SCALE = 32768.0


class Edge(Enum):
    """What the gate does around a piece of sound."""

    OPENS = "opens"
    CLOSES = "closes"


@frozen
class Passed:
    """Samples to send (signed 16-bit, mono), and whether the gate opens before or closes after them."""

    samples: bytes
    edge: Edge | None = None


class EnergyGate:
    """The gate of one track. `threshold_dbfs`: -100 or less lets everything pass."""

    def __init__(self, threshold_dbfs: float, sample_rate: int) -> None:
        self._least_power = 0.0 if threshold_dbfs <= -100 else (_FULL_SCALE * 10 ** (threshold_dbfs / 20)) ** 2
        self._sample_rate = sample_rate
        self._held: deque[bytes] = deque()
        self._held_s = 0.0
        self._quiet_s = 0.0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether sound passes now."""
        return self._is_open

    def feed(self, samples: bytes) -> Passed | None:
        """Takes the track's next samples; returns what is to be sent now."""
        heard = np.frombuffer(samples, np.int16)
        if not len(heard):
            return None
        seconds = len(heard) / self._sample_rate
        wave = heard.astype(np.float32)
        if float(wave @ wave) / len(heard) >= self._least_power:
            self._quiet_s = 0.0
            if self._is_open:
                return Passed(samples)
            self._is_open = True
            before = b"".join(self._held)
            self._forget()
            return Passed(before + samples, Edge.OPENS)
        if not self._is_open:
            self._hold(samples, seconds)
            return None
        self._quiet_s += seconds
        if self._quiet_s < HANGOVER_S:
            return Passed(samples)
        self._is_open = False
        return Passed(samples, Edge.CLOSES)

    def close(self) -> bool:
        """The track is muted or gone: nothing of it is held. Returns whether the gate was open."""
        was_open, self._is_open = self._is_open, False
        self._forget()
        return was_open

    def _hold(self, samples: bytes, seconds: float) -> None:
        self._held.append(samples)
        self._held_s += seconds
        while self._held_s > PRE_ROLL_S and len(self._held) > 1:
            self._held_s -= len(self._held.popleft()) / 2 / self._sample_rate

    def _forget(self) -> None:
        self._held.clear()
        self._held_s = self._quiet_s = 0.0
