"""Quart's end of a WebSocket, delivering every message in order and the peer's going after the last of them."""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable
from quart_trio.asgi import TrioASGIWebsocketConnection


class OrderedWebsocketConnection(TrioASGIWebsocketConnection):
    """A closed channel tells the handler that the peer has gone, once it has received all that came before.

    Quart-Trio's own cancels the handler instead, and up to ten messages that were received are never read; it also
    turns an empty binary message into None and runs a signal for each message.
    """

    async def handle_messages(self, nursery: trio.Nursery, receive: ASGIReceiveCallable) -> None:  # type: ignore[override]
        """Passes messages on until the peer has gone."""
        async with self.send_channel:
            while True:
                event: Any = await receive()
                if event["type"] == "websocket.receive":
                    payload = event.get("bytes")
                    await self.send_channel.send(event["text"] if payload is None else payload)
                elif event["type"] == "websocket.disconnect":
                    return
