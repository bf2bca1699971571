"""The first words of a connection decide who answers it, and its faults stay its own."""

import json
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio

from tests.server.conftest import running_server
from tests.server.test_misuse import masked
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError, connect
from trio_stt.drill.free_ports import free_ports

UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = "Sec-WebSocket-Version: 13\r\n"
QUERY = "client_id=ann&session_id=call"


@asynccontextmanager
async def plain(server):
    """A bare TCP connection to the server."""
    host, port = server.http.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        yield stream


async def asked(stream: trio.SocketStream, path: str, headers: str, early: bytes = b"") -> tuple[str, bytes]:
    """Head and body of the answer to a request; the body as far as `Content-Length` says."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + early)
    data = b""
    with trio.fail_after(5):
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(1)
        head = data.decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = b""
        while len(body) < size:
            body += await stream.receive_some(size - len(body))
    return head, body


async def message_of(stream: trio.SocketStream) -> dict:
    """The next text message, of less than 64 KiB."""
    with trio.fail_after(5):
        head = await exactly(stream, 2)
        assert head[0] == 0x81
        size = int.from_bytes(await exactly(stream, 2), "big") if head[1] == 126 else head[1]
        return json.loads(await exactly(stream, size))


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive_some(count - len(data))
    return data


async def test_a_connection_that_asked_for_health_may_ask_for_a_stream_then(server):
    async with plain(server) as stream:
        for _ in range(2):
            head, _ = await asked(stream, "/health", "")
            assert " 200 " in head
        head, _ = await asked(stream, f"/ws/vosk/?{QUERY}", UPGRADE + KEY + VERSION)
        assert head.startswith("http/1.1 101 ")
        assert (await message_of(stream))["type"] == "ready"


async def test_requests_in_one_packet_are_answered_in_order(server):
    async with plain(server) as stream:
        upgrade = f"GET /ws/vosk?{QUERY} HTTP/1.1\r\nHost: x\r\n{UPGRADE}{KEY}{VERSION}\r\n"
        ping = masked(b'{"type":"ping","id":7}', opcode=0x81)
        _, body = await asked(stream, "/health/simple", "", early=upgrade.encode() + ping)
        assert json.loads(body)["status"] == "healthy"
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some(1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert (await message_of(stream))["type"] == "ready"
        assert (await message_of(stream))["id"] == 7


async def test_header_lines_may_be_many_and_in_any_case(server):
    headers = f"CONNECTION: keep-alive\r\nconnection: foo, UPGRADE\r\nupgrade: WebSocket\r\n{KEY}{VERSION}"
    async with plain(server) as stream:
        head, _ = await asked(stream, f"/ws/vosk/?{QUERY}", headers)
        assert head.startswith("http/1.1 101 ")


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/health", 200), ("/ws/vosk/more", 404)])
async def test_a_websocket_where_none_is_served_is_answered_like_any_request(server, path, status):
    async with plain(server) as stream:
        head, body = await asked(stream, path, UPGRADE + KEY + VERSION)
        assert f" {status} " in head
        assert json.loads(body)
        head, _ = await asked(stream, "/health", "")  # on the same connection
        assert " 200 " in head


@pytest.mark.parametrize(
    "headers",
    [
        UPGRADE + VERSION,
        UPGRADE + "Sec-WebSocket-Key: short\r\n" + VERSION,
        UPGRADE + KEY + "Sec-WebSocket-Version: 8\r\n",
    ],
)
async def test_a_broken_handshake_is_told_so_and_which_version_is_spoken(server, headers):
    async with plain(server) as stream:
        head, body = await asked(stream, f"/ws/vosk/?{QUERY}", headers)
        assert " 400 " in head
        assert "sec-websocket-version: 13" in head
        assert json.loads(body)["error"]["code"] == "bad_handshake"
        assert await stream.receive_some() == b""


@pytest.mark.parametrize(
    "headers", ["Content-Length: 2\r\n", "Upgrade: h2c\r\n", "Connection: close\r\nUpgrade: x\r\n"]
)
async def test_what_is_not_quite_a_request_for_a_websocket_is_told_to_be_one(server, headers):
    async with plain(server) as stream:
        head, _ = await asked(stream, f"/ws/vosk/?{QUERY}", f"{UPGRADE}{KEY}{VERSION}{headers}", early=b"{}")
        assert " 426 " in head


async def test_a_handler_that_fails_costs_nobody_else_anything(server):
    async def fail_at_once(upgrade, socket):
        raise ZeroDivisionError("planted")

    async def fail_later(upgrade, socket):
        await socket.accept()
        raise ZeroDivisionError("planted")

    server.instance.handlers.update({"/at-once": fail_at_once, "/later": fail_later})
    with pytest.raises(StreamRefusedError) as refused:
        await connect(f"{server.ws}/at-once", timeout_s=5)
    assert (refused.value.status, refused.value.code) == (500, "internal_error")
    socket = await connect(f"{server.ws}/later", timeout_s=5)
    with pytest.raises(StreamClosedError) as closed:
        await socket.receive()
    assert closed.value.close.code == 1011
    await socket.aclose()
    async with httpx.AsyncClient(base_url=server.http) as client:
        assert (await client.get("/health/simple")).status_code == 200


async def test_every_path_of_the_second_port_is_vosk_servers():
    port = free_ports()

    async def greet(upgrade, socket):
        await socket.accept()
        await socket.send(upgrade.path)
        with suppress(trio.EndOfChannel):
            await socket.receive()

    async with running_server(vosk_server_port=port) as server:
        server.instance.handlers["/vosk-server"] = greet
        for url, path in [
            (f"ws://127.0.0.1:{port}/", "/"),
            (f"ws://127.0.0.1:{port}/any/where", "/any/where"),
            (f"{server.ws}/vosk-server", "/vosk-server"),
        ]:
            socket = await connect(url, timeout_s=5)
            assert await socket.receive() == path
            await socket.aclose()
        with pytest.raises(StreamRefusedError) as refused:
            await connect(f"{server.ws}/any/where", timeout_s=5)
        assert refused.value.status == 404
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/health/simple")).status_code == 200
