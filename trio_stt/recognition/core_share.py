"""The instance's share of the machine's cores where others live beside it: numbers in a file that the fleet writes."""

from __future__ import annotations

import math
from pathlib import Path

from attrs import frozen

MOST_CORES = 1024


@frozen
class CoreShare:
    """Cores, each number more than 0 and perhaps less than 1."""

    cores: float
    """Those that it may decode with now; among them may be those of an instance that is lost."""
    lasting: float
    """Those that it will have when all are back: newcomers are let in for these."""

    def __str__(self) -> str:
        one = f"{self.cores:.4f}"  # an older version reads one number only
        return f"{one}\n" if self.cores == self.lasting else f"{one} {self.lasting:.4f}\n"


def read_share(file: Path) -> CoreShare | None:
    """The share in `file`; one number stands for both. None if there is none that makes sense. Blocks."""
    try:
        numbers = [float(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return None
    if len(numbers) not in (1, 2) or not all(0 < number <= MOST_CORES for number in numbers):
        return None
    return CoreShare(numbers[0], numbers[-1])


def threads_of(share: float) -> int:
    """The threads that decode: no more than there are cores, but one at least."""
    return max(1, math.floor(share))
