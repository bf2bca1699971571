"""Which speakers' recognisers are kept between utterances: as many as fit into a budget of memory.

A recogniser knows its speaker better with every utterance (Kaldi's i-vector) and keeps what it learnt from: memory that
grows with the speech decoded and is given back only with the recogniser. Under pressure those who spoke longest ago are
forgotten first; they are heard again by a new recogniser, which costs nothing but what the old one had learnt.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Resting(Generic[T]):
    """Owners of recognisers that are between utterances, with the memory each takes. Used on the event loop only."""

    def __init__(self, budget_mb: float) -> None:
        self._budget_mb = budget_mb
        self._owners: dict[T, float] = {}

    @property
    def memory_mb(self) -> float:
        """What all of them take, by estimate."""
        return sum(self._owners.values())

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, owner: T, memory_mb: float) -> list[T]:
        """`owner` rests now; returns those, perhaps itself, that must give their recogniser back for it."""
        self._owners.pop(owner, None)
        self._owners[owner] = memory_mb
        excess = []
        while self._owners and self.memory_mb > self._budget_mb:
            oldest = next(iter(self._owners))
            del self._owners[oldest]
            excess.append(oldest)
        return excess

    def remove(self, owner: T) -> None:
        """`owner` speaks again or is gone. Does nothing if it does not rest."""
        self._owners.pop(owner, None)
