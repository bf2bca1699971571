"""Every TCP connection of the server: requests for WebSockets go to their handlers, all others to Quart."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from trio_stt.dialects.native import MAX_FRAME_BYTES
from trio_stt.gateway.http_connection import HttpConnection, Route, Upgrade, configuration
from trio_stt.gateway.socket import Socket

TEND_EVERY_S = 1.0
"""How exactly pings and time-outs of WebSockets are kept: one task looks at all of them."""

GRACE_S = 3.0
"""At the end: for answers and close frames that are still on their way."""


class Front:
    """Accepts connections. The faults of each stay its own."""

    def __init__(self, app: QuartTrio, on_refusal: Callable[[int], None]) -> None:
        """`app` answers what no handler does; its lifespan is not run. `on_refusal` is told each refusal's status."""
        self._app = ASGIWrapper(app)
        self._on_refusal = on_refusal
        self._config = configuration()
        self._context = WorkerContext(None)
        self._sockets: set[Socket] = set()
        self._log = structlog.get_logger()

    async def serve(
        self,
        listeners: list[tuple[trio.SocketListener, Route]],
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until `stop` is set; then connections have `GRACE_S`. If cancelled, they are cut."""
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener, route in listeners:
                    serve = partial(self._connection, route)
                    accepting.start_soon(partial(trio.serve_listeners, serve, [listener], handler_nursery=connections))
                accepting.start_soon(self._tend)
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            await self._context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + GRACE_S

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_EVERY_S)
            for each in self._sockets:
                each.tend()

    async def _connection(self, route: Route, stream: trio.SocketStream) -> None:
        try:
            upgrade = await HttpConnection(self._app, self._config, self._context, stream, route).converse()
            if upgrade is not None:
                await self._websocket(upgrade, stream)
        except* Exception as errors:  # noqa: BLE001  (a boundary: this connection ends, the others go on)
            # Not its repr: a UnicodeDecodeError's holds what the peer sent, and so perhaps a token.
            error = errors.exceptions[0]
            self._log.warning("connection_broken", error=f"{type(error).__name__}: {error}")

    async def _websocket(self, upgrade: Upgrade, stream: trio.SocketStream) -> None:
        tcp = socket.socket(fileno=stream.socket.detach())
        tcp.setblocking(False)
        served = Socket(tcp, upgrade.request, upgrade.early, max_message_bytes=MAX_FRAME_BYTES)
        self._sockets.add(served)
        try:
            refusal = served.refusal or await upgrade.handler(upgrade, served)
            if refusal is not None:
                self._on_refusal(refusal.status)
                self._log.debug("refused", status=refusal.status, code=refusal.code)
                await served.refuse(refusal)
        finally:
            self._sockets.remove(served)
            await served.aclose()
