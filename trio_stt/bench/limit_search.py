"""Looks for the largest load that a server holds, on a machine whose speed drifts while one looks."""

from __future__ import annotations

import math


class LimitSearch:
    """A staircase: more after a load that was held, less after one that was not, in ever smaller steps.

    At each change of direction the step is halved, down to `finest`; `turns` changes at the finest step end the search.
    The limit is the mean of the loads at these turns: about half of them were held, so one lucky or unlucky
    measurement moves it little, which it would not in a bisection.
    """

    def __init__(self, first: int, *, growth: float = 1.5, finest: float = 1.05, turns: int = 4) -> None:
        """`growth`, `finest`: factors between loads, at first and at last (never less than one speaker)."""
        self.next: int | None = first
        """The load to try next; None: the limit is found."""
        self._step = math.log(growth)
        self._finest = math.log(finest)
        self._turns = turns
        self._upwards: bool | None = None
        self._turned_at: list[int] = []

    @property
    def limit(self) -> float:
        """The load that is held half of the time; 0 if not even one speaker is. Raises RuntimeError before the end."""
        if self.next is not None:
            raise RuntimeError("the limit is not found yet")
        return sum(self._turned_at) / len(self._turned_at)

    def note(self, held: bool) -> None:
        """The load that was asked for was `held`, or not. Raises RuntimeError after the end."""
        load = self.next
        if load is None:
            raise RuntimeError("the limit is found already")
        if load == 1 and not held:
            self._turned_at, self.next = [0], None
            return
        if self._upwards is not None and held != self._upwards:
            if self._is_fine(load):
                self._turned_at.append(load)
            self._step = max(self._step / 2, self._finest)
        self._upwards = held
        change = max(1, round(load * math.expm1(self._step)))
        self.next = load + change if held else max(1, load - change)
        if len(self._turned_at) == self._turns:
            self.next = None

    def _is_fine(self, load: int) -> bool:
        return self._step <= self._finest * 1.001 or round(load * math.expm1(self._step)) <= 1
