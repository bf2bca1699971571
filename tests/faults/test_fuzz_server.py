"""Nonsense over real sockets: the server lives, nothing leaks, and a client who speaks meanwhile notices nothing."""

import logging
import random

import pytest
import structlog
import trio

from tests.faults.fuzzer import Fuzzer
from tests.server.conftest import Server, finals_of, running_server
from tests.unit.fakes import silence, sound
from trio_stt.client.connection import StreamClosedError

CONNECTIONS = 200
FRAMES_A_CONNECTION = 25
UPGRADE = (
    "GET /ws/vosk/?client_id=raw&session_id=call HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def send_fuzzed_frames(server: Server, seed: int) -> int:
    """One connection's worth of fuzzed frames; how many of them the server took."""
    fuzzer = Fuzzer(seed)
    request = fuzzer.request()
    query = (
        f"client_id=fuzz{seed}&session_id=call&framing={request.framing}&encoding={request.encoding}"
        f"&speak={str(request.speak).lower()}"
    )
    sent = 0
    try:
        async with server.raw(query) as websocket, trio.open_nursery() as nursery:
            nursery.start_soon(read_all, websocket)
            for _ in range(FRAMES_A_CONNECTION):
                frame = fuzzer.frame(0)
                if isinstance(frame, str):
                    frame = frame.encode(errors="replace").decode()
                await websocket.send(frame)
                sent += 1
            nursery.cancel_scope.cancel()
    except* StreamClosedError:
        pass  # what most of them are answered with
    return sent


async def read_all(websocket) -> None:
    try:
        while True:
            await websocket.receive()
    except StreamClosedError:
        pass


async def send_fuzzed_bytes(server: Server, seed: int) -> None:
    """Bytes that are no WebSocket frames, or no HTTP, on a bare socket that is then dropped."""
    chosen = random.Random(seed)
    stream = await trio.open_tcp_stream("127.0.0.1", int(server.ws.rpartition(":")[2]))
    async with stream:
        upgrade = UPGRADE.encode()
        await stream.send_all(upgrade if seed % 2 else upgrade[: chosen.randrange(len(upgrade))])
        try:
            for _ in range(5):
                await stream.send_all(
                    bytes([chosen.choice([0x81, 0x82, 0x88, 0x89, 0x01, 0xFF])]) + chosen.randbytes(30)
                )
        except trio.BrokenResourceError:
            pass  # the server had enough


@pytest.fixture
def errors(caplog):
    """Every error that is logged while the test runs, by us or by the libraries below."""
    caplog.set_level(logging.ERROR)
    with structlog.testing.capture_logs() as ours:
        yield lambda: [*caplog.messages, *(entry for entry in ours if entry["log_level"] in ("error", "critical"))]


async def test_nonsense_harms_nobody(errors):
    async with running_server() as server, server.speaker("calm", "call", presence=False, partials=False) as calm:
        taken = 0

        async def fuzz(seeds: range) -> None:
            nonlocal taken
            for seed in seeds:
                taken += await send_fuzzed_frames(server, seed)
                await send_fuzzed_bytes(server, seed)

        async with trio.open_nursery() as nursery:
            for lane in range(4):
                nursery.start_soon(fuzz, range(lane, CONNECTIONS, 4))
            spoken = 0
            while len(nursery.child_tasks):
                await calm.send_audio(sound(1).tobytes() + silence(1).tobytes())
                await calm.finalize()
                (final,) = [final for final in await finals_of(calm, 1) if final.client_id == "calm"]
                assert final.text == "w1 w2"
                spoken += 1
                await trio.sleep(0.05)
        assert spoken > 3
        assert taken > CONNECTIONS
        await calm.end()
        with trio.fail_after(10):
            await server.instance.connections.wait_empty()
        assert (server.instance.admission.speakers, server.instance.admission.listeners) == (0, 0)
    assert errors() == []


async def test_a_client_that_does_not_wait_for_the_upgrade_is_refused_or_served_and_holds_no_place(errors):
    async with running_server() as server:
        for _ in range(6):
            stream = await trio.open_tcp_stream("127.0.0.1", int(server.ws.rpartition(":")[2]))
            async with stream:
                await stream.send_all(UPGRADE.encode() + b"\x81\x80\x00\x00\x00\x00")
                with trio.fail_after(5):
                    answer = b"".join([data async for data in stream])
            # Which one depends on what is dealt with first, the frame or the answer. The frame is no JSON object: 1007.
            served = answer.startswith(b"HTTP/1.1 101 ") and (1007).to_bytes(2, "big") + b"bad_message" in answer
            assert served or answer.startswith(b"HTTP/1.1 400 ")
        with trio.fail_after(5):
            await server.instance.connections.wait_empty()
        assert server.instance.admission.speakers == 0
    assert errors() == []
