"""What of a track goes to the server, in which streams, and what becomes of it when the server says no."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import structlog

from agent import voice as voice_module
from agent.settings import AgentSettings
from agent.voice import SAMPLE_RATE, Voice
from tests.agent.played_rooms import until
from tests.agent.played_streams import PlayedServer, final
from trio_stt.client.resume_events import EndReason, Interrupted, Lost, Resumed
from trio_stt.dialects.events import Failure, Presence, Ready
from trio_stt.settings import Secret

FRAME = SAMPLE_RATE // 20
PRE_ROLL = 8
HANGOVER = 24
"""Of the energy gate, in frames."""

READY = Ready("call", "ann", "s", "en", SAMPLE_RATE, "pcm_s16le", 1, 0, "t", 500, 10_000, 5000, "one")


class Spoken:
    """A voice and what it did. `loud` and `soft` give it frames, numbered so that none can be mistaken for another."""

    def __init__(self) -> None:
        self.server = PlayedServer()
        self.finals: list[str] = []
        self.begun = 0
        self.frames: list[bytes] = []
        settings = AgentSettings("ws://livekit", "key", Secret("secret"))
        self.voice = Voice(
            settings,
            "call",
            "ann",
            "en",
            lambda each: self.finals.append(each.text),
            self._begin,
            structlog.get_logger(),
        )

    def _begin(self) -> None:
        self.begun += 1

    def loud(self, count: int = 1) -> None:
        self._hear(count, 1000)

    def soft(self, count: int = 1) -> None:
        self._hear(count, 0)

    def _hear(self, count: int, loudness: int) -> None:
        for _ in range(count):
            samples = np.full(FRAME, loudness, np.int16)
            samples[0] = len(self.frames)
            self.frames.append(samples.tobytes())
            self.voice.hear(self.frames[-1])

    def got(self, number: int = -1) -> list[int]:
        """The numbers of the frames that a stream was given."""
        samples = np.frombuffer(bytes(self.server.streams[number].given), np.int16)
        return [int(each) for each in samples[::FRAME]]


def on_voice(test: Callable[[Spoken], Awaitable[None]]) -> None:
    """Runs the test beside a voice that lives."""

    async def bounded() -> None:
        with pytest.MonkeyPatch.context() as patch:
            spoken = Spoken()
            patch.setattr(voice_module, "open_resuming_stream", spoken.server.open)
            async with asyncio.timeout(30):
                life = asyncio.create_task(spoken.voice.run())
                try:
                    await test(spoken)
                    assert not life.done() or life.exception() is None
                finally:
                    life.cancel()
                    await asyncio.wait([life])
            assert all(stream.closed for stream in spoken.server.streams)

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def quick(monkeypatch, quiet_logs):
    monkeypatch.setattr(voice_module, "SILENCE_S", 0.2)
    monkeypatch.setattr(voice_module, "GONE_S", 0.02)
    monkeypatch.setattr(voice_module, "MUTED_S", 0.05)
    monkeypatch.setattr(voice_module, "STEADY_S", 0.0)


def test_silence_opens_no_stream_and_a_word_comes_with_what_was_before_it():
    async def test(spoken: Spoken) -> None:
        spoken.soft(50)
        await asyncio.sleep(0.05)
        assert spoken.server.streams == []
        spoken.loud(3)
        await until(lambda: spoken.server.streams and len(spoken.got()) == PRE_ROLL + 3)
        assert spoken.got() == list(range(50 - PRE_ROLL, 53))
        assert spoken.begun == 1
        assert not spoken.voice.is_silent
        request = spoken.server.streams[0].request
        assert (request.client_id, request.session_id, request.language) == ("ann", "call", "en")
        assert not request.partials

    on_voice(test)


def test_after_an_utterance_its_final_is_asked_for_and_nothing_more_is_sent_until_the_next():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        spoken.soft(HANGOVER + 100)
        await until(lambda: spoken.server.streams and spoken.server.streams[0].asked)
        assert spoken.got() == list(range(5 + HANGOVER))
        spoken.server.streams[0].say(final("ann", "good morning"))
        spoken.server.streams[0].say(final("bob", "not mine"))
        spoken.loud(2)
        await until(lambda: len(spoken.got()) == 5 + HANGOVER + PRE_ROLL + 2 and spoken.finals)
        assert spoken.finals == ["good morning"]
        assert spoken.begun == 2
        assert len(spoken.server.streams) == 1

    on_voice(test)


def test_long_silence_ends_the_stream_and_the_next_word_opens_another():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        spoken.soft(HANGOVER)
        await until(lambda: spoken.voice.is_silent)
        assert spoken.server.streams[0].is_ending
        await until(lambda: spoken.server.streams[0].closed)
        spoken.loud()
        await until(lambda: len(spoken.server.streams) == 2)
        await until(lambda: spoken.got() == [5 + HANGOVER])

    on_voice(test)


def test_a_track_that_stops_without_a_word_has_ended_its_utterance():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        await until(lambda: spoken.server.streams and len(spoken.got()) == 5)
        spoken.voice.tick()
        assert spoken.server.streams[0].asked == []
        await asyncio.sleep(0.1)
        spoken.voice.tick()
        await until(lambda: spoken.server.streams[0].asked == [5 * FRAME * 2])

    on_voice(test)


def test_what_a_server_did_not_take_when_it_ended_the_stream_goes_to_the_next_one():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        await until(lambda: spoken.server.streams and len(spoken.got()) == 5)
        # It has captioned three frames, says so, and ends the stream while more comes.
        spoken.server.streams[0].say(Lost(3 * FRAME, 5 * FRAME))
        spoken.server.streams[0].finish(unsettled=b"".join(spoken.frames[3:5]))
        spoken.loud(4)
        await until(lambda: len(spoken.server.streams) == 2 and len(spoken.got()) == 6)
        assert spoken.got() == [3, 4, 5, 6, 7, 8]
        assert spoken.voice.lost_s == pytest.approx(0)

    on_voice(test)


def test_a_stream_that_ends_in_silence_is_not_followed_by_another_until_somebody_speaks():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        spoken.soft(HANGOVER)
        await until(lambda: spoken.server.streams and spoken.server.streams[0].asked)
        spoken.server.streams[0].finish()
        await until(lambda: spoken.server.streams[0].closed)
        await asyncio.sleep(0.05)
        assert len(spoken.server.streams) == 1
        assert spoken.voice.is_silent

    on_voice(test)


def test_streams_that_the_server_ends_at_once_do_not_follow_each_other_at_once(monkeypatch):
    monkeypatch.setattr(voice_module, "STEADY_S", 60.0)

    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        await until(lambda: spoken.server.streams and len(spoken.got()) == 5)
        spoken.server.streams[0].finish(unsettled=bytes(spoken.server.streams[0].given))
        spoken.loud(5)
        await asyncio.sleep(0.1)
        assert len(spoken.server.streams) == 1
        assert not spoken.voice.is_silent

    on_voice(test)


def test_a_refusal_is_asked_again_late_and_what_is_said_meanwhile_is_counted_as_lost():
    async def test(spoken: Spoken) -> None:
        spoken.server.refuses = EndReason.REFUSED
        spoken.loud(4)
        await until(lambda: spoken.voice.state == "refused: language_unavailable")
        spoken.loud(6)
        await asyncio.sleep(0.1)
        assert len(spoken.server.streams) == 1
        assert spoken.voice.lost_s == pytest.approx(10 * 0.05)
        assert spoken.voice.is_silent
        # Another language is another question.
        spoken.server.refuses = None
        spoken.voice.speaks("pt")
        await until(lambda: spoken.voice.state == "silent")
        spoken.loud(2)
        await until(lambda: len(spoken.server.streams) == 2 and spoken.got() == [10, 11])
        assert spoken.server.streams[1].request.language == "pt"

    on_voice(test)


def test_refusals_that_may_pass_are_asked_again_after_growing_pauses(monkeypatch):
    monkeypatch.setattr(voice_module, "REFUSED_S", 0.05)
    monkeypatch.setattr(voice_module, "LONGEST_REFUSED_S", 0.15)

    async def test(spoken: Spoken) -> None:
        pauses = []
        monkeypatch.setattr(spoken.voice, "_wait", lambda pause_s, enough: noted(pause_s))

        async def noted(pause_s: float) -> None:
            pauses.append(pause_s)

        spoken.voice._refused_s = 0.05
        spoken.server.refuses = EndReason.UNAUTHORISED
        for count in (1, 2, 3, 4):
            spoken.loud()
            await until(lambda count=count: len(pauses) == count)
        assert pauses == [0.05, 0.1, 0.15, 0.15]
        spoken.server.refuses = None
        spoken.loud()
        await until(lambda: len(spoken.server.streams) == 5)
        spoken.server.streams[-1].say(READY)
        await until(lambda: spoken.server.streams[-1]._events.empty())
        spoken.server.streams[-1].finish(EndReason.CLOSED, code="closed_by_admin")
        await until(lambda: len(pauses) == 5)
        assert pauses[-1] == 0.05

    on_voice(test)


def test_another_language_begins_with_the_next_utterance_in_a_stream_of_its_own():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        await until(lambda: spoken.server.streams and len(spoken.got()) == 5)
        spoken.voice.speaks("pt")
        await until(lambda: spoken.server.streams[0].closed)
        assert spoken.server.streams[0].asked == [5 * FRAME * 2]
        spoken.loud(2)
        await until(lambda: len(spoken.server.streams) == 2 and spoken.got() == [5, 6])
        assert spoken.server.streams[1].request.language == "pt"

    on_voice(test)


def test_a_track_that_is_gone_ends_its_stream_soon_and_a_new_one_goes_on_with_it_before_that():
    async def test(spoken: Spoken) -> None:
        spoken.loud(5)
        await until(lambda: spoken.server.streams)
        spoken.voice.leave()
        spoken.loud(3)
        await asyncio.sleep(0.06)
        assert not spoken.server.streams[0].is_ending
        spoken.voice.leave()
        await until(lambda: spoken.voice.is_silent and spoken.server.streams[0].closed)
        assert spoken.got() == list(range(8))
        assert spoken.server.streams[0].is_ending

    on_voice(test)


def test_an_end_waits_for_the_last_words():
    async def test(spoken: Spoken) -> None:
        spoken.server.finish = False
        spoken.loud(5)
        await until(lambda: spoken.server.streams and len(spoken.got()) == 5)
        spoken.voice.end()
        await until(lambda: spoken.server.streams[0].is_ending)
        await asyncio.sleep(0.05)
        assert spoken.voice.state == "open"
        spoken.server.streams[0].say(final("ann", "good bye"))
        spoken.server.streams[0].finish()
        await until(lambda: spoken.voice.state == "ended")
        assert spoken.finals == ["good bye"]

    on_voice(test)


def test_an_end_while_refused_is_an_end():
    async def test(spoken: Spoken) -> None:
        spoken.server.refuses = EndReason.REFUSED
        spoken.loud(4)
        await until(lambda: spoken.voice.state.startswith("refused"))
        spoken.voice.end()
        await until(lambda: spoken.voice.state == "ended")

    on_voice(test)


def test_without_a_server_for_long_the_oldest_sound_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(voice_module, "HELD_S", 1.0)
    monkeypatch.setattr(voice_module, "STEADY_S", 60.0)

    async def test(spoken: Spoken) -> None:
        spoken.loud()
        await until(lambda: spoken.server.streams and len(spoken.got()) == 1)
        spoken.server.streams[0].finish()
        spoken.loud(30)
        await until(lambda: spoken.server.streams[0].closed)
        assert spoken.voice.lost_s == pytest.approx(10 * 0.05)
        assert not spoken.voice.is_silent

    on_voice(test)


def test_its_state_says_whether_a_server_is_there():
    async def test(spoken: Spoken) -> None:
        spoken.loud()
        await until(lambda: spoken.server.streams)
        stream = spoken.server.streams[0]
        for event, state in (
            (READY, "open"),
            (Interrupted("closed with 1012"), "waiting for a server"),
            (Failure("translation_unavailable", ""), "waiting for a server"),
            (Presence("joined", "bob"), "waiting for a server"),
            (Resumed(READY, 1.0, 100), "open"),
            (Lost(0, 1600), "open"),
        ):
            stream.say(event)
            await until(lambda: stream._events.empty())
            await asyncio.sleep(0)
            assert spoken.voice.state == state
        assert spoken.voice.lost_s == pytest.approx(0.1)

    on_voice(test)
