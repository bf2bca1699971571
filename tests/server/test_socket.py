"""A WebSocket on a pair of real sockets: what comes together is received together, and every buffer has a bound."""

import socket as stdlib_socket
from contextlib import contextmanager

import pytest
import trio
from websockets.datastructures import Headers
from websockets.http11 import Request

from tests.server.test_misuse import masked
from trio_stt.dialects.events import Close
from trio_stt.gateway import socket as gateway_socket
from trio_stt.gateway.socket import READ_BYTES, Socket

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
PING, PONG = b"\x89\x00", b"\x8a\x00"


@contextmanager
def pair(early: bytes = b""):
    """A server's socket, and the peer's bare end of it."""
    ours, theirs = stdlib_socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield Socket(ours, Request("/", Headers(HANDSHAKE)), early, max_message_bytes=1000), theirs


async def accept(served: Socket, peer: stdlib_socket.socket) -> None:
    await served.accept()
    assert peer.recv(1000).startswith(b"HTTP/1.1 101 ")


async def received(peer: stdlib_socket.socket, count: int) -> bytes:
    """The next `count` bytes that the peer reads."""
    data = b""
    with trio.fail_after(5):
        while len(data) < count:
            await trio.lowlevel.wait_readable(peer)
            data += peer.recv(count - len(data))
    return data


async def test_messages_that_arrive_together_are_received_together():
    with pair() as (served, peer):
        await accept(served, peer)
        peer.send(masked(b"one") + masked(b"two", opcode=0x81) + masked(b"", opcode=0x82) + masked(b"rest")[:-1])
        assert await served.receive_some() == [b"one", "two", b""]
        peer.send(masked(b"rest")[-1:] + masked(b"next"))
        assert await served.receive() == b"rest"
        assert await served.receive() == b"next"


async def test_messages_that_came_with_the_request_are_received():
    with pair(early=masked(b"one") + masked(b"two")[:5]) as (served, peer):
        await accept(served, peer)
        peer.send(masked(b"two")[5:])
        assert await served.receive() == b"one"
        assert await served.receive() == b"two"


async def test_messages_before_a_close_are_received_before_its_code():
    with pair() as (served, peer):
        await accept(served, peer)
        peer.send(masked(b"last") + masked((4000).to_bytes(2, "big"), opcode=0x88) + masked(b"too late"))
        assert await served.receive() == b"last"
        with pytest.raises(trio.EndOfChannel):
            await served.receive()
        assert served.peer_close.code == 4000


async def test_who_went_without_a_message_has_abandoned_it():
    with pair() as (served, peer):
        await accept(served, peer)
        assert not served.is_abandoned()
        peer.send(masked(b"", opcode=0x89))
        assert not served.is_abandoned()
        peer.send(masked((1001).to_bytes(2, "big"), opcode=0x88))
        assert served.is_abandoned()
    for end in (lambda peer: peer.shutdown(stdlib_socket.SHUT_WR), lambda peer: peer.close()):
        with pair() as (served, peer):
            await accept(served, peer)
            end(peer)
            assert served.is_abandoned()


async def test_who_said_something_before_it_went_is_heard():
    with pair() as (served, peer):
        await accept(served, peer)
        peer.send(masked(b"last words"))
        peer.close()
        assert not served.is_abandoned()
        assert await served.receive() == b"last words"
        with pytest.raises(trio.EndOfChannel):
            await served.receive()


async def test_a_message_in_fragments_is_whole_and_bounded():
    with pair() as (served, peer):
        await accept(served, peer)
        peer.send(
            masked("für".encode()[:2], opcode=0x01) + masked(b"", opcode=0x89) + masked("für".encode()[2:], opcode=0x80)
        )
        assert await served.receive() == "für"
        assert await received(peer, 2) == PONG
        peer.send(masked(bytes(600), opcode=0x02) + masked(bytes(600), opcode=0x80))
        with pytest.raises(trio.EndOfChannel):
            await served.receive()
        assert served.peer_close.code == 1009
        assert (await received(peer, 4))[2:] == (1009).to_bytes(2, "big")


def fill(peer: stdlib_socket.socket, payload_bytes: int = 900) -> int:
    """Sends messages until the kernel takes no more; how many bytes it took."""
    taken = 0
    try:
        while True:
            taken += peer.send(masked(bytes(payload_bytes)))
    except BlockingIOError:
        return taken


async def test_who_is_not_received_from_is_held_back():
    with pair() as (served, peer):
        await accept(served, peer)
        assert fill(peer) > READ_BYTES
        await served.receive_some()
        assert fill(peer) <= 2 * READ_BYTES


async def send_until_blocked(served: Socket, message: str) -> int:
    """Sends until the peer would have to read; how many were sent as a whole, the last one in part."""
    sent = 0
    with trio.move_on_after(0.1):
        while True:
            await served.send(message)
            sent += 1
    return sent


async def test_a_cancelled_send_leaves_no_broken_frame():
    with pair() as (served, peer):
        await accept(served, peer)
        sent = await send_until_blocked(served, "x" * 50_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.send, "next")
            frames = await received(peer, (sent + 1) * 50_004 + 6)
        assert frames == (b"\x81\x7e" + (50_000).to_bytes(2, "big") + b"x" * 50_000) * (sent + 1) + b"\x81\x04next"


async def test_messages_are_received_and_pings_answered_while_the_peer_does_not_read():
    with pair() as (served, peer):
        await accept(served, peer)
        sent = await send_until_blocked(served, "x" * 50_000)
        peer.send(masked(b"", opcode=0x89) + masked(b"heard"))
        with trio.fail_after(1):
            assert await served.receive() == b"heard"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.send, "next")
            assert (await received(peer, (sent + 1) * 50_004 + 8))[-8:] == PONG + b"\x81\x04next"


async def test_who_asks_for_pongs_and_takes_none_is_no_longer_read():
    with pair() as (served, peer), trio.move_on_after(5) as limit:
        await accept(served, peer)
        asked = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.receive)
            while asked < 100_000_000:
                with trio.move_on_after(0.2) as stuck:
                    await trio.lowlevel.wait_writable(peer)
                    asked += peer.send(masked(bytes(100), opcode=0x89) * 100)
                if stuck.cancelled_caught:
                    break
            nursery.cancel_scope.cancel()
        assert asked < 10_000_000
    assert not limit.cancelled_caught


async def test_nothing_is_sent_after_the_close_frame_and_its_answer_ends_the_linger():
    with pair() as (served, peer):
        await accept(served, peer)
        await served.close(Close(4001, "gone"))
        await served.send("too late")
        await served.close(Close(1000))
        assert await received(peer, 8) == b"\x88\x06" + (4001).to_bytes(2, "big") + b"gone"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.aclose)
            assert await received_end(peer)
            peer.close()
            with trio.fail_after(1):
                while nursery.child_tasks:
                    await trio.sleep(0.01)


async def received_end(peer: stdlib_socket.socket) -> bool:
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(peer)
    return peer.recv(1000) == b""


async def test_a_peer_is_pinged_and_one_that_is_silent_is_cut(monkeypatch):
    monkeypatch.setattr(gateway_socket, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(gateway_socket, "READ_TIMEOUT_S", 0.3)
    with pair() as (served, peer):
        await accept(served, peer)
        async with trio.open_nursery() as nursery:
            answers = 0

            async def tend() -> None:
                while True:
                    served.tend()
                    await trio.sleep(0.01)

            async def answer() -> None:
                nonlocal answers
                while answers < 10:
                    assert await received(peer, 2) == PING
                    peer.send(masked(b"", opcode=0x8A))
                    answers += 1

            nursery.start_soon(tend)
            nursery.start_soon(answer)
            with pytest.raises(trio.EndOfChannel), trio.fail_after(5):
                await served.receive()
            nursery.cancel_scope.cancel()
        assert answers == 10
        assert served.peer_close.code == 1006


async def test_a_silent_peer_is_not_cut_while_nobody_reads_it(monkeypatch):
    monkeypatch.setattr(gateway_socket, "READ_TIMEOUT_S", 0.0)
    with pair() as (served, peer):
        await accept(served, peer)
        served.tend()
        peer.send(masked(b"here"))
        assert await served.receive() == b"here"
