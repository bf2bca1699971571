"""A network that delays, cuts and half-opens connections: a proxy before the fleet's port."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from enum import Enum

import trio

MEAN_GOOD_S = 12.0
"""A connection is well for so long, on average, before something happens to it."""

WAY_S = (0.01, 0.08)
"""How long bytes are under way in each direction: one value for each connection, between these."""

HELD_S = (0.2, 1.2)
"""How long nothing passes in a delay; beyond 1.5 s a client would rightly think that the connection is lost."""

HALF_OPEN_S = 20.0
"""How long a connection that nobody told of its end is kept open towards the server."""

_CHUNK = 65536


class Mishap(Enum):
    """What may happen to a connection."""

    DELAYED = "delayed"
    CUT = "cut"
    HALF_OPEN = "half-open"


class BadNetwork:
    """Passes connections on to `host` and `port`, badly. `note` is told of each mishap."""

    def __init__(self, host: str, port: int, dice: random.Random, note: Callable[[str], None]) -> None:
        self.url = ""
        """Where clients come to; known once `run` has started."""
        self._host = host
        self._port = port
        self._dice = dice
        self._note = note

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listens on a free port of 127.0.0.1 until cancelled."""
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._carry, 0)
            self.url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            task_status.started()

    async def _carry(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(self._host, self._port)
        except OSError:
            await client.aclose()
            return
        async with client, server:
            road = _Road(client, server, self._dice.uniform(*WAY_S))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(road.run, nursery.cancel_scope)
                await self._spoil(road)
                nursery.cancel_scope.cancel()

    async def _spoil(self, road: _Road) -> None:
        while True:
            await trio.sleep(self._dice.expovariate(1 / MEAN_GOOD_S))
            mishap = self._dice.choice(list(Mishap))
            self._note(mishap.value)
            if mishap is Mishap.DELAYED:
                road.hold()
                await trio.sleep(self._dice.uniform(*HELD_S))
                road.let_go()
            elif mishap is Mishap.CUT:
                road.cut()
                return
            else:
                road.hold()
                await trio.sleep(HALF_OPEN_S)
                road.cut()
                return


class _Road:
    """One connection, both ways."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream, way_s: float) -> None:
        self._client = client
        self._server = server
        self._way_s = way_s
        self._held = trio.Event()
        self._held.set()

    async def run(self, over: trio.CancelScope) -> None:
        """Carries bytes until one side has closed and the other knows; then cancels `over`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, self._client, self._server, over)
            nursery.start_soon(self._carry, self._server, self._client, over)
        over.cancel()

    def hold(self) -> None:
        """From now on nothing passes, not even the end."""
        self._held = trio.Event()

    def let_go(self) -> None:
        """What was held passes."""
        self._held.set()

    def cut(self) -> None:
        """Both sides see a reset when their streams are closed."""
        for stream in (self._client, self._server):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _carry(self, source: trio.SocketStream, target: trio.SocketStream, over: trio.CancelScope) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](1024)

        async def deliver() -> None:
            async for due, data in receive:
                await trio.sleep_until(due)
                await self._held.wait()
                await target.send_all(data)
            await self._held.wait()
            await target.send_eof()

        async def collect() -> None:
            async with send:
                while data := await source.receive_some(_CHUNK):
                    await send.send((trio.current_time() + self._way_s, data))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deliver)
                nursery.start_soon(collect)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._held.wait()
            self.cut()
            over.cancel()
