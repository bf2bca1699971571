"""Hypercorn's connections, mended: compression, messages too large, the peer's close code, early data, faults, HTTP/2.

Hypercorn offers no settings for these, so `install` puts our classes in the place of its own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

import h11
import hypercorn.events
import hypercorn.protocol.h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from hypercorn.trio.tcp_server import TCPServer
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

CLOSE_LINGER_S: Final = 2.0
"""How long a connection that we closed stays open, its data thrown away, so that the peer can read the close frame."""

PEER_CLOSE_CODE: Final = "trio_stt.peer_close_code"
"""Key of the ASGI scope's ``state`` under which the code of the peer's close frame stands."""


def install() -> None:
    """From now on hypercorn's connections are made of the classes below. May be called again."""
    hypercorn.protocol.h11.WSStream = WebSocketStream  # type: ignore[attr-defined]
    hypercorn.protocol.H11Protocol = Http1Protocol  # type: ignore[attr-defined]
    hypercorn.trio.run.TCPServer = GuardedServer  # type: ignore[attr-defined]


class GuardedServer(TCPServer):
    """One TCP connection whose faults stay its own.

    What hypercorn does not expect of a peer (a header that is not ASCII, a frame too late) is raised in its reader and
    would end the whole server.
    """

    async def run(self) -> None:
        """The connection's whole life."""
        try:
            await super().run()
        except* Exception as errors:  # noqa: BLE001  (a boundary: the peer's connection ends, the others go on)
            structlog.get_logger().warning("connection_broken", error=repr(errors.exceptions[0]))

    async def _read_data(self) -> None:
        await super()._read_data()
        # Else a peer that has gone without a request keeps its socket open until the idle time is over.
        await self.idle_task.stop()


class Http1Protocol(H11Protocol):
    """HTTP/1.1 and nothing else: over HTTP/2, hypercorn's own WebSocket would come in by another door."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Takes no upgrade to HTTP/2: the request is answered as it stands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peer_gone = False

    async def handle(self, event: hypercorn.events.Event) -> None:
        """Takes one event of the connection."""
        await super().handle(event)
        if isinstance(event, hypercorn.events.Closed) and isinstance(self.connection, h11.Connection):
            # Pipelined requests wait in a reader that hypercorn never wakes once it cannot send: they are dropped.
            self._peer_gone = True
            self.connection = h11.Connection(h11.SERVER)
            await self.can_read.set()

    async def _send_h11_event(self, event: Any) -> None:
        if not self._peer_gone:
            await super()._send_h11_event(event)


class WebSocketStream(WSStream):
    """Declines compression, stops at the first message that is too large, notes the peer's close code.

    Hypercorn accepts permessage-deflate whenever it is offered, and a small frame then inflates to hundreds of
    megabytes. After a message over the limit it goes on collecting, tells the application nothing, and leaves the
    connection open.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._oversized = False
        self._ended = trio.Event()

    async def handle(self, event: Event) -> None:
        """Takes one event of the connection."""
        if isinstance(event, Request):
            kept = [(name, value) for name, value in event.headers if name.lower() != b"sec-websocket-extensions"]
            event = dataclasses.replace(event, headers=kept)
        elif isinstance(event, Body | Data) and self._oversized:
            await self._discard(event.data)
            return
        elif isinstance(event, Body | Data) and not self.closed and not self.handshake.accepted:
            await self._refuse_early_data()
            return
        await super().handle(event)
        if self.closed:
            self._ended.set()

    async def app_send(self, message: Any) -> None:
        """Takes one message of the application."""
        if self._oversized and not self.closed:
            return  # the close frame is out, and `_close_later` ends the connection
        await super().app_send(message)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self._refuse_oversized()
                    return
                if event.message_finished:
                    message = self.buffer.to_message()
                    self.buffer.clear()
                    await self._tell_app(message)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                self.scope["state"][PEER_CLOSE_CODE] = int(event.code)
                if self.connection.state == ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                elif self.connection.state == ConnectionState.OPEN:  # a frame that breaks RFC 6455: 1002, 1007
                    await self._send_wsproto_event(CloseConnection(code=event.code))
                await self.send(StreamClosed(stream_id=self.stream_id))

    async def _refuse_oversized(self) -> None:
        self._oversized = True
        self.buffer.clear()
        self.task_group.spawn(self._close_later)
        self.scope["state"][PEER_CLOSE_CODE] = int(CloseReason.MESSAGE_TOO_BIG)
        await self._send_wsproto_event(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
        await self._tell_app({"type": "websocket.disconnect", "code": int(CloseReason.MESSAGE_TOO_BIG)})

    async def _refuse_early_data(self) -> None:
        # The client did not wait for the answer to its upgrade. Hypercorn's own answers 400 too, but tells the
        # application nothing, which then waits for ever for a client that it believes accepted.
        answered = self.state is not ASGIWebsocketState.HANDSHAKE or hasattr(self, "response")
        self.closed = True
        if not answered:
            await self._send_error_response(400)
        await self._tell_app({"type": "websocket.disconnect", "code": int(CloseReason.ABNORMAL_CLOSURE)})
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _tell_app(self, message: dict[str, Any]) -> None:
        if self.app_put is not None:
            await self.app_put(message)

    async def _discard(self, data: bytes) -> None:
        if self.closed:
            return
        self.connection.receive_data(data)
        if any(isinstance(event, CloseConnection) for event in self.connection.events()):
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_pings(self) -> None:
        # Hypercorn's own sends the first ping at once, where it can cross the close frame of a client that only knocks,
        # and keeps the connection's tasks alive until the next ping is due.
        while not self.closed:
            with trio.move_on_after(self.config.websocket_ping_interval or math.inf):
                await self._ended.wait()
                return
            await self._send_wsproto_event(Ping())

    async def _close_later(self) -> None:
        with trio.move_on_after(CLOSE_LINGER_S):
            await self._ended.wait()
        if not self.closed:
            await self.send(StreamClosed(stream_id=self.stream_id))
