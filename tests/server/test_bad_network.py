"""The drills' bad network: what a client sees of each mishap."""

import random
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio

from trio_stt.drill import bad_network
from trio_stt.drill.bad_network import BadNetwork, Mishap


@asynccontextmanager
async def echoing(monkeypatch, mishap: Mishap | None, after_s: float):
    """A connection to a server that sends everything back, to which `mishap` happens; and the mishaps so far."""

    class Dice(random.Random):
        def expovariate(self, lambd: float = 1.0) -> float:
            return after_s

        def choice(self, seq):
            return mishap

    async def echo(stream: trio.SocketStream) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return

    monkeypatch.setattr(bad_network, "WAY_S", (0.0, 0.0))
    monkeypatch.setattr(bad_network, "HALF_OPEN_S", 0.3)
    noted: list[str] = []
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        port = listeners[0].socket.getsockname()[1]
        network = BadNetwork("127.0.0.1", port, Dice(1), noted.append)
        await nursery.start(network.run)
        async with await trio.open_tcp_stream("127.0.0.1", urlsplit(network.url).port) as stream:
            with trio.fail_after(10):
                yield stream, noted
        nursery.cancel_scope.cancel()


async def test_a_good_connection_passes_everything_both_ways_and_its_end(monkeypatch):
    async with echoing(monkeypatch, None, after_s=100) as (stream, noted):
        sent = random.Random(1).randbytes(300_000)
        received = bytearray()

        async def receive() -> None:
            async for data in stream:
                received.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await stream.send_all(sent)
            await stream.send_eof()
        assert received == sent
        assert noted == []


async def test_a_cut_connection_is_reset(monkeypatch):
    async with echoing(monkeypatch, Mishap.CUT, after_s=0.1) as (stream, noted):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(10)
        assert noted == ["cut"]


async def test_a_delayed_connection_goes_on_with_all_that_was_sent_meanwhile(monkeypatch):
    async with echoing(monkeypatch, Mishap.DELAYED, after_s=0.05) as (stream, noted):
        await trio.sleep(0.1)
        assert noted == ["delayed"]
        began = trio.current_time()
        await stream.send_all(b"word")
        assert await stream.receive_some(10) == b"word"
        assert trio.current_time() - began > 0.05


async def test_of_a_half_open_connection_nothing_is_heard_until_it_is_reset(monkeypatch):
    async with echoing(monkeypatch, Mishap.HALF_OPEN, after_s=0.05) as (stream, noted):
        await trio.sleep(0.1)
        assert noted == ["half-open"]
        await stream.send_all(b"word")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(10)
