"""Whether a resumed stream still sends what it held while it had no server, and how late that is. Sans-IO.

Its lateness does not tell: who was silent for a while without sending anything is late for ever after. Its pace does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 1.0
"""The pace is looked at over so long, at least: one burst on a slow network says nothing."""

FASTER: Final = 1.25
"""Seconds of audio a second from which a client is catching up; the clocks of real sources differ by far less."""

WAITING_MS: Final = 500
"""While audio has waited here for so long, the pace is the server's, who reads no faster, and not the client's."""

BEHIND_MS: Final = 1000
"""A resumed stream is behind while audio has waited here for so long."""

TOLD_FOR_S: Final = 10.0
"""So long after its resume: later it is this instance that is slow, which is no news of the others."""


class CatchUps:
    """All streams of an instance that were resumed and are not live again."""

    def __init__(self) -> None:
        self._open: set[CatchUp] = set()

    def begin(self, lag_ms: Callable[[], int], now: float) -> CatchUp:
        """Another was resumed, at `now` (s), and counts until its `end`. `lag_ms`: how long its oldest audio waits."""
        catch_up = CatchUp(lag_ms, now, self._open.discard)
        self._open.add(catch_up)
        return catch_up

    def behind(self, now: float) -> int:
        """How many of them were resumed within the last `TOLD_FOR_S` and are behind."""
        return sum(each.is_behind(now) for each in self._open)


class CatchUp:
    """Follows what a stream receives after its resume, until that comes no faster than it is spoken."""

    def __init__(self, lag_ms: Callable[[], int], now: float, on_end: Callable[[CatchUp], None]) -> None:
        self.is_decoding = False
        """Whether a piece of it is under way: what waits at other times waits for its client, or for another model."""
        self._lag_ms = lag_ms
        self._began_at = now
        self._on_end = on_end
        self._since: float | None = None
        self._heard_s = 0.0

    def end(self) -> None:
        """It is over, or its stream is."""
        self._on_end(self)

    def is_behind(self, now: float) -> bool:
        """Whether it was resumed lately and its audio waits for long to be decoded."""
        return self.is_decoding and now - self._began_at < TOLD_FOR_S and self._lag_ms() >= BEHIND_MS

    def is_over(self, arrived_at: float, audio_s: float) -> bool:
        """Takes a piece of audio; returns whether the one before it was the last of the catch-up.

        `arrived_at`: when, in s, never earlier than the piece before.
        """
        if self._since is None:
            self._since = arrived_at
        elif arrived_at - self._since >= WINDOW_S:
            if self._heard_s < FASTER * (arrived_at - self._since) and self._lag_ms() < WAITING_MS:
                return True
            self._since, self._heard_s = arrived_at, 0.0
        self._heard_s += audio_s
        return False
