"""The measures that single figures are made of: fairness, and a slope that a few odd readings do not bend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def jain_index(shares: Sequence[float]) -> float:
    """How evenly at least one share is given out: 1 if all are equal, 1 ÷ n if one of n has all.

    Jain, Chiu and Hawe, "A Quantitative Measure of Fairness" (1984). If nobody gets anything, that is even.
    """
    squares = sum(share * share for share in shares)
    total = sum(shares)
    return total * total / (len(shares) * squares) if squares else 1.0


def theil_sen_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points (Theil 1950, Sen 1968). At least two different `x`."""
    across = np.subtract.outer(np.asarray(x, float), np.asarray(x, float))
    up = np.subtract.outer(np.asarray(y, float), np.asarray(y, float))
    return float(np.median(up[across > 0] / across[across > 0]))
