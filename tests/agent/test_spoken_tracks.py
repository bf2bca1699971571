"""Tracks of the agent's own: real sources and tracks of the SDK, in a room that is played."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import numpy as np
import pytest
import structlog
from livekit import rtc

from agent import spoken_tracks as module
from agent.spoken_tracks import MOST_TEXTS, SpokenTracks
from agent.tts.speech import SpeechStatus
from tests.agent.played_rooms import until

RATE = 24_000


class PlayedRoom:
    """Publishes and takes back; `slow`: while set, the server does not answer. Both may fail."""

    def __init__(self) -> None:
        self.local_participant = self
        self.published: dict[str, rtc.LocalAudioTrack] = {}
        self.history: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails = False
        self.publication = SimpleNamespace(sid="")

    async def publish_track(self, track: rtc.LocalAudioTrack, options: rtc.TrackPublishOptions) -> SimpleNamespace:
        sid = f"TR_{len(self.history)}"
        self.history.append(f"publish {track.name}")
        await self.answers.wait()
        if self.fails:
            raise RuntimeError("refused, and here stands what is said")
        self.published[sid] = track
        self.publication = SimpleNamespace(sid=sid)
        return self.publication

    async def unpublish_track(self, sid: str) -> None:
        self.history.append(f"unpublish {sid}")
        await self.answers.wait()
        if self.fails:
            raise RuntimeError("refused")
        del self.published[sid]


class PlayedSpeech:
    """Says each text as `length_s` of a constant, once `held` is set; `languages` may change."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.given: list[tuple[str, str | None, float | None]] = []
        self.length_s = 0.1
        self.rate = RATE
        self.held = asyncio.Event()
        self.held.set()
        self.error: Exception | None = None
        self.status = SpeechStatus.COMPLETED

    def languages(self) -> frozenset[str]:
        return frozenset({"en", "en-gb", "pt"})

    async def say(self, text, language, voice, onto, *, begin_within_s=None) -> SpeechStatus:
        self.begun.append(text)
        self.given.append((language, voice, begin_within_s))
        await self.held.wait()
        if self.error is not None:
            raise self.error
        await onto(np.full(int(self.length_s * self.rate), 1.5, np.float32), self.rate)
        return self.status


class Spoken:
    """The tracks of one room, and how each text went."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sources: list[rtc.AudioSource] = []
        self.speech = PlayedSpeech()
        self.room = PlayedRoom()
        self.how: dict[str, list[str]] = {}
        self.tracks = SpokenTracks(self.speech, structlog.get_logger())
        self.tracks.use(self.room)
        make = rtc.AudioSource

        def made(*arguments: object, **more: object) -> rtc.AudioSource:
            source = make(*arguments, **more)
            self.sources.append(source)
            return source

        monkeypatch.setattr(module.rtc, "AudioSource", made)

    def say(self, text: str, identity: str = "ana", language: str = "en", voice: str | None = None, **more) -> None:
        self.tracks.say(identity, text, language, voice, self.how.setdefault(text, []).append, **more)

    async def told(self, *texts: str) -> list[str]:
        await until(lambda: all(self.how[text] for text in texts), 30)
        return [self.how[text][0] for text in texts]

    @property
    def open_sources(self) -> int:
        return sum(not source._ffi_handle.disposed for source in self.sources)

    async def end(self) -> None:
        await self.tracks.keep(lambda identity, language: False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, quiet_logs) -> Callable[[Callable[[Spoken], Awaitable[None]]], None]:
    """Runs a test, ends its tracks, and looks that nothing is left and that each text was told of once."""

    def run_it(test: Callable[[Spoken], Awaitable[None]]) -> None:
        async def bounded() -> None:
            spoken = Spoken(monkeypatch)
            async with asyncio.timeout(100):
                await test(spoken)
                spoken.room.answers.set()
                spoken.room.fails = False
                await spoken.end()
            assert spoken.open_sources == 0
            assert spoken.room.published == {}
            assert [text for text, how in spoken.how.items() if len(how) != 1] == []
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(bounded())
        gc.collect()

    return run_it


async def frames_of(track: rtc.LocalAudioTrack, seconds: float) -> np.ndarray:
    """What a listener of the track would get, for so long."""
    stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1)
    got = []
    try:
        async with asyncio.timeout(seconds):
            async for event in stream:
                got.append(np.frombuffer(event.frame.data, "<i2").copy())
    except TimeoutError:
        pass
    finally:
        await stream.aclose()
    return np.concatenate(got) if got else np.zeros(0, "<i2")


def test_texts_are_heard_on_one_track_in_order_clipped(run):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 0.4
        spoken.say("one", voice="af_sky")
        await until(lambda: spoken.room.published)
        (track,) = spoken.room.published.values()
        spoken.say("two")
        sound = await frames_of(track, 1.5)
        assert await spoken.told("one", "two") == ["completed", "completed"]
        assert spoken.speech.begun == ["one", "two"]
        assert track.name == "ana-en"
        assert sound.max() >= 32000  # 1.5 was given
        assert spoken.tracks.names == ["ana-en"]
        assert spoken.speech.given[0][:2] == ("en", "af_sky")
        assert 0 < spoken.speech.given[0][2] <= module.WITHIN_S

    run(test)
    # the tracks are taken back, the sources closed: `run` has looked


def test_each_identity_and_language_has_a_track_and_a_language_without_voice_none(run):
    async def test(spoken: Spoken) -> None:
        spoken.say("a")
        spoken.say("b", language="pt-BR")
        spoken.say("c", identity="bob", language="EN-gb")
        spoken.say("d", language="de")
        assert await spoken.told("a", "b", "c", "d") == ["completed"] * 3 + ["unsupported_language"]
        assert spoken.tracks.names == ["ana-en", "ana-pt-BR", "bob-EN-gb"]
        assert [given[0] for given in spoken.speech.given] == ["en", "pt", "en-gb"]
        assert spoken.tracks.speaks("pt-PT")
        assert not spoken.tracks.speaks("de")

    run(test)


def test_what_was_not_begun_in_time_since_it_came_is_skipped(run, monkeypatch):
    async def test(spoken: Spoken) -> None:
        spoken.speech.held.clear()
        spoken.say("long", within_s=None)
        spoken.say("late", within_s=0.05)
        spoken.say("patient", within_s=None)
        spoken.say("in time", within_s=60)
        await asyncio.sleep(0.1)
        spoken.speech.held.set()
        assert await spoken.told("long", "late", "patient", "in time") == [
            "completed",
            "skipped",
            "completed",
            "completed",
        ]
        assert spoken.speech.begun == ["long", "patient", "in time"]
        limits = [given[2] for given in spoken.speech.given]
        assert limits[:2] == [None, None]
        assert 0 < limits[2] < 60 - 0.1  # what has passed counts

    run(test)


def test_no_more_than_so_many_wait_and_the_oldest_go_first(run):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 0.01
        spoken.speech.held.clear()
        spoken.say("speaking")
        await until(lambda: spoken.speech.begun)
        names = [f"t{number}" for number in range(MOST_TEXTS + 3)]
        for name in names:
            spoken.say(name, within_s=None if name == "t1" else 60)
        skipped = [name for name in names if spoken.how[name] == ["skipped"]]
        assert skipped == ["t0", "t2", "t3"]
        spoken.speech.held.set()
        await spoken.told(*names)
        assert [name for name in names if name not in skipped] == spoken.speech.begun[1:]
        spoken.speech.held.clear()
        for number in range(MOST_TEXTS + 2):
            spoken.say(f"asked {number}", within_s=None)
            await asyncio.sleep(0.005)
        assert spoken.how[f"asked {MOST_TEXTS + 1}"] == ["skipped"]
        assert spoken.how["asked 1"] == []
        spoken.speech.held.set()

    run(test)


def test_an_interruption_ends_what_is_said_and_what_waits_and_the_track_goes_on(run):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 60
        spoken.say("long")
        spoken.say("waits")
        spoken.say("of another", identity="bob", within_s=None)
        await until(lambda: len(spoken.room.published) == 2)
        (source, _) = spoken.sources
        await until(lambda: source.queued_duration > 0.2)
        spoken.tracks.interrupt("ana")
        assert source.queued_duration < 0.1
        assert await spoken.told("long", "waits") == ["skipped", "skipped"]
        assert spoken.how["of another"] == []
        spoken.speech.length_s = 0.05
        spoken.say("next")
        assert await spoken.told("next") == ["completed"]
        assert spoken.room.history == ["publish ana-en", "publish bob-en"]
        spoken.tracks.interrupt("nobody")

    run(test)


def test_what_follows_an_interruption_at_once_is_said(run):
    async def test(spoken: Spoken) -> None:
        for number in range(10):
            spoken.speech.length_s = 60
            spoken.say(f"long {number}")
            await until(lambda: spoken.sources and spoken.sources[0].queued_duration > 0.2)
            spoken.speech.length_s = 0.05
            spoken.tracks.interrupt("ana")
            spoken.say(f"next {number}")
            assert await spoken.told(f"long {number}", f"next {number}") == ["skipped", "completed"]

    run(test)


@pytest.mark.parametrize("moment", ["computed", "published", "heard", "silent"])
def test_a_track_that_ends_in_the_middle_of_a_text_leaves_nothing(run, moment):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 60
        if moment == "computed":
            spoken.speech.held.clear()
        if moment == "published":
            spoken.room.answers.clear()
        if moment == "silent":
            spoken.speech.length_s = 0.01
        spoken.say("long")
        await until(lambda: spoken.speech.begun)
        if moment in ("published", "heard"):
            await until(lambda: spoken.room.history)
        if moment == "heard":
            await until(lambda: spoken.sources[0].queued_duration > 0.1)
        if moment == "silent":
            await spoken.told("long")
        spoken.say("waits" if moment != "silent" else "none")
        ending = asyncio.create_task(spoken.end())
        await asyncio.sleep(0.02)
        spoken.room.answers.set()
        await ending
        # Before the end of `run` looks: it is this call that closed and told everything.
        assert (spoken.open_sources, spoken.room.published) == (0, {})
        assert all(len(how) == 1 for how in spoken.how.values())
        assert spoken.tracks.names == []
        if moment in ("published", "heard"):
            assert spoken.room.history == ["publish ana-en", "unpublish TR_0"]

    run(test)


def test_an_end_that_is_itself_cancelled_closes_everything_all_the_same(run):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 60
        spoken.say("long")
        await until(lambda: spoken.room.published)
        spoken.room.answers.clear()
        ending = asyncio.create_task(spoken.end())
        await until(lambda: len(spoken.room.history) == 2)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        spoken.room.answers.set()
        await until(lambda: spoken.open_sources == 0 and not spoken.room.published)
        await spoken.end()

    run(test)


def test_a_track_that_is_cancelled_twice_is_closed_all_the_same(run):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 60
        spoken.say("long")
        await until(lambda: spoken.room.published)
        spoken.room.answers.clear()
        ((_, task),) = spoken.tracks._tracks.values()
        task.cancel()
        await until(lambda: len(spoken.room.history) == 2)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        spoken.room.answers.set()
        await asyncio.wait([task])
        assert (spoken.open_sources, spoken.room.published) == (0, {})

    run(test)


def test_a_server_that_does_not_answer_holds_up_no_end(run, monkeypatch):
    async def test(spoken: Spoken) -> None:
        monkeypatch.setattr(module, "CLOSE_S", 0.1)
        spoken.speech.length_s = 0.01
        spoken.say("short")
        spoken.say("of another", identity="bob")
        await spoken.told("short", "of another")
        spoken.room.answers.clear()
        await spoken.end()
        assert spoken.open_sources == 0
        assert len(spoken.room.published) == 2  # which the connection's end takes back
        spoken.room.published.clear()

    run(test)


def test_the_connection_may_go_and_come_back_and_be_another(run):
    async def test(spoken: Spoken) -> None:
        spoken.speech.length_s = 0.02
        spoken.tracks.use(None)
        spoken.say("to nobody")
        assert await spoken.told("to nobody") == ["skipped"]
        spoken.tracks.use(spoken.room)
        spoken.say("one")
        await spoken.told("one")
        spoken.tracks.use(None)
        spoken.tracks.use(spoken.room)  # the SDK has published the track again, under another id
        track = spoken.room.published.pop("TR_0")
        spoken.room.published["TR_new"], spoken.room.publication.sid = track, "TR_new"
        spoken.say("two")
        await spoken.told("two")
        assert spoken.room.history == ["publish ana-en"]
        other = PlayedRoom()
        spoken.tracks.use(other)
        spoken.room.published.clear()  # with the lost connection
        spoken.say("three")
        assert await spoken.told("three") == ["completed"]
        assert (other.history, spoken.open_sources) == (["publish ana-en"], 1)
        spoken.tracks.use(spoken.room)
        spoken.say("four")
        await spoken.told("four")
        await spoken.end()
        assert spoken.room.history[-1].startswith("unpublish")

    run(test)


def test_the_id_under_which_the_track_is_taken_back_is_todays(run):
    async def test(spoken: Spoken) -> None:
        spoken.say("one")
        await spoken.told("one")
        spoken.room.published["TR_new"] = spoken.room.published.pop("TR_0")
        spoken.room.publication.sid = "TR_new"
        await spoken.end()
        assert spoken.room.history == ["publish ana-en", "unpublish TR_new"]

    run(test)


def test_whatever_fails_costs_one_text(run):
    async def test(spoken: Spoken) -> None:
        spoken.room.fails = True
        spoken.say("refused")
        assert await spoken.told("refused") == ["error"]
        assert spoken.open_sources == 0
        spoken.room.fails = False
        spoken.speech.error = RuntimeError("a voice fails, and here stands what is said")
        spoken.say("failed")
        assert await spoken.told("failed") == ["error"]
        spoken.speech.error = None
        spoken.speech.status = SpeechStatus.UNKNOWN_VOICE
        spoken.say("of nobody")
        assert await spoken.told("of nobody") == ["unknown_voice"]
        spoken.speech.status = SpeechStatus.COMPLETED
        spoken.say("well")
        assert await spoken.told("well") == ["completed"]
        spoken.room.fails = True
        await spoken.end()
        assert spoken.open_sources == 0
        spoken.room.published.clear()

    run(test)


def test_publishing_that_takes_too_long_fails_the_text(run, monkeypatch):
    async def test(spoken: Spoken) -> None:
        monkeypatch.setattr(module, "PUBLISH_S", 0.05)
        monkeypatch.setattr(module, "CLOSE_S", 0.05)
        spoken.room.answers.clear()
        spoken.say("one")
        assert await spoken.told("one") == ["error"]
        assert spoken.open_sources == 0

    run(test)


def test_a_voice_with_another_rate_gets_another_source(run):
    async def test(spoken: Spoken) -> None:
        spoken.say("one")
        await spoken.told("one")
        spoken.speech.rate = 16_000
        spoken.say("two")
        assert await spoken.told("two") == ["completed"]
        assert [source.sample_rate for source in spoken.sources] == [RATE, 16_000]
        assert spoken.open_sources == 1
        assert spoken.room.history == ["publish ana-en", "unpublish TR_0", "publish ana-en"]

    run(test)
