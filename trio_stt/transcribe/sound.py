"""What every source of sound gives: blocks of mono signed 16-bit samples at `SAMPLE_RATE`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16000
"""Samples a second of everything that is sent; what the speech models were trained on."""

Samples = npt.NDArray[np.int16]
"""Mono signed 16-bit samples, shape (n,)."""


class SourceError(Exception):
    """The sound cannot be had. The message says what was wrong, what was expected and what to do."""
