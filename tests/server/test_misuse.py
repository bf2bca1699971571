"""Clients that misbehave: each gets its defined answer, others notice nothing, nothing is left behind."""

import json
import socket as stdlib_socket
from contextlib import asynccontextmanager, suppress

import psutil
import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.unit.fakes import FakeEngine, sound
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError
from trio_stt.dialects.events import Pong, Ready, Transcript
from trio_stt.dialects.native import MAX_FRAME_BYTES
from trio_stt.gateway.connection import Connection

QUERY = "client_id=mallory&session_id=call"


def masked(payload: bytes, opcode: int = 0x82) -> bytes:
    """One client frame with an all-zero mask."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([opcode]) + length + bytes(4) + payload


async def close_of(socket, *frames) -> tuple[list, int]:
    """What a client receives that sends `frames`, and the code its connection is closed with."""
    messages = []
    with trio.fail_after(8):
        try:
            for frame in frames:
                await socket.send(frame)
            while True:
                messages.append(json.loads(await socket.receive()))
        except StreamClosedError as closed:
            try:
                while True:
                    messages.append(json.loads(await socket.receive()))
            except StreamClosedError as last:
                return messages, (last if last.close.code != 1006 else closed).close.code


@asynccontextmanager
async def bystander(server):
    """A client in the same session that must be captioned as if nothing had happened."""
    async with server.speaker("bystander") as stream:
        assert isinstance(await anext(stream), Ready)
        yield
        await stream.send_audio(sound(1).tobytes())
        await stream.finalize()
        with trio.fail_after(5):
            async for event in stream:
                if isinstance(event, Transcript) and event.is_final and event.client_id == "bystander":
                    assert event.text == "w1 w2"
                    return


async def nothing_left(server) -> None:
    """Waits until no stream, member or recogniser is left."""
    with trio.fail_after(5):
        while (
            len(server.instance.connections)
            or len(server.instance.sessions)
            or server.engine.open_recognisers
            or server.instance.admission.speakers
        ):
            await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("framing", "frames", "code", "error"),
    [
        ("auto", [b"\0"], 1003, "bad_frame"),
        ("auto", [b"CHID" + bytes(9)], 1003, "bad_frame"),
        ("seq", [b"SEQ1" + bytes(3)], 1003, "bad_frame"),
        ("seq", [b"samples without a header"], 1003, "bad_frame"),
        ("seq", [b"SEQ1" + (100).to_bytes(8, "little") + bytes(20)], 1008, "gap"),
        ("auto", ["this is no JSON"], 1007, None),
        ("auto", ["[1,2]"], 1007, None),
        ("auto", ["5"], 1007, None),
        ("auto", ['{"type":"resume","token":"x"}'], 1008, None),
    ],
)
async def test_a_frame_that_breaks_the_protocol_closes_with_its_code(server, framing, frames, code, error):
    async with bystander(server), server.raw(f"{QUERY}&framing={framing}") as socket:
        messages, closed_with = await close_of(socket, *frames)
    assert closed_with == code
    if error is not None:
        assert [message["code"] for message in messages if message["type"] == "error"] == [error]
    await nothing_left(server)


async def test_what_was_said_before_a_bad_frame_is_still_captioned(server):
    async with server.raw(QUERY) as socket:
        messages, code = await close_of(socket, sound(1).tobytes(), b"\0")
    assert code == 1003
    assert [message["text"] for message in messages if message.get("is_final")] == ["w1 w2"]


async def test_the_close_code_reaches_a_client_that_goes_on_sending(server):
    async with server.raw(QUERY) as socket:
        _, code = await close_of(socket, b"\0", *[bytes(3200)] * 200)
    assert code == 1003


async def test_an_unknown_type_is_answered_and_the_stream_goes_on(server):
    async with server.raw(QUERY) as socket:
        messages, code = await close_of(socket, '{"type":"dance"}', sound(1).tobytes(), '{"type":"eof"}')
    assert code == 1000
    assert messages[1]["code"] == "unknown_type"
    assert any(message.get("is_final") for message in messages)


async def test_empty_frames_are_empty_audio(server):
    async with server.raw(QUERY) as socket:
        messages, code = await close_of(socket, b"", sound(1).tobytes(), b"", '{"type":"eof"}')
    assert code == 1000
    assert [message["text"] for message in messages if message.get("is_final")] == ["w1 w2"]


async def test_a_frame_of_ten_megabytes_closes_with_1009_and_the_socket_soon_after(server):
    async with bystander(server):
        async with server.raw(QUERY) as socket:
            _, code = await close_of(socket, bytes(10_000_000))
        await nothing_left_of_connections(server, 1)
    assert code == 1009
    await nothing_left(server)


async def test_a_frame_may_be_as_large_as_the_limit_and_no_larger(server):
    fitting = '{"type":"ping"}'.ljust(MAX_FRAME_BYTES)
    async with server.raw(QUERY) as socket:
        messages, code = await close_of(socket, bytes(MAX_FRAME_BYTES), fitting, '{"type":"eof"}')
    assert code == 1000
    assert "pong" in [message["type"] for message in messages]
    for too_large in (bytes(MAX_FRAME_BYTES + 1), fitting + " ", "é" * (MAX_FRAME_BYTES // 2 + 1)):
        async with server.raw(QUERY) as socket:
            assert (await close_of(socket, too_large))[1] == 1009


async def nothing_left_of_connections(server, but: int, within_s: float = 3) -> None:
    with trio.fail_after(within_s):
        while len(server.instance.connections) > but:
            await trio.sleep(0.02)


async def test_a_silent_peer_after_1009_is_disconnected_by_the_server(server):
    stream = await plain_upgrade(server)
    await stream.send_all(b"\x82\xff" + (10_000_000).to_bytes(8, "big") + bytes(4) + bytes(400_000))
    began = trio.current_time()
    with trio.fail_after(5):
        while await stream.receive_some(65536):
            pass
    assert trio.current_time() - began < 4
    await stream.aclose()
    await nothing_left(server)


async def test_thousands_of_tiny_frames_are_captioned_like_large_ones(server):
    audio = sound(1).tobytes()
    async with bystander(server), server.raw(QUERY) as socket:
        messages, code = await close_of(
            socket, *[audio[at : at + 8] for at in range(0, len(audio), 8)], '{"type":"eof"}'
        )
    assert code == 1000
    assert [message["text"] for message in messages if message.get("is_final")] == ["w1 w2"]


async def test_speech_of_a_client_that_vanishes_is_captioned_for_the_others(server):
    async with server.speaker("bob") as bob:
        stream = await plain_upgrade(server)
        for _ in range(10):
            await stream.send_all(masked(sound(0.1).tobytes()))
        await stream.aclose()
        (final,) = await finals_of(bob, 1)
    assert (final.client_id, final.text) == ("mallory", "w1 w2")
    await nothing_left(server)


async def test_a_client_that_never_reads_is_closed_with_4008_within_ten_seconds():
    async with running_server(slow_reader_timeout_s=2, tcp_user_timeout_s=30) as server, bystander(server):
        stream = await plain_upgrade(server, receive_buffer=4096)
        ping = masked(b'{"type":"ping","id":"' + b"x" * 100 + b'"}', opcode=0x81)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def ping_on() -> None:
                while True:
                    await stream.send_all(ping)

            nursery.start_soon(ping_on)
            await nothing_left_of_connections(server, 1, within_s=10)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 10
        codes = server.instance.connections.statistics()["disconnect_codes"]
        assert codes == {"4008": 1}
        assert server.instance.admission.speakers == 1
        # The peer reads at last: what was on its way, and then the close frame.
        tail = b""
        with trio.move_on_after(5):
            while data := await stream.receive_some(65536):
                tail = (tail + data)[-200:]
        assert (4008).to_bytes(2, "big") + b"reads too slowly" in tail
        await stream.aclose()


async def test_a_client_that_sends_faster_than_it_is_decoded_is_held_back_and_loses_nothing():
    class SlowEngine(FakeEngine):
        pass

    async with running_server(max_ahead_ms=500) as server, server.speaker() as ann:
        for _ in range(30):
            await ann.send_audio(sound(1).tobytes())
        await ann.end()
        with trio.fail_after(20):
            finals = [event async for event in ann if isinstance(event, Transcript) and event.is_final]
    assert finals[-1].end_sample == 30 * 16000


async def test_a_fault_of_ours_closes_with_1011_and_costs_nobody_else_anything(server):
    class BrokenEngine(FakeEngine):
        def open(self):
            raise ZeroDivisionError("planted")

    async with bystander(server):
        healthy, server.instance.shelf.own.engine = server.instance.shelf.own.engine, BrokenEngine()
        async with server.raw(QUERY) as socket:
            server_side = close_of(socket, sound(1).tobytes())
            messages, code = await server_side
        server.instance.shelf.own.engine = healthy
    assert code == 1011
    assert messages[-1].get("is_final")
    await nothing_left(server)


async def test_a_failing_task_of_a_connection_ends_it_with_1011_after_its_last_words(server, monkeypatch):
    async def fail(self) -> None:
        await trio.sleep(0.3)
        if self.request.client_id == "mallory":
            raise ZeroDivisionError("planted")

    monkeypatch.setattr(Connection, "_watch_slow_reader", fail)
    async with server.speaker("bob") as bob, server.raw(QUERY) as socket:
        _, code = await close_of(socket, sound(1).tobytes())
        (final,) = await finals_of(bob, 1)
    assert code == 1011
    assert final.text == "w1 w2"
    await nothing_left(server)


@pytest.mark.parametrize(
    "head",
    [
        f"GET /ws/vosk/?{QUERY} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".encode()
        + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"GET /ws/vosk/ HTTP/1.1\r\nHost: x\r\nConnection: \xff\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws/vosk/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_no_request_head_ends_the_server(server, head):
    host, port = server.http.removeprefix("http://").split(":")
    async with bystander(server):
        for _ in range(5):
            stream = await trio.open_tcp_stream(host, int(port))
            answer = b""
            try:
                await stream.send_all(head)
                with trio.move_on_after(0.2):
                    while data := await stream.receive_some(65536):
                        answer += data
            except trio.BrokenResourceError:
                pass
            await stream.aclose()
            assert b"101" not in answer.split(b"\r\n")[0]
    await nothing_left(server)


async def test_frames_that_come_while_a_refusal_is_sent_end_nothing(server):
    host, port = server.http.removeprefix("http://").split(":")
    async with bystander(server):
        for _ in range(60):
            stream = await trio.open_tcp_stream(host, int(port))
            await stream.send_all(
                b"GET /ws/vosk/?client_id=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            with suppress(trio.BrokenResourceError):
                await stream.send_all(masked(bytes(1000)))
                await stream.send_all(masked(bytes(1000)))
            await stream.aclose()
    await nothing_left(server)


@pytest.mark.parametrize(("begin", "code"), [("eof", 1011), ("drain", 1012)])
async def test_a_stream_that_is_cut_is_never_told_that_all_is_well(begin, code):
    async with running_server(drain_timeout_s=0.5) as server, server.raw(QUERY) as socket:
        await socket.send(sound(1).tobytes())
        while "text" not in json.loads(await socket.receive()):
            pass
        server.instance.breakers["en"].trip()
        if begin == "eof":
            await socket.send('{"type":"eof"}')
            await trio.sleep(0.2)
            server.instance.connections.cut_all()
        else:
            server.stop.set()
        messages, closed_with = await close_of(socket)
    assert closed_with == code
    assert [message["text"] for message in messages if message.get("is_final")] == ["w1 w2"]


async def test_a_client_that_floods_and_reads_is_answered_every_time(server):
    async with server.speaker() as ann:
        answered = 0
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                await ann.send_audio(sound(1).tobytes())
                for number in range(6000):
                    await ann.ping(number)
                await ann.end()

            nursery.start_soon(flood)
            with trio.fail_after(20):
                async for event in ann:
                    answered += isinstance(event, Pong) and event.id is not None
    assert answered == 6000


async def test_connections_that_ask_nothing_or_read_nothing_leave_no_socket(server):
    host, port = server.http.removeprefix("http://").split(":")
    process = psutil.Process()
    before = process.num_fds()
    for _ in range(20):
        silent = await trio.open_tcp_stream(host, int(port))
        await silent.aclose()
        pipelining = await trio.open_tcp_stream(host, int(port))
        await pipelining.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        await pipelining.aclose()
    with trio.fail_after(5):
        while process.num_fds() > before:
            await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(b"\xff\xfe", opcode=0x81), 1007),
        (b"\x82\x02ab", 1002),
        (masked(b"ab", opcode=0xC2), 1002),
        (masked(b"ab", opcode=0x83), 1002),
        (masked((999).to_bytes(2, "big"), opcode=0x88), 1002),
    ],
)
async def test_a_frame_that_breaks_the_websocket_protocol_is_answered_by_its_close_code(server, frame, code):
    stream = await plain_upgrade(server)
    await stream.send_all(frame)
    received = b""
    with trio.fail_after(5):
        while data := await stream.receive_some(65536):
            received += data
    await stream.aclose()
    assert b"\x88" in received
    assert received[received.rindex(b"\x88") + 2 :][:2] == code.to_bytes(2, "big")
    await nothing_left(server)


async def test_a_reconnect_storm_of_one_client_takes_few_places_beyond_the_limit():
    async with running_server(max_concurrent_clients=2) as server:
        most = 0
        async with trio.open_nursery() as nursery:

            async def reconnect() -> None:
                nonlocal most
                with suppress(StreamRefusedError):
                    async with server.raw(QUERY) as socket:
                        most = max(most, server.instance.admission.speakers)
                        with suppress(StreamClosedError):
                            await socket.send(sound(1).tobytes())

            for _ in range(30):
                nursery.start_soon(reconnect)
        assert most == 3
        await nothing_left(server)


async def test_compression_is_declined(server):
    stream = await plain_upgrade(server, extra="Sec-WebSocket-Extensions: permessage-deflate\r\n")
    assert b"sec-websocket-extensions" not in stream.head.lower()
    await stream.aclose()


async def test_a_client_that_only_knocks_leaves_nothing(server):
    for _ in range(20):
        stream = await plain_upgrade(server)
        await stream.aclose()
    await nothing_left(server)


class PlainStream:
    """A TCP connection that has been upgraded by hand."""

    def __init__(self, stream: trio.SocketStream, head: bytes) -> None:
        self.head = head
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()


async def plain_upgrade(server, *, receive_buffer: int | None = None, extra: str = "") -> PlainStream:
    host, port = server.http.removeprefix("http://").split(":")
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, receive_buffer)
    await sock.connect((host, int(port)))
    stream = trio.SocketStream(sock)
    await stream.send_all(
        f"GET /ws/vosk/?{QUERY} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n".encode()
    )
    head = b""
    with trio.fail_after(5):
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(1)
    assert b" 101 " in head
    return PlainStream(stream, head)
