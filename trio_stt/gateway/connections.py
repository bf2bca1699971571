"""The connections that are open and what is remembered of those that were."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Protocol

import trio
from attrs import frozen

from trio_stt.dialects.events import Close, StreamRequest

RECENT = 50
"""Ended connections that are remembered one by one."""

FREQUENT = 5
"""Close codes named as frequent."""

VANISHED = 1006
"""The close code of a peer that went without a close frame (RFC 6455, section 7.4.1)."""


class LiveConnection(Protocol):
    """What is asked of an open connection."""

    request: StreamRequest
    stream_id: str
    opened_at: float

    def stop(self, close: Close) -> None:
        """Ends the connection with that code, after its last final. Returns at once."""

    def cut(self) -> None:
        """Ends the connection without waiting for what is not captioned yet. Returns at once."""

    def hang_up(self, close: Close) -> None:
        """Ends the connection with that code while its stream hangs in a recogniser call. Returns at once."""

    @property
    def parked(self) -> bool:
        """Whether the peer has gone, and the stream waits for its client to come back."""

    @property
    def resumable(self) -> bool:
        """Whether the client can go on with its stream in another connection."""

    def send_away(self, deadline_ms: int, reason: str) -> None:
        """Tells the client to be elsewhere by then, if its dialect can. Returns at once."""


@frozen
class EndedConnection:
    """A connection that was: its close code and how long it lasted."""

    stream_id: str
    tenant: str
    code: int
    reason: str
    duration_s: float
    ended_at: float


class Connections:
    """Registry of one instance."""

    def __init__(self, on_close: Callable[[int], None] = lambda code: None) -> None:
        self._on_close = on_close
        self._open: dict[str, LiveConnection] = {}
        self._one_left = trio.Event()
        self._recent: deque[EndedConnection] = deque(maxlen=RECENT)
        self._codes: Counter[tuple[str, int]] = Counter()  # by tenant and code
        self._durations_s: dict[str, float] = {}  # sums, by tenant

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[LiveConnection]:
        return iter(tuple(self._open.values()))

    def add(self, connection: LiveConnection) -> None:
        """A connection was accepted."""
        self._open[connection.stream_id] = connection

    def remove(self, connection: LiveConnection, close: Close) -> None:
        """It ended, with that code."""
        if self._open.pop(connection.stream_id, None) is None:
            return
        self._one_left.set()
        duration_s = time.monotonic() - connection.opened_at
        tenant = connection.request.tenant
        self._codes[tenant, close.code] += 1
        self._on_close(close.code)
        self._durations_s[tenant] = self._durations_s.get(tenant, 0.0) + duration_s
        self._recent.append(
            EndedConnection(
                connection.stream_id, tenant, close.code, close.label, round(duration_s, 3), round(time.time(), 3)
            )
        )

    def find(self, stream_id: str) -> LiveConnection | None:
        """The open connection of that stream."""
        return self._open.get(stream_id)

    def of(self, tenant: str | None) -> list[LiveConnection]:
        """The open connections of a tenant; None: all."""
        return [connection for connection in self if tenant in (None, connection.request.tenant)]

    def stop_all(self, close: Close) -> None:
        """Ends every connection with that code."""
        for connection in self:
            connection.stop(close)

    def send_all_away(self, deadline_ms: int, reason: str) -> None:
        """Tells every client to be elsewhere by then."""
        for connection in self:
            connection.send_away(deadline_ms, reason)

    def hang_up(self, stream_id: str, close: Close) -> None:
        """Ends the connection of a stream that hangs; does nothing when it is not open."""
        connection = self._open.get(stream_id)
        if connection is not None:
            connection.hang_up(close)

    def cut_all(self) -> None:
        """Ends what has not ended yet."""
        for connection in self:
            connection.cut()

    async def wait_empty(self) -> None:
        """Returns when no connection is open. May be cancelled."""
        while self._open:
            self._one_left = trio.Event()
            await self._one_left.wait()

    def statistics(self, tenant: str | None = None) -> dict[str, object]:
        """The part `websocket_stats` of ``/ws/stats``, of one tenant or of all."""
        codes = self._codes_of(tenant)
        ended = codes.total()
        duration_s = sum(seconds for of, seconds in self._durations_s.items() if tenant in (None, of))
        return {
            "active_connections": sum(not connection.parked for connection in self.of(tenant)),
            "total_disconnects": ended,
            "disconnect_codes": {str(code): count for code, count in sorted(codes.items())},
            "average_connection_duration_seconds": round(duration_s / ended, 3) if ended else 0.0,
            "recent_disconnects": [
                {
                    "stream_id": one.stream_id,
                    "code": one.code,
                    "reason": one.reason,
                    "duration_seconds": one.duration_s,
                    "timestamp": one.ended_at,
                }
                for one in self._recent
                if tenant in (None, one.tenant)
            ],
        }

    def frequent_codes(self, tenant: str | None = None) -> list[dict[str, int]]:
        """The part `frequent_disconnect_codes`: the commonest close codes, most frequent first."""
        return [{"code": code, "count": count} for code, count in self._codes_of(tenant).most_common(FREQUENT)]

    def _codes_of(self, tenant: str | None) -> Counter[int]:
        found: Counter[int] = Counter()
        for (of, code), count in self._codes.items():
            if tenant in (None, of):
                found[code] += count
        return found
