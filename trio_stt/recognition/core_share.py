"""The instance's share of the machine's cores where others live beside it: a number in a file that the fleet writes."""

from __future__ import annotations

import math
from pathlib import Path

MOST_CORES = 1024


def read_share(file: Path) -> float | None:
    """The share in `file`, more than 0 and perhaps less than 1; None if there is none that makes sense. Blocks."""
    try:
        share = float(file.read_text())
    except (OSError, ValueError):
        return None
    return share if 0 < share <= MOST_CORES else None


def threads_of(share: float) -> int:
    """The threads that decode: no more than there are cores, but one at least."""
    return max(1, math.floor(share))
