"""`open_stream` against a WebSocket server that does what each test tells it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from trio_stt.client import websocket
from trio_stt.client.connection import ServerUnreachableError, StreamClosedError, StreamRefusedError, open_stream
from trio_stt.client.native_client import WireError
from trio_stt.dialects.events import Ack, Pong, StreamRequest
from trio_stt.dialects.native import encode

REQUEST = StreamRequest("anna", "call-1", framing="seq")
ACK = encode(Ack(7), timestamp=1)


@asynccontextmanager
async def server_that(behaves: Callable[[WebSocketRequest], Awaitable[None]]) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, behaves, "127.0.0.1", 0, ssl_context=None))
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


def accepting(talk: Callable[[WebSocketConnection], Awaitable[None]]) -> Callable[[WebSocketRequest], Awaitable[None]]:
    async def behave(request: WebSocketRequest) -> None:
        await talk(await request.accept())

    return behave


async def test_events_come_until_the_server_closes_with_1000():
    received: list[bytes | str] = []

    async def talk(websocket: WebSocketConnection) -> None:
        for _ in range(3):
            received.append(await websocket.get_message())
        await websocket.send_message(ACK)
        await websocket.send_message(encode(Pong("x"), timestamp=1))
        await websocket.aclose(1000, "bye")

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        await stream.send_audio(b"abcd")
        await stream.finalize("f")
        await stream.end()
        assert [event async for event in stream] == [Ack(7), Pong("x")]
        assert stream.sent_samples == 2
    assert received == [b"SEQ1" + bytes(8) + b"abcd", '{"type":"finalize","id":"f"}', '{"type":"eof"}']


async def test_compression_is_not_offered():
    offered: list[bytes] = []

    async def behave(request: WebSocketRequest) -> None:
        offered.extend(name for name, _ in request.headers if name.lower() == b"sec-websocket-extensions")
        await (await request.accept()).aclose()

    async with server_that(behave) as url, open_stream(url, REQUEST) as stream:
        assert [event async for event in stream] == []
    assert offered == []


async def test_any_other_close_is_an_error_with_its_code_after_the_last_message():
    async def talk(websocket: WebSocketConnection) -> None:
        await websocket.send_message(ACK)
        await websocket.aclose(4008, "reads too slowly")

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        assert await anext(stream) == Ack(7)
        with pytest.raises(StreamClosedError, match="4008 reads too slowly") as closed:
            await anext(stream)
        assert (closed.value.close.code, closed.value.close.reason) == (4008, "reads too slowly")
        with pytest.raises(StreamClosedError):
            await stream.send_audio(b"ab")


async def test_a_server_that_vanishes_is_a_close_with_1006():
    async def talk(websocket: WebSocketConnection) -> None:
        await websocket._stream.aclose()

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        with pytest.raises(StreamClosedError) as closed:
            await anext(stream)
        assert closed.value.close.code == 1006


async def test_leaving_the_block_closes_with_1000():
    left = trio.Event()

    async def talk(websocket: WebSocketConnection) -> None:
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.get_message()
        assert closed.value.reason.code == 1000
        left.set()

    async with server_that(accepting(talk)) as url:
        with pytest.raises(KeyError):
            async with open_stream(url, REQUEST):
                raise KeyError
        with trio.fail_after(2):
            await left.wait()


async def test_a_cancelled_wait_for_an_event_loses_none():
    go_on = trio.Event()

    async def talk(websocket: WebSocketConnection) -> None:
        await go_on.wait()
        await websocket.send_message(ACK)
        await websocket.aclose()

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        with trio.move_on_after(0.01):
            await anext(stream)
        go_on.set()
        assert [event async for event in stream] == [Ack(7)]


async def test_a_message_outside_the_protocol_is_an_error():
    async def talk(websocket: WebSocketConnection) -> None:
        await websocket.send_message("no JSON")
        await websocket.aclose()

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        with pytest.raises(WireError):
            await anext(stream)


async def refusal_of(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> StreamRefusedError:
    async def behave(request: WebSocketRequest) -> None:
        await request.reject(status, extra_headers=headers, body=body)

    async with server_that(behave) as url:
        with pytest.raises(StreamRefusedError) as refused:
            async with open_stream(url, REQUEST):
                pass
    return refused.value


async def test_a_refusal_carries_what_the_server_said():
    body = b'{"error":{"code":"full","message":"no place left","parameter":null}}'
    refusal = await refusal_of(503, [(b"Retry-After", b"3")], body)
    assert (refusal.status, refusal.code, refusal.message, refusal.retry_after_s) == (503, "full", "no place left", 3)
    body = b'{"error":{"code":"bad_value","message":"framing is odd","parameter":"framing"}}'
    refusal = await refusal_of(400, [], body)
    assert (refusal.parameter, refusal.retry_after_s) == ("framing", None)
    assert str(refusal) == "framing is odd (HTTP 400)"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":5}', b'{"error":{}}', b"\xff"])
async def test_a_refusal_that_is_not_ours_still_has_its_status(body: bytes):
    refusal = await refusal_of(502, [(b"Retry-After", b"Wed, 21 Oct 2015 07:28:00 GMT")], body)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (502, None, None)


async def test_nobody_at_the_address_is_an_error_that_names_it():
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(ServerUnreachableError, match=f"ws://127.0.0.1:{port}"):
        async with open_stream(f"ws://127.0.0.1:{port}", REQUEST):
            pass


async def test_a_server_that_never_answers_is_given_up():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener:
        with pytest.raises(ServerUnreachableError, match=r"no WebSocket answer within 0\.1 s"):
            async with open_stream(url, REQUEST, connect_timeout_s=0.1):
                pass


async def test_a_server_that_hangs_up_during_the_handshake_is_given_up_at_once():
    async with trio.open_nursery() as nursery:

        async def hang_up(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.aclose()

        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(ServerUnreachableError, match=url), trio.fail_after(2):
            async with open_stream(url, REQUEST):
                pass
        nursery.cancel_scope.cancel()


async def test_a_cancelled_send_that_has_cut_a_frame_is_followed_by_no_close_frame(monkeypatch):
    monkeypatch.setattr(websocket, "_ANSWER_TIMEOUT_S", 3600)  # it would be waited for
    left = trio.Event()

    async def talk(stream: WebSocketConnection) -> None:
        await left.wait()  # and reads nothing

    async with server_that(accepting(talk)) as url:
        with trio.fail_after(30):
            socket = await websocket.connect(f"{url}/", timeout_s=10)
            with trio.CancelScope() as sending:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(socket.send, bytes(100_000_000))
                    await trio.testing.wait_all_tasks_blocked(0.1)
                    sending.cancel()
            await socket.aclose()
            left.set()


async def test_pings_are_answered_while_the_stream_is_iterated():
    async def talk(websocket: WebSocketConnection) -> None:
        with trio.fail_after(5):
            await websocket.ping()
        await websocket.aclose()

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        assert [event async for event in stream] == []


async def test_a_message_in_many_fragments_is_one_message():
    async def talk(websocket: WebSocketConnection) -> None:
        await websocket.send_message(encode(Pong("x" * 100_000), timestamp=1))
        await websocket.aclose()

    async with server_that(accepting(talk)) as url, open_stream(url, REQUEST) as stream:
        assert [event async for event in stream] == [Pong("x" * 100_000)]
