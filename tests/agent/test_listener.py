"""The agent listens to its call: unfinished captions, translations, and languages that the server takes or refuses."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from agent import listener as listener_module
from agent.listener import Listener
from agent.settings import AgentSettings
from tests.agent.played_rooms import until
from tests.agent.played_streams import PlayedServer, PlayedStream, final, translation
from trio_stt.client.resume_events import EndReason
from trio_stt.dialects.events import Configured, Failure, Presence
from trio_stt.settings import Secret


class Listening:
    def __init__(self) -> None:
        self.server = PlayedServer()
        self.heard = []
        settings = AgentSettings("ws://livekit", "key", Secret("secret"), stt_bearer=Secret("token"))
        self.listener = Listener(settings, "call", self.heard.append, structlog.get_logger())

    @property
    def stream(self) -> PlayedStream:
        return self.server.streams[-1]

    async def asked(self, count: int) -> dict:
        """The newest of so many changes that were asked for."""
        await until(lambda: self.server.streams and len(self.stream.asked) == count)
        await asyncio.sleep(0.02)
        assert len(self.stream.asked) == count, "the answer is waited for"
        return self.stream.asked[-1]


def on_listener(test: Callable[[Listening], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with pytest.MonkeyPatch.context() as patch:
            listening = Listening()
            patch.setattr(listener_module, "open_resuming_stream", listening.server.open)
            async with asyncio.timeout(30):
                life = asyncio.create_task(listening.listener.run())
                try:
                    await test(listening)
                    assert not life.done()
                finally:
                    life.cancel()
                    await asyncio.wait([life])
            assert all(stream.closed for stream in listening.server.streams)

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def quick(monkeypatch, quiet_logs):
    monkeypatch.setattr(listener_module, "AGAIN_S", 0.02)
    monkeypatch.setattr(listener_module, "LONGEST_AGAIN_S", 0.05)
    monkeypatch.setattr(listener_module, "STEADY_S", 0.0)


def test_it_hears_what_is_unfinished_and_what_is_translated_and_no_finals():
    async def test(listening: Listening) -> None:
        await until(lambda: listening.server.streams)
        unfinished, translated = final("ann", "good mor", is_final=False), translation("ann", "Bom dia.")
        for event in (unfinished, final("ann", "good morning"), Presence("joined", "bob"), translated):
            listening.stream.say(event)
        await until(lambda: len(listening.heard) == 2)
        assert listening.heard == [unfinished, translated]
        assert not listening.stream.request.speak
        assert listening.stream.token == "token"

    on_listener(test)


def test_languages_are_asked_for_one_by_one_and_one_that_is_refused_costs_no_other():
    async def test(listening: Listening) -> None:
        listening.listener.want(("pt", "xx", "de"))
        assert await listening.asked(1) == {"translation": True, "target": ["pt"], "read_language": "pt"}
        listening.stream.say(Configured({}))
        assert (await listening.asked(2))["target"] == ["pt", "xx"]
        listening.stream.say(Failure("translation_unavailable", "", {"language": "pt"}))  # of something else
        listening.stream.say(Failure("bad_value", "no", {"parameter": "target"}))
        assert (await listening.asked(3))["target"] == ["pt", "de"]
        listening.stream.say(Configured({}))
        await until(lambda: listening.listener.languages == ("pt", "de"))
        assert listening.listener.refused_languages == {"xx"}
        # Nobody wants pt any more; xx may be had by now.
        listening.listener.want(("de",))
        assert (await listening.asked(4)) == {"translation": True, "target": ["de"], "read_language": "de"}
        listening.stream.say(Configured({}))
        await until(lambda: listening.listener.languages == ("de",))
        listening.listener.want(("de", "xx"))
        assert (await listening.asked(5))["target"] == ["de", "xx"]
        listening.stream.say(Configured({}))
        await until(lambda: listening.listener.languages == ("de", "xx"))
        listening.listener.want(())
        assert await listening.asked(6) == {"translation": False, "target": []}

    on_listener(test)


def test_after_an_end_it_listens_again_and_asks_again():
    async def test(listening: Listening) -> None:
        listening.listener.want(("pt",))
        await listening.asked(1)
        listening.stream.say(Configured({}))
        await until(lambda: listening.listener.languages == ("pt",))
        for reason in (EndReason.FINISHED, EndReason.UNAUTHORISED):
            count = len(listening.server.streams)
            listening.stream.finish(reason)
            await until(lambda count=count: len(listening.server.streams) == count + 1)
            assert (await listening.asked(1))["target"] == ["pt"]
            assert listening.listener.languages == ()

    on_listener(test)


def test_a_refusal_is_asked_again_after_growing_pauses(monkeypatch):
    monkeypatch.setattr(listener_module, "STEADY_S", 60.0)
    paused = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        paused.append(seconds)
        await sleep(0)

    async def test(listening: Listening) -> None:
        listening.server.refuses = EndReason.REFUSED
        monkeypatch.setattr(listener_module.asyncio, "sleep", noted)
        try:
            while len(paused) < 4:
                await sleep(0.005)
        finally:
            monkeypatch.undo()
        assert paused[:4] == [0.02, 0.04, 0.05, 0.05]

    on_listener(test)
