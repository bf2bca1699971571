"""What a connection took is free when it has ended, and does not wait for the garbage collector."""

import gc

import pytest
import trio
from websockets.server import ServerProtocol

from tests.server.conftest import finals_of, running_server
from tests.unit.fakes import silence, sound
from tests.unit.translation_fakes import ShoutingEngine
from trio_stt.dialects.events import Translation
from trio_stt.gateway.http_connection import HttpConnection
from trio_stt.gateway.vosk_server import VoskServerConnection
from trio_stt.gateway.websocket import NativeConnection
from trio_stt.sessions.captioner import Captioner
from trio_stt.sessions.lock_step import LockStepStream
from trio_stt.sessions.session import Member, Session
from trio_stt.sessions.stream import Stream
from trio_stt.sessions.translate import CallTranslations

KINDS = (
    HttpConnection,
    NativeConnection,
    VoskServerConnection,
    CallTranslations,
    Captioner,
    LockStepStream,
    Member,
    Session,
    Stream,
    ServerProtocol,
)


@pytest.fixture
def left():
    """What of these kinds was made from now on and is still there, without the collector's help."""
    gc.collect()
    gc.disable()
    before = {id(each) for each in gc.get_objects() if isinstance(each, KINDS)}
    yield lambda: [
        type(each).__name__ for each in gc.get_objects() if isinstance(each, KINDS) and id(each) not in before
    ]
    gc.enable()


async def settled(server, left) -> None:
    with trio.fail_after(5):
        while list(server.instance.connections):
            await trio.sleep(0.01)
    with trio.move_on_after(5):  # sockets linger, and then are closed
        while left():
            await trio.sleep(0.05)


async def test_native_connections_leave_no_garbage(left):
    async with running_server() as server:
        async with server.speaker("ann") as ann, server.speaker("bob", speak=False):
            await ann.send_audio(sound(1.0).tobytes() + silence(1.0).tobytes())
            await finals_of(ann, 1)
            await ann.end()
            async for _ in ann:
                pass
        async with server.speaker("eve") as eve:  # goes without a goodbye
            await eve.send_audio(sound(0.5).tobytes())
        await settled(server, left)
        assert left() == []


async def test_calls_that_are_translated_leave_no_garbage(left):
    async with running_server(translation_engines=[ShoutingEngine()]) as server:
        async with server.speaker("ann") as ann, server.speaker("bob", translation=True, read_language="pt") as bob:
            await ann.send_audio(sound(1.0).tobytes() + silence(1.0).tobytes())
            with trio.fail_after(5):
                while not isinstance(await anext(bob), Translation):
                    pass
        await settled(server, left)
        assert left() == []


@pytest.mark.parametrize("last", [b"", b"\x82", b"\xff\xff"], ids=["nothing", "half a frame", "no frame"])
async def test_connections_that_break_off_leave_no_garbage(left, last):
    async with running_server() as server:
        async with server.raw("client_id=ann&session_id=call") as socket:
            await socket.send(sound(0.5).tobytes())
            await socket._stream.send_all(last)
            await trio.aclose_forcefully(socket._stream)
        await settled(server, left)
        assert left() == []


async def test_connections_of_vosk_server_s_clients_leave_no_garbage(left):
    async with running_server() as server:
        async with server.raw("", path="/vosk-server") as socket:
            await socket.send(sound(0.5).tobytes())
            await socket.receive()
        await settled(server, left)
        assert left() == []
