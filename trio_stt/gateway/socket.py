"""The server's end of a WebSocket: the `websockets` library's protocol, which itself reads and sends nothing, on TCP.

A message passes no task, channel or timer of its own: what one read brings is handed out together, and what the kernel
takes at once is sent without waiting. A Trio stream would add a system call and a cancel scope to each message.
"""

from __future__ import annotations

import json
import logging
import math
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final, cast

import trio
from websockets.datastructures import Headers
from websockets.frames import Close as FrameClose
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import BytesLike, Subprotocol

from trio_stt.dialects.events import Close
from trio_stt.dialects.request import Refusal
from trio_stt.gateway.auth import SUBPROTOCOL
from trio_stt.gateway.connections import VANISHED

READ_BYTES: Final = 16 * 1024
"""Most that is read at once, and so most that one client's messages keep the others waiting: 5 ms of empty frames."""

MOST_UNSENT_BYTES: Final = 64 * 1024
"""When more waits for the peer than this, because it asks for pongs and takes none, it is no longer read."""

PING_INTERVAL_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
"""A peer that answers no ping and sends nothing for so long, while it is read, is cut."""

CLOSE_LINGER_S: Final = 2.0
"""How long a connection that we closed stays open, its data thrown away, so that the peer can read the close frame."""

_LOGGER = logging.getLogger("websockets.server")
_LOGGER.setLevel(logging.WARNING)  # it has a line for each connection, and ours have more to say


class _Protocol(ServerProtocol):
    """Takes a close frame within a message for what it is, not for a fault (Autobahn's case 7.1.5)."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """The one that a token may follow; a browser fails a connection none of whose subprotocols was selected."""
        return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in subprotocols else None

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class Socket:
    """One WebSocket. A task may send while another receives; the front that made it closes it."""

    def __init__(self, tcp: socket.socket, request: Request, early: bytes, *, max_message_bytes: int) -> None:
        """`tcp`: connected, non-blocking, owned from now on. `early`: what the peer sent after its `request`."""
        self._tcp = tcp
        self._protocol = _Protocol(state=State.OPEN, max_size=max_message_bytes, logger=_LOGGER)
        self._answer = self._protocol.accept(request)
        self._answered = False
        self._early = early
        self._received: deque[bytes | str] = deque()
        self._parts = bytearray()  # of a message whose last frame has not come yet
        self._parts_are_text = False
        self._unsent = bytearray()  # what the kernel has not taken: at most one message of ours, and pongs
        self._sending = trio.Lock()  # held by the task that waits for the kernel to take more
        self._ended = False  # nothing more will be received
        self._peer_close_code = VANISHED
        self._reading_since = math.inf
        self._ping_at = trio.current_time() + PING_INTERVAL_S

    @property
    def refusal(self) -> Refusal | None:
        """Why the request is no handshake that could be accepted, or None."""
        if self._answer.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            return None
        return Refusal(self._answer.status_code, "bad_handshake", f"{self._protocol.handshake_exc}")

    @property
    def peer_close(self) -> Close:
        """How the peer ended the connection, once it has; also by a frame that breaks the protocol."""
        return Close(self._peer_close_code, "closed by the peer")

    async def accept(self) -> None:
        """Completes the handshake. May be cancelled."""
        await self._respond(self._answer)
        if self._early:
            self._take(self._early)
            self._early = b""

    def is_abandoned(self) -> bool:
        """Whether the peer has gone without having sent a message, as far as the system knows now. After `accept`.

        While nobody receives only. What it did send is there to be received.
        """
        while not self._ended and not self._received:
            try:
                data = self._tcp.recv(READ_BYTES)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            self._take(data)
        return not self._received

    async def refuse(self, refusal: Refusal) -> None:
        """Answers the handshake by an HTTP error. May be cancelled."""
        status = HTTPStatus(refusal.status)
        body = json.dumps(refusal.body()).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
        if self._answer.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            headers["Sec-WebSocket-Version"] = "13"  # RFC 6455, section 4.4
        if status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        self._protocol.state = State.CLOSED
        await self._respond(Response(status.value, status.phrase, headers, body))

    async def receive(self) -> bytes | str:
        """The next message. Raises `trio.EndOfChannel` after the last. May be cancelled: no message is lost.

        A checkpoint only if it must read.
        """
        await self._wait_for_message()
        return self._received.popleft()

    async def receive_some(self) -> list[bytes | str]:
        """All messages that are there, at least one; otherwise as `receive`."""
        await self._wait_for_message()
        messages = list(self._received)
        self._received.clear()
        return messages

    async def send(self, message: bytes | str) -> None:
        """Sends a message; waits while the peer does not read. Once the peer has gone, or after `close`, sends nothing.

        Cancelled, it may have sent nothing, or all; the rest of a part goes out before whatever is sent next.
        """
        await self._wait_until_sent()
        if self._protocol.state is State.OPEN:
            if isinstance(message, str):
                self._protocol.send_text(message.encode())
            else:
                self._protocol.send_binary(message)
            self._write()
            await self._wait_until_sent()
        await trio.lowlevel.checkpoint()

    async def close(self, close: Close) -> None:
        """Sends the close frame, if none is out; waits and is cancelled as `send`. Messages may still be received."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(close.code, close.reason)
            self._write()
        await self._wait_until_sent()
        await trio.lowlevel.checkpoint()

    def tend(self) -> None:
        """To be called about once a second: pings the peer, and cuts one that has been silent for too long."""
        now = trio.current_time()
        if now - self._reading_since >= READ_TIMEOUT_S:
            with suppress(OSError):  # it has gone by itself
                self._tcp.shutdown(socket.SHUT_RDWR)  # which wakes whoever reads or writes
        elif self._unsent:
            self._write()
        elif now >= self._ping_at and self._answered and self._protocol.state is State.OPEN:
            self._ping_at = now + PING_INTERVAL_S
            self._protocol.send_ping(b"")
            self._write()

    async def aclose(self) -> None:
        """Frees the socket, after at most `CLOSE_LINGER_S` in which the peer can read all that was sent.

        An open connection is closed with 1011, an unanswered request is answered by 500: its owner failed.
        """
        try:
            with trio.move_on_after(CLOSE_LINGER_S):
                if not self._answered:
                    await self.refuse(Refusal(500, "internal_error", "the server failed"))
                elif self._protocol.state is State.OPEN:
                    await self.close(Close(CloseCode.INTERNAL_ERROR, "internal error"))
                await self._wait_until_sent()
                await self._discard()
        finally:
            trio.lowlevel.notify_closing(self._tcp)
            self._tcp.close()
            # Both refer to the protocol, and the protocol to them.
            self._protocol.parser.close()
            self._protocol.parser_exc = None

    async def _respond(self, response: Response) -> None:
        self._answered = True
        self._unsent += response.serialize()
        self._write()
        await self._wait_until_sent()

    async def _wait_for_message(self) -> None:
        while not self._received:
            if self._ended:
                raise trio.EndOfChannel
            if len(self._unsent) > MOST_UNSENT_BYTES:
                await self._wait_until_sent()
            self._take(await self._read())

    async def _read(self) -> bytes:
        """What the peer sent, at most `READ_BYTES`; empty at the end. Always lets others have their turn first."""
        self._reading_since = trio.current_time()
        try:
            while True:
                await trio.lowlevel.wait_readable(self._tcp)
                try:
                    return self._tcp.recv(READ_BYTES)
                except BlockingIOError:
                    continue  # a false alarm
                except OSError:
                    return b""
        finally:
            self._reading_since = math.inf

    def _take(self, data: bytes) -> None:
        """Takes what was read: its messages are there to be received, its pings are answered."""
        protocol = self._protocol
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        for frame in cast(list[Frame], protocol.events_received()):
            if frame.opcode is Opcode.CLOSE:
                self._end(protocol.close_rcvd)
            elif frame.opcode is not Opcode.PING and frame.opcode is not Opcode.PONG and not self._ended:
                self._take_frame(frame)
        if protocol.parser_exc is not None:
            self._end(None if isinstance(protocol.parser_exc, EOFError) else protocol.close_sent)
        self._write()

    def _take_frame(self, frame: Frame) -> None:
        payload: BytesLike = frame.data
        if frame.opcode is not Opcode.CONT:
            self._parts_are_text = frame.opcode is Opcode.TEXT
        if frame.opcode is Opcode.CONT or not frame.fin:
            self._parts += payload
            if not frame.fin:
                return
            payload, self._parts = self._parts, bytearray()
        if not self._parts_are_text:
            self._received.append(bytes(payload))
            return
        try:
            self._received.append(str(payload, "utf-8"))
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA, "text that is not UTF-8")
            self._end(self._protocol.close_sent)

    def _end(self, how: FrameClose | None) -> None:
        if not self._ended:
            self._ended = True
            self._peer_close_code = VANISHED if how is None else int(how.code)

    def _write(self) -> None:
        """Gives the kernel as much as it takes of what is to be sent."""
        for data in self._protocol.data_to_send():
            self._unsent += data
        try:
            while self._unsent:
                del self._unsent[: self._tcp.send(self._unsent)]
            if self._protocol.eof_sent:
                self._tcp.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass  # `_wait_until_sent` waits until it takes more
        except OSError:
            self._unsent.clear()  # the peer has gone, which whoever reads finds out too

    async def _wait_until_sent(self) -> None:
        if not self._unsent:
            return
        async with self._sending:
            while self._unsent:
                await trio.lowlevel.wait_writable(self._tcp)
                self._write()

    async def _discard(self) -> None:
        """Reads until the peer closes: data that nobody has read would, at our close, destroy what it has not read."""
        with suppress(OSError):
            self._tcp.shutdown(socket.SHUT_WR)
            while await self._read():
                pass
