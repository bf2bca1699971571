"""The word error rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen
from rapidfuzz.distance import Levenshtein


@frozen
class WordErrors:
    """Wrong, missing and added words against the words that were said."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors for each word said; 0 where nothing was said and nothing heard."""
        return self.errors / self.words if self.words else float(self.errors > 0)


def word_errors(said: Sequence[str], heard: Sequence[str]) -> WordErrors:
    """The fewest substitutions, deletions and insertions that make `heard` of `said`."""
    return WordErrors(Levenshtein.distance(said, heard), len(said))


def total(parts: Iterable[WordErrors]) -> WordErrors:
    """The errors of several utterances together."""
    parts = list(parts)
    return WordErrors(sum(part.errors for part in parts), sum(part.words for part in parts))
