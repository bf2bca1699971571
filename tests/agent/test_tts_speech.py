"""Texts become sound in pieces: `KokoroSpeech`, with a synthesis that is played, and what requests are answered."""

import asyncio
from pathlib import Path

import attrs
import numpy as np
import pytest

from agent.http import Spoken
from agent.tts import speech as module
from agent.tts.requests import NotSpokenError, speak_on_request
from agent.tts.speech import PAUSE_S, KokoroSpeech, SpeechStatus, command, open_speech, why_not
from agent.tts.synthesis import BusyError, LateError, SynthesisError
from agent.tts.voices import Voices
from tests.agent.played_rooms import PlayedRoom
from trio_stt.dialects.request import Refusal
from trio_stt.models.kokoro import load_kokoro
from trio_stt.rooms.wanted import WantedRoom
from trio_stt.settings import Settings

RATE = 24_000


class PlayedSynthesis:
    """Each piece is a second of sound; `error`: what the piece of that number raises."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float | None]] = []
        self.broken_off: list[str] = []
        self.errors: dict[int, Exception] = {}
        self.held = asyncio.Event()
        self.held.set()

    async def sound_of(self, text: str, voice: str, *, begin_within_s: float | None = None) -> np.ndarray:
        self.asked.append((text, voice, begin_within_s))
        number = len(self.asked)
        try:
            await self.held.wait()
        except asyncio.CancelledError:
            self.broken_off.append(text)
            raise
        if number in self.errors:
            raise self.errors[number]
        return np.full(RATE, number / 10, np.float32)


class Listener:
    """Takes sound; `held`: while it is not set, one piece plays on."""

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []
        self.held = asyncio.Event()
        self.held.set()

    async def play(self, samples: np.ndarray, sample_rate: int) -> None:
        assert sample_rate == RATE
        self.heard.append(samples)
        await self.held.wait()


def bounded(test) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(within())


def made() -> tuple[PlayedSynthesis, KokoroSpeech, Listener]:
    synthesis = PlayedSynthesis()
    return synthesis, KokoroSpeech(Voices(load_kokoro().voices), synthesis), Listener()


def test_a_text_is_spoken_piece_by_piece_with_pauses_between():
    async def test() -> None:
        synthesis, speech, listener = made()
        status = await speech.say("One. Two. Three.", "pt-BR", None, listener.play, begin_within_s=8.0)
        assert status is SpeechStatus.COMPLETED
        assert synthesis.asked == [("One.", "pf_dora", 8.0), ("Two.", "pf_dora", None), ("Three.", "pf_dora", None)]
        pause = int(PAUSE_S * RATE)
        assert [len(samples) for samples in listener.heard] == [RATE + pause, RATE + pause, RATE]
        assert not listener.heard[0][RATE:].any()
        assert [round(float(samples[0]), 3) for samples in listener.heard] == [0.1, 0.2, 0.3]

    bounded(test)


def test_the_next_piece_is_computed_while_one_is_heard_and_no_more():
    async def test() -> None:
        synthesis, speech, listener = made()
        listener.held.clear()
        saying = asyncio.create_task(speech.say("One. Two. Three.", "en", None, listener.play))
        await asyncio.sleep(0.05)
        assert [text for text, _, _ in synthesis.asked] == ["One.", "Two."]
        assert len(listener.heard) == 1
        listener.held.set()
        assert await saying is SpeechStatus.COMPLETED

    bounded(test)


def test_what_is_interrupted_is_broken_off_and_not_computed_further():
    async def test() -> None:
        synthesis, speech, listener = made()
        synthesis.held.clear()
        saying = asyncio.create_task(speech.say("One. Two.", "en", None, listener.play))
        await asyncio.sleep(0.05)
        saying.cancel()
        await asyncio.wait([saying])
        assert saying.cancelled()
        assert synthesis.broken_off == ["One."]
        synthesis.held.set()
        listener.held.clear()
        saying = asyncio.create_task(speech.say("Three. Four. Five.", "en", None, listener.play))
        await asyncio.sleep(0.05)
        synthesis.held.clear()
        saying.cancel()
        await asyncio.wait([saying])
        assert saying.cancelled()
        assert len(synthesis.asked) == 3

    bounded(test)


@pytest.mark.parametrize(
    ("text", "language", "voice", "status"),
    [
        ("Hello.", "de", None, SpeechStatus.UNSUPPORTED_LANGUAGE),
        ("Hello.", "ja", "jf_alpha", SpeechStatus.UNSUPPORTED_LANGUAGE),
        ("Hello.", "en", "pf_dora", SpeechStatus.UNKNOWN_VOICE),
        ("Hello.", "en", "nobody", SpeechStatus.UNKNOWN_VOICE),
        ("...", "en", None, SpeechStatus.NOTHING_TO_SAY),
    ],
)
def test_what_cannot_be_said_is_told_and_nothing_is_computed(text, language, voice, status):
    async def test() -> None:
        synthesis, speech, listener = made()
        assert await speech.say(text, language, voice, listener.play) is status
        assert (synthesis.asked, listener.heard) == ([], [])

    bounded(test)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LateError("late"), SpeechStatus.SKIPPED),
        (BusyError("busy"), SpeechStatus.SKIPPED),
        (SynthesisError("died"), SpeechStatus.FAILED),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_piece_that_fails_ends_the_text(error, status, number, quiet_logs):
    async def test() -> None:
        synthesis, speech, listener = made()
        synthesis.errors[number] = error
        assert await speech.say("One. Two. Three.", "en", None, listener.play) is status
        assert len(listener.heard) == number - 1

    bounded(test)


def test_an_error_of_what_plays_goes_through_and_leaves_nothing_behind():
    async def test() -> None:
        synthesis, speech, _ = made()

        async def play(samples: np.ndarray, sample_rate: int) -> None:
            synthesis.held.clear()
            await asyncio.sleep(0.01)
            raise OSError("the track is gone")

        with pytest.raises(OSError, match="gone"):
            await speech.say("One. Two.", "en", None, play)
        assert synthesis.broken_off == ["Two."]

    bounded(test)


# ── whether there is speech ──────────────────────────────────────────────────────────────────────────────────────


def write_model(models: Path, voices: list[str]) -> None:
    folder = models / "kokoro_models"
    folder.mkdir(parents=True)
    (folder / "kokoro-v1.0.int8.onnx").write_bytes(b"")
    with (folder / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, **{name: np.zeros(1, np.float32) for name in voices})


def test_without_packages_or_model_there_is_no_speech_and_the_log_says_what_to_do(tmp_path, monkeypatch, quiet_logs):
    async def test() -> None:
        settings = Settings(models_dir=tmp_path)
        assert "trio-stt models install kokoro" in why_not(settings)
        async with open_speech(settings) as speech:
            assert speech is None
        write_model(tmp_path, ["pf_dora"])
        assert why_not(settings) is None
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        assert "--speech" in why_not(settings)
        async with open_speech(settings) as speech:
            assert speech is None

    bounded(test)


def test_speech_has_the_languages_of_the_voices_that_are_installed(tmp_path, quiet_logs):
    async def test() -> None:
        write_model(tmp_path, ["am_adam", "pf_dora", "pm_alex", "zf_xiaobei"])
        settings = Settings(models_dir=tmp_path, agent_voices=("pm_alex", "af_sky"))
        async with open_speech(settings) as speech:
            assert speech.languages() == {"en", "pt"}
            assert speech._voices.voice_for("pt") == "pm_alex"
            assert speech.refusal("en", "af_sky") is SpeechStatus.UNKNOWN_VOICE
            assert speech._synthesis.starts == 0

    bounded(test)


def test_the_process_is_told_the_threads_that_are_set(tmp_path):
    write_model(tmp_path, ["af_heart"])
    model = module.installed_kokoro(tmp_path)
    folder = tmp_path / "kokoro_models"
    assert command(model, 3)[-3:] == [str(folder / "kokoro-v1.0.int8.onnx"), str(folder / "voices-v1.0.bin"), "3"]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


class SayingRoom(PlayedRoom):
    """A room in which one can have something said."""

    def __init__(self, how: str) -> None:
        super().__init__(WantedRoom("r"))
        self.said: list[tuple[str, str, str | None]] = []
        self._how = how

    def say(self, text, language, voice, done) -> None:
        self.said.append((text, language, voice))
        done(self._how)
        done("twice")


SPOKEN = Spoken("7", "r", "hello", "en", "am_adam")


def test_a_request_is_said_in_its_room():
    async def test() -> None:
        _, speech, _ = made()
        speak = speak_on_request(speech)
        room = SayingRoom("completed")
        await speak(room, SPOKEN)
        assert room.said == [("hello", "en", "am_adam")]
        for how in ("skipped", "error"):
            with pytest.raises(NotSpokenError, match=how):
                await speak(SayingRoom(how), SPOKEN)

    bounded(test)


@pytest.mark.parametrize(
    ("changes", "code", "parameter"),
    [
        ({"language": "de"}, "unsupported_language", "language"),
        ({"voice": "pf_dora"}, "unknown_voice", "voice"),
    ],
)
def test_a_request_that_no_voice_can_speak_is_refused(changes, code, parameter):
    async def test() -> None:
        _, speech, _ = made()
        room = SayingRoom("completed")
        refusal = speak_on_request(speech)(room, attrs.evolve(SPOKEN, **changes))
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code, refusal.parameter) == (400, code, parameter)
        assert room.said == []

    bounded(test)


def test_without_speech_or_in_a_room_that_is_mute_a_request_is_not_available():
    async def test() -> None:
        _, speech, _ = made()
        assert speak_on_request(None) is None
        refusal = speak_on_request(speech)(PlayedRoom(WantedRoom("r")), SPOKEN)
        assert (refusal.status, refusal.code) == (404, "not_available")

    bounded(test)
