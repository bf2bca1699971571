"""Tells a server that was away from one that is lost each time it hears the same sound."""

from __future__ import annotations

MOST_LOSSES = 3
"""So many losses of a connection in a row may be chance."""

HOPELESS_AFTER_S = 60.0
"""Longer than the longest utterance (30 s), and than a call of the recogniser may hang (`DECODE_HANG_S`, 10 s): a
server that works has captioned something by then."""


class Losses:
    """Counts the losses since anything came of the sound. Times are seconds on any clock that only goes forward."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self._connected_at = 0.0

    def connected(self, now: float) -> None:
        """There is a connection, at `now`."""
        self._connected_at = now

    def progress(self) -> None:
        """Something came of the sound: the next loss is a new one."""
        self._count = 0

    def lost(self, now: float) -> bool:
        """The connection is lost, at `now`. Whether another one is unlikely to fare better."""
        if now - self._connected_at >= HOPELESS_AFTER_S:  # it held: there was nothing to caption
            self._count = 0
        if not self._count:
            self._since = now
        self._count += 1
        return self._count > MOST_LOSSES and now - self._since >= HOPELESS_AFTER_S
