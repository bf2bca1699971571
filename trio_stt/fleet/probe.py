"""Whether an instance takes new clients: asked four times a second, believed with some patience."""

from __future__ import annotations

import trio
from attrs import define

PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 0.5
"""An instance under load answers within some ten ms, one that was stopped never."""

MISSES = 2
"""So many in a row, and no new clients are sent there; one healthy answer, and they are again."""

_QUESTION = b"GET /health/simple HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n"
_HEALTHY = b"HTTP/1.1 200 "


@define
class Verdict:
    """What is thought of one instance. `healthy` is None until it is known."""

    healthy: bool | None = None
    _misses: int = 0

    def note(self, answered: bool) -> bool:
        """Takes the outcome of one probe; returns whether the verdict has changed."""
        before = self.healthy
        self._misses = 0 if answered else self._misses + 1
        if answered:
            self.healthy = True
        elif self._misses >= MISSES or self.healthy is None:
            self.healthy = False
        return self.healthy is not before


async def answers(port: int) -> bool:
    """Whether the instance on that port of this machine says within `PROBE_TIMEOUT_S` that it serves.

    May be cancelled.
    """
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(_QUESTION)
                answer = b""
                while len(answer) < len(_HEALTHY) and (more := await stream.receive_some(1024)):
                    answer += more
                return answer.startswith(_HEALTHY)
        except (OSError, trio.BrokenResourceError):
            return False
    return False
