"""Clients of one call on two servers that share a real Redis."""

import socket
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.server.redis_server import redis_server
from tests.server.test_misuse import masked
from tests.unit.fakes import silence, sound
from trio_stt.client.websocket import StreamClosedError
from trio_stt.dialects.events import Ack, Presence, Ready, Transcript

WORDS = sound(1.0).tobytes() + silence(1.0).tobytes()


@pytest.fixture
async def redis():
    with redis_server() as server:
        yield server


@asynccontextmanager
async def two_servers(redis, **changes):
    async with (
        running_server(redis_url=redis.url, **changes) as here,
        running_server(redis_url=redis.url, **changes) as there,
    ):
        yield here, there


async def wait_until_up(*servers) -> None:
    with trio.fail_after(10):
        for server in servers:
            while not (server.instance.bus.up and server.instance.journal.in_step):
                await trio.sleep(0.01)


async def test_a_listener_on_another_instance_hears_partials_and_finals_in_order_once(redis):
    async with (
        two_servers(redis) as (here, there),
        there.speaker("bob", speak=False, presence=True) as bob,
        here.speaker("ann") as ann,
    ):
        for _ in range(3):
            await ann.send_audio(WORDS)
        finals = await finals_of(bob, 3)
        assert [final.start_sample for final in finals] == sorted(final.start_sample for final in finals)
        assert len({final.segment_id for final in finals}) == 3
        late_history = [final async for final in _history(there, 3)]
        assert [final.segment_id for final in late_history] == [final.segment_id for final in finals]
        await ann.end()
        with trio.fail_after(10):
            async for event in bob:
                if event == Presence("left", "ann"):
                    break
                assert not (isinstance(event, Transcript) and event.is_final and event.text)


async def _history(server, count: int):
    async with server.speaker("late", speak=False, history=count) as late:
        for final in await finals_of(late, count):
            assert final.history
            yield final


async def test_a_client_that_connects_elsewhere_is_closed_where_it_was(redis):
    async with two_servers(redis) as (here, there):
        await wait_until_up(here, there)
        async with here.speaker("ann") as old:
            assert isinstance(await anext(old), Ready)  # else it may come to the call after the other
            async with there.speaker("ann"):
                with pytest.raises(StreamClosedError) as closed, trio.fail_after(10):
                    async for _ in old:
                        pass
                assert closed.value.close.code == 4001


def ask_and_give_up(server, query: str, *frames: bytes) -> None:
    """A client that asks for a WebSocket and has gone before the server, in this same thread, can look at it."""
    host, _, port = server.http.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.sendall(
            f"GET /ws/vosk/?{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        peer.sendall(b"".join(frames))


async def test_a_client_that_gave_up_here_before_it_was_served_keeps_its_connection_elsewhere(redis):
    async with (
        two_servers(redis, resume_window_s=30) as (here, there),
        here.speaker("bob", speak=False, presence=True) as bob,
        there.speaker("ann") as ann,
    ):
        ask_and_give_up(here, "client_id=ann&session_id=call&framing=seq")
        with trio.fail_after(10):
            while await metric(here, "connections_total") != 2:
                await trio.sleep(0.01)
            while len(list(here.instance.connections)) > 1:
                await trio.sleep(0.01)
        assert here.instance.admission.parked == 0
        await ann.send_audio(WORDS)
        (final,) = await finals_of(bob, 1)
        assert final.text == "w1 w2"
        await ann.end()
        with trio.fail_after(10):
            assert [event async for event in ann]  # which raises if it was closed by any code but 1000


async def test_what_a_client_said_before_it_went_is_heard(redis):
    async with two_servers(redis) as (here, there), there.speaker("bob", speak=False) as bob:
        ask_and_give_up(here, "client_id=ann&session_id=call", masked(WORDS))
        (final,) = await finals_of(bob, 1)
        assert final.text == "w1 w2"


async def metric(server, name: str) -> float:
    async with httpx.AsyncClient(base_url=server.http) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"trio_stt_{name} "))


async def test_tenants_and_sessions_do_not_meet_on_the_bus(redis):
    async with (
        two_servers(redis) as (here, there),
        there.speaker("bob", session_id="call:2", speak=False, presence=True) as bob,
        here.speaker("ann", session_id="call") as ann,
    ):
        await ann.send_audio(WORDS)
        await ann.end()
        with trio.fail_after(10):
            async for _ in ann:
                pass
        with trio.move_on_after(1):
            async for event in bob:
                assert not isinstance(event, Transcript | Presence)


async def test_captions_go_on_without_redis_and_reach_the_others_when_it_returns(redis):
    async with (
        two_servers(redis) as (here, there),
        there.speaker("bob", speak=False, partials=False) as bob,
        here.speaker("near", speak=False, partials=False) as near,
        here.speaker("ann", partials=False) as ann,
    ):
        await ann.send_audio(WORDS)
        heard = await finals_of(bob, 1)
        await finals_of(near, 1)
        redis.stop()
        for _ in range(3):
            await ann.send_audio(WORDS)
        during = await finals_of(near, 3)
        async with httpx.AsyncClient() as client:
            health = (await client.get(f"{here.http}/health")).json()
        assert health["details"]["bus"]["status"] == "degraded"
        assert health["details"]["bus"]["unconfirmed"] >= 3
        assert health["ready"]
        redis.start()  # empty
        heard += await finals_of(bob, 3)
        await wait_until_up(here, there)
        await ann.send_audio(WORDS)
        heard += await finals_of(bob, 1)
        during += await finals_of(near, 1)
        assert [final.segment_id for final in heard[1:]] == [final.segment_id for final in during]
        assert here.instance.journal.unconfirmed == 0


async def test_without_redis_an_ack_does_not_move_past_what_is_not_stored(redis):
    async with running_server(redis_url=redis.url) as server, server.speaker("ann") as ann:
        await ann.send_audio(WORDS)
        await finals_of(ann, 1)
        redis.stop()
        await ann.send_audio(WORDS)
        (lost,) = await finals_of(ann, 1)
        assert await acks_until_finalized(ann) <= lost.start_sample
        redis.start()
        await wait_until_up(server)
        with trio.fail_after(10):
            await server.instance.journal.wait_empty(10)
        await ann.send_audio(silence(1.0).tobytes())
        assert await acks_until_finalized(ann) >= lost.end_sample


async def acks_until_finalized(stream) -> int:
    """The position of the ack that answers `finalize`."""
    await stream.finalize("now")
    with trio.fail_after(10):
        async for event in stream:
            if isinstance(event, Ack) and event.from_finalize:
                return event.sample
    raise AssertionError("no ack")


async def test_a_server_starts_and_serves_without_its_redis(redis):
    redis.stop()
    async with running_server(redis_url=redis.url) as server, server.speaker("ann") as ann:
        await ann.send_audio(WORDS)
        assert len(await finals_of(ann, 1)) == 1
