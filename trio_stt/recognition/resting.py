"""Which speakers' recognisers are kept between utterances: as many as fit into a budget of memory.

A recogniser knows its speaker better with every utterance (Kaldi's i-vector) and keeps what it learnt from: memory that
grows with the speech decoded and is given back only with the recogniser. When those in use and those at rest take too
much, those that rest longest are given up first. Their speakers are heard again by new recognisers, which costs nothing
but what the old ones had learnt.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Resting(Generic[T]):
    """Owners of recognisers, speaking or resting, with the memory each takes. Used on the event loop only."""

    def __init__(self, budget_mb: float) -> None:
        self._budget_mb = budget_mb
        self._speaking: dict[T, float] = {}
        self._resting: dict[T, float] = {}  # longest resting first

    @property
    def memory_mb(self) -> float:
        """What all recognisers take, by estimate."""
        return sum(self._speaking.values()) + sum(self._resting.values())

    @property
    def speaking(self) -> int:
        """How many are in an utterance."""
        return len(self._speaking)

    def __len__(self) -> int:
        return len(self._resting)

    def speaks(self, owner: T, memory_mb: float) -> list[T]:
        """`owner` is in an utterance; returns those that must give their recogniser back for it."""
        self.remove(owner)
        self._speaking[owner] = memory_mb
        return self._excess()

    def rests(self, owner: T, memory_mb: float) -> list[T]:
        """`owner` ended an utterance; returns those, perhaps itself, that must give their recogniser back."""
        self.remove(owner)
        self._resting[owner] = memory_mb
        return self._excess()

    def remove(self, owner: T) -> None:
        """`owner` has no recogniser any more. Does nothing if it had none."""
        self._speaking.pop(owner, None)
        self._resting.pop(owner, None)

    def _excess(self) -> list[T]:
        excess = []
        while self._resting and self.memory_mb > self._budget_mb:
            longest = next(iter(self._resting))
            del self._resting[longest]
            excess.append(longest)
        return excess
