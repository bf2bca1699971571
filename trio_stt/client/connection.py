"""A stream of captions over a real WebSocket: the Trio shell around `NativeClient`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trio_stt.client.native_client import NativeClient, stream_url
from trio_stt.client.websocket import (
    ServerUnreachableError,
    StreamClosedError,
    StreamRefusedError,
    WebSocket,
    connect,
)
from trio_stt.dialects.events import ServerEvent, StreamRequest

__all__ = ["CaptionStream", "ServerUnreachableError", "StreamClosedError", "StreamRefusedError", "open_stream"]


class CaptionStream:
    """One open stream. Tasks may send while another iterates.

    Iterating yields the server's events, `Ready` first. It ends when the connection was closed with 1000, as after
    `end`, and raises `StreamClosedError` for every other close; messages that came before a close are yielded first. A
    client that stops iterating is closed by the server with 4008.

    Sending raises `StreamClosedError` once the connection is closed; what the server sent before can still be read. A
    send that is cancelled may have been sent in part: leave the stream then.
    """

    def __init__(self, websocket: WebSocket, client: NativeClient) -> None:
        self._websocket = websocket
        self._client = client

    @property
    def sent_samples(self) -> int:
        """How many samples were sent so far: the position of the next one."""
        return self._client.sent_samples

    async def send_audio(self, payload: bytes, chunk_id: int | None = None) -> None:
        """Sends whole samples in the request's encoding, any number of them; waits while the server does not read.

        `chunk_id` (below 2^53, framing ``auto`` only) comes back on results that end in this chunk. Raises
        `StreamClosedError`, and ValueError as `NativeClient.audio` does.
        """
        for frame in self._client.audio(payload, chunk_id):
            await self._websocket.send(frame)

    async def finalize(self, id: str | int | None = None) -> None:
        """Asks for the finals of all sent before, then an `Ack` with `id`. Raises `StreamClosedError`."""
        await self._websocket.send(self._client.finalize(id))

    async def configure(self, **changes: object) -> None:
        """Asks for new values (see `NativeClient`); `Configured` or `Failure` answers. Raises `StreamClosedError`."""
        await self._websocket.send(self._client.configure(**changes))

    async def ping(self, id: str | int | None = None) -> None:
        """Asks for a `Pong` with `id`. Raises `StreamClosedError`."""
        await self._websocket.send(self._client.ping(id))

    async def end(self) -> None:
        """Says that no more audio comes: last finals follow, then the iteration ends. Raises `StreamClosedError`."""
        await self._websocket.send(self._client.end())

    def __aiter__(self) -> AsyncIterator[ServerEvent]:
        return self

    async def __anext__(self) -> ServerEvent:
        """The next event. May be cancelled: no event is lost. Raises `StreamClosedError` and `WireError`."""
        while True:
            try:
                message = await self._websocket.receive()
            except StreamClosedError as closed:
                if closed.close.code == 1000:
                    raise StopAsyncIteration from None
                raise
            event = self._client.receive(message)
            if event is not None:
                return event


@asynccontextmanager
async def open_stream(
    server: str, request: StreamRequest, *, token: str | None = None, connect_timeout_s: float = 10
) -> AsyncIterator[CaptionStream]:
    """Opens the stream `request` at `server` (``ws://HOST:PORT``) and closes it, with 1000, when the block is left.

    `token`: the access token, where the server asks for one.
    Raises `StreamRefusedError` if the server refuses it, `ServerUnreachableError` if none answers within
    `connect_timeout_s` seconds, ValueError if `server` is no such address. May be cancelled; the close then takes at
    most 2 seconds.
    """
    websocket = await connect(stream_url(server, request), timeout_s=connect_timeout_s, token=token)
    try:
        yield CaptionStream(websocket, NativeClient(request))
    finally:
        await websocket.aclose()
