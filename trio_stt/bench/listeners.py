"""Listeners of one call, in a process of their own: ``python -m trio_stt.bench.listeners URL COUNT``.

Says ``ready`` when all are connected, then reads whatever comes until the server closes.
"""

from __future__ import annotations

import sys

import trio

from trio_stt.client.connection import open_stream
from trio_stt.client.websocket import StreamClosedError
from trio_stt.dialects.events import StreamRequest

SESSION = "bench-fanout"


async def listen(url: str, count: int) -> None:
    """Connects `count` listeners and reads."""
    async with trio.open_nursery() as nursery:
        for number in range(count):
            await nursery.start(_listen_once, url, number)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


async def _listen_once(url: str, number: int, *, task_status: trio.TaskStatus[None]) -> None:
    request = StreamRequest(f"listener-{number}", SESSION, speak=False)
    async with open_stream(url, request) as stream:
        task_status.started()
        try:
            async for _ in stream:
                pass
        except StreamClosedError:
            pass


if __name__ == "__main__":
    trio.run(listen, sys.argv[1], int(sys.argv[2]))
