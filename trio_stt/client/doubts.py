"""Spans of samples that were dropped before anybody said what became of them."""

from __future__ import annotations


class Doubts:
    """A set of samples, as spans. A server's stored finals settle some of it; the rest turns out to be lost."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Doubts the samples from `start` up to `end`, if any, which lie after all those that are doubted."""
        if self._spans:
            start = max(start, self._spans[-1][1])
        if start < end:
            self._spans.append((start, end))

    def settle(self, start: int, end: int) -> None:
        """What became of the samples from `start` up to `end` is known."""
        self._spans = [
            span
            for first, last in self._spans
            for span in ((first, min(last, start)), (max(first, end), last))
            if span[0] < span[1]
        ]

    def take(self) -> list[tuple[int, int]]:
        """All spans that are still doubted, in order; none is afterwards."""
        spans, self._spans = self._spans, []
        return spans
