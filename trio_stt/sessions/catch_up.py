"""Whether a resumed stream still sends what it held while it had no server, or is live again. Sans-IO.

Its lateness does not tell: who was silent for a while without sending anything is late for ever after. Its pace does.
"""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 1.0
"""The pace is looked at over so long, at least: one burst on a slow network says nothing."""

FASTER: Final = 1.25
"""Seconds of audio a second from which a client is catching up; the clocks of real sources differ by far less."""

WAITING_MS: Final = 500
"""While audio has waited here for so long, the pace is the server's, who reads no faster, and not the client's."""


class CatchUp:
    """Follows what a stream receives after its resume, until that comes no faster than it is spoken."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._heard_s = 0.0

    def is_over(self, arrived_at: float, audio_s: float, *, lag_ms: int) -> bool:
        """Takes a piece of audio; returns whether the one before it was the last of the catch-up.

        `arrived_at`: when, in s, never earlier than the piece before. `lag_ms`: how long the oldest that waits has.
        """
        if self._since is None:
            self._since = arrived_at
        elif arrived_at - self._since >= WINDOW_S:
            if self._heard_s < FASTER * (arrived_at - self._since) and lag_ms < WAITING_MS:
                return True
            self._since, self._heard_s = arrived_at, 0.0
        self._heard_s += audio_s
        return False
