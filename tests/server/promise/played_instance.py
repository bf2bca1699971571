"""An instance as `trio_stt.app` builds it, without sockets, threads and model; it can be frozen, killed and drained."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from unittest.mock import patch

import trio
from attrs import evolve
from websockets.datastructures import Headers

from tests.server.conftest import settings_for_tests
from tests.server.promise.freezing import PROCESS, Process
from tests.server.promise.labelled_speech import BlockEngine
from tests.server.promise.played_bus import IS_KNOWN_TO_BE_LOST, PlayedBus, Witness
from tests.server.promise.played_network import Link, ServerEnd
from tests.unit.fakes import LoudnessVoice
from trio_stt import app
from trio_stt.gateway.admission import Readiness
from trio_stt.gateway.http_connection import Upgrade
from trio_stt.recognition.schedule import Turn
from trio_stt.sessions.memory_bus import Memory
from trio_stt.settings import Settings

RESUME_WINDOW_S = 3.0
MAX_UTTERANCE_S = 4.0


class PlayedDecoders:
    """`Decoders` without threads. `slowness`: how many seconds a second of sound takes. Calls are made to their end."""

    def __init__(self) -> None:
        self.slowness = 0.0

    async def run(self, call, turn=Turn(), *, owner=""):  # noqa: B008  (frozen)
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            await trio.sleep(self.slowness * turn.audio_s)
        return call()


class _Parts(app.Instance):
    """Without what only people and other programs look at."""

    def _build_app(self):
        return None

    def _add_health(self):
        pass

    def _add_gauges(self):
        pass


class PlayedInstance:
    """One process."""

    def __init__(self, name: str, memory: Memory, witness: Witness, settings: Settings, *, labelled: bool) -> None:
        self.process = Process()
        self.bus = PlayedBus(memory, self.process, witness)
        self.decoders = PlayedDecoders()
        self.draining = False
        self.ended = trio.Event()
        """It drained, and the process is over."""
        self.links: list[Link] = []
        self._engine = BlockEngine(labelled=labelled)
        with patch.object(app, "_make_bus", lambda settings: self.bus):
            self.parts = _Parts(evolve(settings, instance=name), translation_engines=())
        self.parts.decoders = self.decoders
        self.parts.voice = SimpleNamespace(open=LoudnessVoice)
        self.parts._gate_config = evolve(self.parts._gate_config, max_utterance_s=MAX_UTTERANCE_S)
        self._scope = trio.CancelScope()
        self._to_do, self._doing = trio.open_memory_channel[Callable[[], Awaitable[None]]](1000)

    async def run(self) -> None:
        """Until it is killed, or drained."""
        PROCESS.set(self.process)
        parts = self.parts
        parts.shelf._place(parts.shelf.own, self._engine, 0.0, 0.0)
        parts.admission.readiness = Readiness.READY
        with self._scope:
            async with trio.open_nursery() as nursery:
                for run in (parts.journal.run, parts.sessions.run, parts._close_recognisers, self._start_tasks):
                    nursery.start_soon(run)

    async def _start_tasks(self) -> None:
        async with trio.open_nursery() as nursery:
            async for task in self._doing:
                nursery.start_soon(task)

    def ask(self, link: Link) -> None:
        """A client asks for a WebSocket."""
        self.links.append(link)
        self._to_do.send_nowait(lambda: self._serve(link))

    def drain(self) -> None:
        """As at SIGTERM."""
        if not self.draining:
            self.draining = True
            self._to_do.send_nowait(self._drain)

    def freeze(self) -> None:
        """As at SIGSTOP, or when the machine is paused."""
        self.process.freeze()

    def thaw(self) -> None:
        """It goes on."""
        if self.process.frozen:
            self.process.thaw()
            self.bus.thawed()

    def kill(self, kept: float, *, told: bool) -> None:
        """As at SIGKILL (`told`), or when the machine is lost: what it knew is gone, and nothing more comes from it.

        Of what it had sent only a part may arrive: `kept`.
        """
        self.bus.die()
        for link in self.links:
            link.cut(kept, tell_client=told, tell_server=False)
            link.to_server.give_up()
        self._scope.cancel()
        self.process.thaw()  # to be cancelled

    async def _serve(self, link: Link) -> None:
        socket = ServerEnd(link)
        IS_KNOWN_TO_BE_LOST.set(lambda: socket.ended)
        try:
            upgrade = Upgrade("/ws/vosk/", "", socket.query, SimpleNamespace(headers=Headers()), b"", self.parts._speak)
            refusal = await upgrade.handler(upgrade, socket)
            if refusal is not None:
                await socket.refuse(refusal)
        finally:
            with trio.move_on_after(2, shield=True):
                await socket.aclose()

    async def _drain(self) -> None:
        await self.parts.drain()
        self.ended.set()


def settings_of_instances() -> Settings:
    """The same for all."""
    return settings_for_tests(
        redis_url="redis://played",
        resume_secret="a secret of the played fleet, 32 bytes at least",
        resume_window_s=RESUME_WINDOW_S,
        max_client_idle_time=36_000,
        max_stream_duration=36_000,
        max_ahead_ms=2000,
        slow_reader_timeout_s=2,
        written_captions=False,
        drain_timeout_s=5,
    )
