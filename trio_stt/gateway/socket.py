"""A Quart WebSocket behind four verbs, each of which is a checkpoint."""

from __future__ import annotations

from contextlib import suppress

import trio
from quart import Websocket

from trio_stt.dialects.events import Close
from trio_stt.gateway.connections import VANISHED
from trio_stt.gateway.hypercorn_websocket import PEER_CLOSE_CODE


class Socket:
    """The only place that calls `receive`, `send` and `close` of a Quart WebSocket."""

    def __init__(self, websocket: Websocket) -> None:
        self._websocket = websocket

    async def accept(self) -> None:
        """Completes the handshake."""
        await self._websocket.accept()

    async def receive(self) -> bytes | str:
        """The next message; Raises `trio.EndOfChannel` once the peer has gone."""
        return await self._websocket.receive()

    async def send(self, text: str) -> None:
        """Sends a text message. Waits for a peer that does not read, and cancelling does not end that wait."""
        with suppress(trio.BusyResourceError):  # hypercorn is hanging up on a peer at fault, in another task
            await self._websocket.send(text)
        # Once the peer has gone, Quart's send returns at once without a checkpoint: a loop of sends would never yield.
        await trio.lowlevel.checkpoint()

    async def close(self, close: Close) -> None:
        """Sends the close frame."""
        with suppress(trio.BusyResourceError):  # as in `send`
            await self._websocket.close(close.code, close.reason)
        await trio.lowlevel.checkpoint()

    @property
    def peer_close(self) -> Close:
        """How the peer ended the connection, once it has."""
        state: dict[str, int] = dict(self._websocket.scope.get("state") or {})
        return Close(state.get(PEER_CLOSE_CODE, VANISHED), "closed by the peer")
