"""Quart's end of a WebSocket, delivering every message in order and the peer's going after the last of them."""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart_trio.asgi import TrioASGIWebsocketConnection


class OrderedWebsocketConnection(TrioASGIWebsocketConnection):
    """The handler takes its messages straight from the server; `trio.EndOfChannel` tells it that the peer has gone.

    Quart-Trio's own cancels the handler for that, and up to ten messages that were received are never read. It also
    passes each message through a task and a channel more, runs a signal for it, and makes None of an empty one.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Runs the handler of one connection."""
        self.receive_channel = _Messages(receive)  # type: ignore[assignment]
        websocket = self._create_websocket_from_scope(send)
        async with trio.open_nursery() as nursery:
            await self.handle_websocket(nursery, websocket, send)


class _Messages:
    """What Quart asks of its channel of messages."""

    def __init__(self, receive: ASGIReceiveCallable) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> bytes | str:
        """The next message. Raises `trio.EndOfChannel` after the last, and from then on."""
        while not self._ended:
            event: Any = await self._receive()
            if event["type"] == "websocket.receive":
                payload: bytes | str | None = event.get("bytes")
                return event["text"] if payload is None else payload
            self._ended = event["type"] == "websocket.disconnect"
        raise trio.EndOfChannel
