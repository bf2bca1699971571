"""A real server on a free port of 127.0.0.1, in the test's own event loop, with a fake engine."""

from collections.abc import Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.tokens import KEYS
from tests.unit.fakes import FakeEngine
from trio_stt.app import Instance
from trio_stt.client.connection import open_stream
from trio_stt.client.websocket import StreamClosedError, connect
from trio_stt.dialects.events import Close, ServerEvent, StreamRequest, Transcript
from trio_stt.serve import serve
from trio_stt.settings import Settings


class Server:
    """A running server: its URL, its instance and the engine behind it."""

    def __init__(
        self,
        url: str,
        instance: Instance,
        engine: FakeEngine,
        stop: trio.Event,
        hurry: trio.Event,
        exit_codes: list[int],
    ) -> None:
        self.http = url
        self.ws = url.replace("http:", "ws:")
        self.instance = instance
        self.engine = engine
        self.stop = stop
        self.hurry = hurry
        self.exit_codes = exit_codes
        """What the server would have ended its process with, had it been one."""

    @asynccontextmanager
    async def speaker(self, client_id: str = "ann", session_id: str = "call", *, token: str | None = None, **request):
        """A stream through the client that users are given."""
        request = StreamRequest(client_id, session_id, **{"framing": "seq", **request})
        async with open_stream(self.ws, request, token=token) as stream:
            yield stream

    @asynccontextmanager
    async def raw(self, query: str, *, path: str = "/ws/vosk/", token: str | None = None):
        """A bare WebSocket."""
        socket = await connect(f"{self.ws}{path}?{query}", timeout_s=5, token=token)
        try:
            yield socket
        finally:
            await socket.aclose()


def settings_for_tests(**changes) -> Settings:
    """Free port, energy detector and known cost (they need no model), short times, no tokens."""
    known = {
        "server_port": 0,
        "vad_engine": "energy",
        "drain_timeout_s": 5,
        "decode_cost": 0.001,
        "auth_mode": "off",
        "max_connections_per_address": 0,
        "resume_window_s": 0,
    }
    return Settings(**{**known, **changes})


@asynccontextmanager
async def running_server(
    engine: FakeEngine | None = None, load_engine=None, translation_engines: Sequence = (), **changes
):
    """Runs a server while the block runs; it translates with `translation_engines` only.

    `load_engine`: given the settings; default: one that gives `engine`.
    """
    engine = engine or FakeEngine()
    made = []

    def make_instance(settings: Settings) -> Instance:
        made.append(Instance(settings, load_engine or (lambda settings: engine), translation_engines))
        return made[0]

    stop, hurry = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        exit_codes: list[int] = []
        start = partial(
            serve,
            settings_for_tests(**changes),
            stop=stop,
            hurry=hurry,
            make_instance=make_instance,
            end_process=exit_codes.append,
        )
        url = await nursery.start(start)
        yield Server(url, made[0], engine, stop, hurry, exit_codes)
        stop.set()


@pytest.fixture
async def server():
    async with running_server() as running:
        yield running


async def finals_of(stream, count: int) -> list[Transcript]:
    """The next `count` finals that a stream receives."""
    finals = []
    with trio.fail_after(10):
        async for event in stream:
            if isinstance(event, Transcript) and event.is_final:
                finals.append(event)
                if len(finals) == count:
                    break
    return finals


@asynccontextmanager
async def guarded_server(engine: FakeEngine | None = None, **changes):
    """Runs a server that wants tokens by the key of `tests.tokens`."""
    async with running_server(engine, **{"auth_mode": "required", "auth_keys": KEYS, **changes}) as server:
        yield server


async def events_until_closed(stream) -> tuple[list[ServerEvent], Close]:
    """All that a stream receives, and how it is closed."""
    events = []
    with trio.fail_after(10):
        try:
            async for event in stream:
                events.append(event)
        except StreamClosedError as closed:
            return events, closed.close
    return events, Close(1000)


@pytest.fixture(autouse=True)
def quiet(quiet_logs):
    """Whatever these tests provoke is not printed."""
