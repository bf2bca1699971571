"""A stream of captions over a real WebSocket: the Trio shell around `NativeClient`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

from trio_stt.client.native_client import NativeClient, stream_url
from trio_stt.dialects.events import Close, ServerEvent, StreamRequest

_CLOSE_TIMEOUT_S = 2  # for the server's answer to our close frame; then the socket is closed without it


class ServerUnreachableError(Exception):
    """No WebSocket server answered at the address."""


class StreamRefusedError(Exception):
    """The server answered the request with an HTTP error. The message is the server's own, where it gave one."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        parameter: str | None,
        retry_after_s: float | None,
    ) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.code = code
        self.message = message
        self.parameter = parameter
        self.retry_after_s = retry_after_s


class StreamClosedError(Exception):
    """The connection is closed. `close.code` 1006: without a close frame."""

    def __init__(self, close: Close) -> None:
        super().__init__(f"the server closed the connection: {close.code} {close.reason}".rstrip())
        self.close = close


class CaptionStream:
    """One open stream. One task may send while another iterates; no two tasks may do the same at once.

    Iterating yields the server's events, `Ready` first. It ends when the connection was closed with 1000, as after
    `end`, and raises `StreamClosedError` for every other close; messages that came before a close are yielded first. A
    client that stops iterating is closed by the server with 4008.

    Sending raises `StreamClosedError` once the connection is closed; what the server sent before can still be read. A
    send that is cancelled may have been sent in part: leave the stream then.
    """

    def __init__(self, websocket: WebSocketConnection, client: NativeClient) -> None:
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
            await self._send(frame)

    async def finalize(self, id: str | int | None = None) -> None:
        """Asks for the finals of all sent before, then an `Ack` with `id`. Raises `StreamClosedError`."""
        await self._send(self._client.finalize(id))

    async def configure(self, **changes: object) -> None:
        """Asks for new values (see `NativeClient`); `Configured` or `Failure` answers. Raises `StreamClosedError`."""
        await self._send(self._client.configure(**changes))

    async def ping(self, id: str | int | None = None) -> None:
        """Asks for a `Pong` with `id`. Raises `StreamClosedError`."""
        await self._send(self._client.ping(id))

    async def end(self) -> None:
        """Says that no more audio comes: last finals follow, then the iteration ends. Raises `StreamClosedError`."""
        await self._send(self._client.end())

    def __aiter__(self) -> AsyncIterator[ServerEvent]:
        return self

    async def __anext__(self) -> ServerEvent:
        """The next event. May be cancelled: no event is lost. Raises `StreamClosedError` and `WireError`."""
        while True:
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed as closed:
                close = _close_of(closed)
                if close.code == 1000:
                    raise StopAsyncIteration from None
                raise StreamClosedError(close) from None
            event = self._client.receive(message)
            if event is not None:
                return event

    async def _send(self, frame: bytes | str) -> None:
        try:
            await self._websocket.send_message(frame)
        except ConnectionClosed as closed:
            raise StreamClosedError(_close_of(closed)) from None


@asynccontextmanager
async def open_stream(
    server: str, request: StreamRequest, *, connect_timeout_s: float = 10
) -> AsyncIterator[CaptionStream]:
    """Opens the stream `request` at `server` (``ws://HOST:PORT``) and closes it, with 1000, when the block is left.

    Raises `StreamRefusedError` if the server refuses it, `ServerUnreachableError` if none answers within
    `connect_timeout_s` seconds, ValueError if `server` is no such address. May be cancelled; the close then takes at
    most 2 seconds.
    """
    url = stream_url(server, request)
    async with AsyncExitStack() as stack:
        try:
            # No extension is asked for, so nothing is compressed: audio gains nothing by it.
            websocket = await stack.enter_async_context(
                open_websocket_url(url, connect_timeout=connect_timeout_s, receive_buffer_size=None)
            )
        except ConnectionRejected as rejected:
            raise _refused(rejected) from None
        except ConnectionTimeout:
            raise ServerUnreachableError(f"{server}: no WebSocket answer within {connect_timeout_s:g} s") from None
        except HandshakeError as error:
            raise ServerUnreachableError(f"{server}: {error.__cause__ or error}") from error
        try:
            yield CaptionStream(websocket, NativeClient(request))
        finally:
            with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                await websocket.aclose()


def _close_of(closed: ConnectionClosed) -> Close:
    return Close(int(closed.reason.code), closed.reason.reason or "") if closed.reason else Close(1006)


def _refused(rejected: ConnectionRejected) -> StreamRefusedError:
    headers = {name.lower(): value for name, value in rejected.headers}
    try:
        retry_after_s = float(headers[b"retry-after"])
    except (KeyError, ValueError):
        retry_after_s = None
    try:
        error = json.loads(rejected.body or b"")["error"]
        code, message, parameter = error["code"], error["message"], error.get("parameter")
    except (ValueError, KeyError, TypeError, AttributeError):  # not our server's body: a proxy's, for example
        code, message, parameter = None, "the server refused the stream", None
    return StreamRefusedError(rejected.status_code, code, message, parameter, retry_after_s)
