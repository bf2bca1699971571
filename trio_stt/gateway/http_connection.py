"""HTTP on one TCP connection: hypercorn's own, until a request asks for a WebSocket that is served here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.events import Closed, Event
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr
from websockets.datastructures import Headers
from websockets.http11 import Request

from trio_stt.dialects.request import Refusal
from trio_stt.gateway.socket import READ_TIMEOUT_S, Socket

KEEP_ALIVE_S = 75.0
"""Idle HTTP connections, and those that have not sent a whole request yet; longer than a proxy in front keeps its own,
so that the proxy closes first."""


def configuration() -> Config:
    """Hypercorn's settings for such connections."""
    config = Config()
    config.read_timeout = READ_TIMEOUT_S  # type: ignore[assignment]  # seconds need not be whole
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


@frozen
class Upgrade:
    """A request for a WebSocket that somebody serves."""

    path: str
    peer: str  # the address at the other end of the TCP connection; "" if it has none
    query: tuple[tuple[str, str], ...]
    request: Request
    early: bytes  # what came behind the request, in the same breath
    handler: Handler


Handler = Callable[[Upgrade, Socket], Awaitable[Refusal | None]]
"""Serves one request for a WebSocket: accepts the socket and returns when it is done with it, or says why not."""

Route = Callable[[str], Handler | None]
"""The handler of a path; None: a request for a WebSocket there is answered like any other, by Quart."""


class HttpConnection(TCPServer):
    """One connection. `converse` is its whole life."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        route: Route,
    ) -> None:
        """`app` answers all requests but those for WebSockets for which `route` knows a handler."""
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]  # not SSL
        self._route = route

    async def converse(self) -> Upgrade | None:
        """Answers requests until the connection ends, or, with the socket still open, until one is an `Upgrade`.

        What hypercorn does not expect of a peer (a header that is not ASCII) is raised.
        """
        upgrade: Upgrade | None = None
        sock = self.stream.socket
        try:
            client, server = (
                parse_socket_addr(sock.family, address) for address in (sock.getpeername(), sock.getsockname())
            )
            async with TaskGroup() as self._task_group:
                self.protocol = _Http1(  # type: ignore[assignment]  # hypercorn's own chooses between HTTP/1 and 2
                    self._route,
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    self.state,
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.idle_task.restart(self._task_group, self._idle_timeout)
                try:
                    await self._read_data()
                except _UpgradeAsked as asked:
                    upgrade = asked.upgrade
                # Else a peer that has gone without a request keeps its socket open until the idle time is over.
                await self.idle_task.stop()
        except OSError:
            pass  # the peer has gone
        finally:
            if upgrade is None:
                await self._close()
            # They refer to each other and to this, and would wait for the garbage collector with all their buffers.
            self.__dict__.clear()
        return upgrade


class _UpgradeAsked(Exception):  # noqa: N818  (no error)
    def __init__(self, upgrade: Upgrade) -> None:
        super().__init__(upgrade.path)
        self.upgrade = upgrade


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else: no HTTP/2, and none of hypercorn's WebSockets."""

    def __init__(self, route: Route, *args: Any) -> None:
        super().__init__(*args)
        self._route = route
        self._peer_gone = False

    async def handle(self, event: Event) -> None:
        """Takes one event of the connection."""
        await super().handle(event)
        if isinstance(event, Closed):
            # Pipelined requests wait in a reader that hypercorn never wakes once it cannot send: they are dropped.
            self._peer_gone = True
            self.connection = h11.Connection(h11.SERVER)
            await self.can_read.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Takes no upgrade to HTTP/2: the request is answered as it stands."""

    async def _create_stream(self, request: h11.Request) -> None:
        path, _, query = request.target.decode("ascii").partition("?")
        handler = self._route(unquote(path)) if _asks_for_websocket(request) else None
        if handler is not None:
            raise _UpgradeAsked(
                Upgrade(
                    unquote(path),
                    self.client[0] if self.client else "",
                    tuple(parse_qsl(query, keep_blank_values=True)),
                    Request(
                        path, Headers([(name.decode(), value.decode("latin-1")) for name, value in request.headers])
                    ),
                    self.connection.trailing_data[0],
                    handler,
                )
            )
        # Without this header hypercorn answers the request like any other.
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        version = request.http_version
        await super()._create_stream(
            h11.Request(method=request.method, headers=headers, target=request.target, http_version=version)
        )

    async def _maybe_recycle(self) -> None:
        # It tells Quart that the answer is out, who thereupon cancels the task that this runs in: without the shield a
        # connection whose request is not all there yet would be neither closed nor read again.
        with trio.CancelScope(shield=True):
            await super()._maybe_recycle()

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if not self._peer_gone:
            await super()._send_h11_event(event)


def _asks_for_websocket(request: h11.Request) -> bool:
    def values(name: bytes) -> list[bytes]:
        return [token.strip() for key, value in request.headers if key == name for token in value.lower().split(b",")]

    return (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and values(b"upgrade") == [b"websocket"]
        and b"upgrade" in values(b"connection")
        and set(values(b"content-length")) <= {b"0"}
        and not values(b"transfer-encoding")
    )
