"""What sound is inside the server, whatever a client sent: mono signed 16-bit at 16 kHz, in windows of 512 samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]
"""Mono signed 16-bit samples, shape (n,). Whoever is handed an array may keep it: it is not written to any more."""

Probabilities = npt.NDArray[np.float32]
"""How likely each window is speech, from 0 to 1, shape (windows,)."""

MODEL_RATE = 16_000
"""Samples a second that detectors and recognisers are given ("model samples")."""

WINDOW_SAMPLES = 512
"""The window that is judged speech or not, in model samples (32 ms): the only one Silero takes at 16 kHz."""

NO_SAMPLES: Samples = np.zeros(0, np.int16)
"""No sound. Shared."""


def joined(pieces: Sequence[Samples]) -> Samples:
    """One array of all `pieces`, in order; without a copy where there is only one."""
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else NO_SAMPLES


class Windows:
    """Cuts a stream of chunks of any length into whole windows, and keeps the rest for the next chunk."""

    def __init__(self) -> None:
        self._rest = NO_SAMPLES

    def push(self, samples: Samples) -> Samples:
        """All whole windows there are now, as one array of n × `WINDOW_SAMPLES` samples (n may be 0)."""
        if len(self._rest):
            samples = np.concatenate((self._rest, samples))
        whole = len(samples) - len(samples) % WINDOW_SAMPLES
        # A copy, so that a few samples do not keep a whole message alive.
        self._rest = samples[whole:].copy()
        return samples[:whole]

    def take_rest(self) -> Samples:
        """The samples (fewer than a window) that wait for more; the next window begins after them."""
        rest, self._rest = self._rest, NO_SAMPLES
        return rest
