"""Connections between a client and instances, in memory: what is on its way can be held up, or lost with them.

Each end has the interface of the real one: `trio_stt.client.websocket.WebSocket` and `trio_stt.gateway.socket.Socket`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import trio
from attrs import frozen

from trio_stt.client.refusal import ServerUnreachableError, StreamClosedError, StreamRefusedError
from trio_stt.dialects.events import Close
from trio_stt.dialects.request import Refusal
from trio_stt.gateway.connections import VANISHED

ROOM = 64
"""Messages of one direction that are sent and not read; the sender of one more waits."""

GIVEN_UP_S = 15.0
"""A server learns so late that a connection is gone of which nobody tells it (``TCP_USER_TIMEOUT_S``)."""

HUNG_UP = Close(VANISHED)


@frozen
class Accepted:
    """The answer to an upgrade that is none to refuse it."""


class Direction:
    """One direction of a connection. What is `on_its_way` has left one end and not arrived at the other."""

    def __init__(self, is_held_up: Callable[[], bool]) -> None:
        self._is_held_up = is_held_up
        self.on_its_way: deque = deque()
        self.arrived: deque = deque()
        self.broken = False  # nothing more is let in
        self._changed = trio.Event()

    @property
    def _full(self) -> bool:
        return len(self.on_its_way) + len(self.arrived) >= ROOM

    async def put(self, message: object) -> None:
        """Sends a message, once there is room."""
        await trio.lowlevel.checkpoint()
        while self._full and not self.broken:
            await self._changed.wait()
        self.put_now(message)

    def put_now(self, message: object) -> None:
        """The same at once: what an operating system says needs no room."""
        if not self.broken:
            self.on_its_way.append(message)
            if not self._is_held_up():
                self.deliver(len(self.on_its_way))

    def deliver(self, count: int) -> None:
        """The next messages arrive."""
        for _ in range(min(count, len(self.on_its_way))):
            self.arrived.append(self.on_its_way.popleft())
        self.notify()

    def break_off(self, kept: float, told: bool) -> None:
        """Loses the last of what is on its way, but for that share; `told`: the other end learns it at once."""
        if self.broken:
            return
        for _ in range(round((1 - kept) * len(self.on_its_way))):
            self.on_its_way.pop()
        if told:
            self.put_now(HUNG_UP)
        self.broken = True
        self.notify()

    def give_up(self) -> None:
        """The operating system finds that the connection is gone."""
        self.arrived.append(HUNG_UP)
        self.notify()

    def notify(self) -> None:
        """Something has changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_arrived(self) -> None:
        """Returns when there is something to read."""
        while not self.arrived:
            await self._changed.wait()

    async def take(self) -> object:
        """The next that arrived."""
        await self.wait_arrived()
        message = self.arrived.popleft()
        self.notify()
        return message


class Link:
    """One connection, from the request for it on."""

    def __init__(self, network: Network, url: str) -> None:
        self.url = url
        self.to_server = Direction(lambda: network.holds_up_requests)
        self.to_client = Direction(lambda: network.holds_up_answers)
        self.over = False  # for the client
        self.served = False  # for the server: to its end

    def leave(self, close: Close) -> None:
        """The client's end is closed: nobody reads any more what is sent to it."""
        self.over = True
        self.to_server.put_now(close)
        self.to_client.break_off(0, told=False)

    def cut(self, kept: float, *, tell_client: bool, tell_server: bool) -> None:
        """The network loses the connection."""
        self.to_client.break_off(kept, tell_client)
        self.to_server.break_off(kept, tell_server)


class Network:
    """All connections, and where the instances are."""

    def __init__(self) -> None:
        self.holds_up_requests = False
        self.holds_up_answers = False
        self.links: list[Link] = []
        self.listeners: dict[str, Callable[[Link], None]] = {}
        """Who is asked at each host; nobody: there is no process."""

    async def connect(self, url: str, *, timeout_s: float, token: str | None = None) -> ClientEnd:
        """As `trio_stt.client.websocket.connect`."""
        await trio.lowlevel.checkpoint()
        listener = self.listeners.get(urlsplit(url).hostname or "")
        if listener is None:
            raise ServerUnreachableError("nobody is there")
        link = Link(self, url)
        self.links.append(link)
        listener(link)
        try:
            answer = await link.to_client.take()
        except trio.Cancelled:
            link.leave(HUNG_UP)
            raise
        if isinstance(answer, Accepted):
            return ClientEnd(link)
        link.over = True
        if isinstance(answer, Refusal):
            wait_s = None if answer.retry_after_s is None else float(answer.retry_after_s)
            raise StreamRefusedError(answer.status, answer.code, answer.message, answer.parameter, wait_s)
        raise ServerUnreachableError("it hung up")

    def deliver(self, count: int) -> None:
        """So many messages arrive in each direction of each connection."""
        for link in self.links:
            link.to_server.deliver(count)
            link.to_client.deliver(count)


class ClientEnd:
    """What the client holds."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._closed: Close | None = None

    async def send(self, message: bytes | str) -> None:
        if self._closed is not None:
            raise StreamClosedError(self._closed)
        await self._link.to_server.put(message)

    async def receive(self) -> bytes | str:
        if self._closed is None:
            message = await self._link.to_client.take()
            if not isinstance(message, Close):
                assert isinstance(message, bytes | str)
                return message
            self._closed = message
            self._link.leave(Close(message.code))
        raise StreamClosedError(self._closed)

    async def aclose(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if self._closed is None:
            self._link.leave(Close(1000))


class ServerEnd:
    """What the instance holds."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._accepted = False
        self._closed = False
        self.peer_close = HUNG_UP
        self.ended = False
        """Whether it was read that the client has closed."""

    @property
    def query(self) -> tuple[tuple[str, str], ...]:
        """What the request asks for."""
        return tuple(parse_qsl(urlsplit(self._link.url).query))

    async def accept(self) -> None:
        self._accepted = True
        await self._link.to_client.put(Accepted())

    async def refuse(self, refusal: Refusal) -> None:
        await self._link.to_client.put(refusal)

    def is_abandoned(self) -> bool:
        arrived = self._link.to_server.arrived
        return bool(arrived) and isinstance(arrived[0], Close)

    async def receive_some(self) -> list[bytes | str]:
        messages: list[bytes | str] = []
        while not messages:
            if self.ended:
                raise trio.EndOfChannel
            await self._link.to_server.wait_arrived()
            while self._link.to_server.arrived and not self.ended:
                message = await self._link.to_server.take()
                if isinstance(message, Close):
                    self.ended, self.peer_close = True, message
                else:
                    assert isinstance(message, bytes | str)
                    messages.append(message)
        return messages

    async def send(self, message: bytes | str) -> None:
        if not self._closed and not self.ended:
            await self._link.to_client.put(message)
        else:
            await trio.lowlevel.checkpoint()

    async def close(self, close: Close) -> None:
        if not self._closed and not self.ended:
            self._closed = True
            await self._link.to_client.put(Close(close.code, close.label))
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self._accepted:
            await self.close(Close(1011, "internal error"))
        self._link.served = True
