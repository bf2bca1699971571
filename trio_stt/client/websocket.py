"""A client's WebSocket on Trio: wsproto over TCP or TLS, without a background task.

trio-websocket 0.12 leaves a client's socket to the garbage collector when the server refuses it or closes first, and
waits out its whole time limit when the server hangs up during the handshake.
"""

from __future__ import annotations

import ssl
from collections import deque
from typing import Any
from urllib.parse import SplitResult, urlsplit

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from trio_stt.client.refusal import ServerUnreachableError, StreamClosedError, StreamRefusedError, read_refusal
from trio_stt.dialects.events import Close

__all__ = ["ServerUnreachableError", "StreamClosedError", "StreamRefusedError", "WebSocket", "connect"]

_MAX_REFUSAL_BYTES = 64 * 1024
_ANSWER_TIMEOUT_S = 2  # for a pong to go out, and for the server's answer to our close frame
_VANISHED = Close(1006)  # RFC 6455, section 7.4.1: no close frame came


class WebSocket:
    """A connection that `connect` opened. Tasks may send and receive at once; the owner calls `aclose`."""

    def __init__(self, stream: trio.abc.Stream, protocol: WSConnection) -> None:
        """`protocol`: with its handshake done."""
        self._stream = stream
        self._protocol = protocol
        self._messages: deque[bytes | str] = deque()
        self._parts: list[Any] = []  # of a message that is still coming, all bytes or all str
        self._closed: Close | None = None  # set when it arrives; messages that came before it may still wait
        self._unsent = b""
        self._sends_part = False  # of what was handed over for sending: a frame may have been cut
        self._sending = trio.Lock()
        self._receiving = trio.Lock()
        self._note_events()

    async def send(self, message: bytes | str) -> None:
        """Sends one message; waits while the server does not read. Raises `StreamClosedError`.

        Cancelled, it may have sent a part: only `aclose` is of use then.
        """
        if self._closed is not None:
            raise StreamClosedError(self._closed)
        self._unsent += self._protocol.send(
            BytesMessage(message) if isinstance(message, bytes) else TextMessage(message)
        )
        try:
            async with self._sending:
                await self._send_unsent()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # `_closed` is left to the receiver: a close frame may have come that nobody has read yet.
            raise StreamClosedError(self._closed or _VANISHED) from None

    async def receive(self) -> bytes | str:
        """The next message. Raises `StreamClosedError` after the last. May be cancelled: no message is lost."""
        async with self._receiving:
            while not self._messages:
                if self._closed is not None:
                    raise StreamClosedError(self._closed)
                await self._read()
            return self._messages.popleft()

    async def aclose(self) -> None:
        """Closes with 1000 if nobody has closed yet, and frees the socket within 2 seconds, also when cancelled.

        Where a cancelled send has cut a frame, a close frame would be taken for a part of that: it is not sent.
        """
        if self._sends_part and not self._sending.locked():
            await trio.aclose_forcefully(self._stream)
            return
        try:
            with trio.move_on_after(_ANSWER_TIMEOUT_S, shield=True):
                if self._closed is None:
                    self._unsent += self._protocol.send(CloseConnection(1000))
                    async with self._sending:
                        await self._send_unsent()
                async with self._receiving:
                    while self._closed is None:
                        await self._read()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the server has gone, so there is nobody to say goodbye to
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _send_unsent(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            self._sends_part = True
            await self._stream.send_all(data)
            self._sends_part = False

    async def _read(self) -> None:
        """Waits for data and notes what it means; a ping is answered unless a send under way will do so."""
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        try:
            self._protocol.receive_data(bytes(data) or None)
            self._note_events()
        except RemoteProtocolError:
            self._closed = _VANISHED
        if self._unsent and not self._sending.locked():
            async with self._sending:
                with trio.move_on_after(_ANSWER_TIMEOUT_S, shield=True):
                    try:
                        await self._send_unsent()
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass  # the next read finds out how the connection ended

    def _note_events(self) -> None:
        for event in self._protocol.events():
            if isinstance(event, BytesMessage | TextMessage):
                self._parts.append(event.data)
                if event.message_finished:
                    self._messages.append(("" if isinstance(event, TextMessage) else b"").join(self._parts))
                    self._parts.clear()
            elif isinstance(event, Ping):
                self._unsent += self._protocol.send(event.response())
            elif isinstance(event, CloseConnection):
                self._closed = Close(int(event.code), event.reason or "")
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    self._unsent += self._protocol.send(event.response())


async def connect(url: str, *, timeout_s: float, token: str | None = None) -> WebSocket:
    """Opens a connection to `url`. Compression is not offered: audio gains nothing by it. May be cancelled.

    `token`: an access token, sent in a header. It goes to whoever answers at `url`: use ``wss://`` across a network.
    Raises `ServerUnreachableError` if nobody accepts it within `timeout_s` seconds, `StreamRefusedError` if the server
    answers with anything but the upgrade.
    """
    address = urlsplit(url)
    server = f"{address.scheme}://{address.netloc}"
    try:
        with trio.fail_after(timeout_s):
            stream = await _open_transport(address)
            try:
                return WebSocket(stream, await _shake_hands(stream, address, token))
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError:
        raise ServerUnreachableError(f"{server}: no WebSocket answer within {timeout_s:g} s") from None
    except (OSError, trio.BrokenResourceError, RemoteProtocolError) as error:
        raise ServerUnreachableError(f"{server}: {error or error.__cause__}") from error


async def _open_transport(address: SplitResult) -> trio.abc.Stream:
    host = address.hostname or ""
    if address.scheme == "wss":
        context = ssl.create_default_context()
        return await trio.open_ssl_over_tcp_stream(
            host, address.port or 443, ssl_context=context, https_compatible=True
        )
    return await trio.open_tcp_stream(host, address.port or 80)


async def _shake_hands(stream: trio.abc.Stream, address: SplitResult, token: str | None) -> WSConnection:
    protocol = WSConnection(ConnectionType.CLIENT)
    target = f"{address.path}?{address.query}" if address.query else address.path
    headers = [] if token is None else [(b"Authorization", b"Bearer " + token.encode())]
    await stream.send_all(protocol.send(Request(host=address.netloc, target=target, extra_headers=headers)))
    refusal: RejectConnection | None = None
    body = b""
    while True:
        data = await stream.receive_some()
        protocol.receive_data(bytes(data) or None)
        if protocol.state is ConnectionState.OPEN:
            return protocol
        for event in protocol.events():
            if isinstance(event, RejectConnection):
                refusal = event
            elif isinstance(event, RejectData):
                body += event.data
        if refusal is not None and (protocol.state is ConnectionState.CLOSED or len(body) > _MAX_REFUSAL_BYTES):
            told = {name.lower(): value for name, value in refusal.headers}
            raise read_refusal(refusal.status_code, told.get(b"retry-after"), body)
        if not data:
            raise RemoteProtocolError("the server hung up instead of answering")
