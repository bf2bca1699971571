"""Frames answered as by vosk-server while only speech is decoded."""

import json

import numpy as np
import pytest
import structlog
import trio

from tests.unit.fakes import FakeEngine, InlineDecoders, LoudnessVoice, silence, sound
from trio_stt.audio.speech_gate import GateConfig, SpeechGate
from trio_stt.dialects.events import Audio, StreamRequest
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.resting import Resting
from trio_stt.recognition.speaker import SpeakerRecogniser
from trio_stt.sessions.backlog import AudioRun
from trio_stt.sessions.captioner import Captioner
from trio_stt.sessions.catch_up import CatchUps
from trio_stt.sessions.gated_listener import GatedListener


class Gated:
    """A listener with a fake engine; `hear` cuts sound into frames of 100 ms."""

    def __init__(self, *, words=True):
        self.engine = FakeEngine()
        self.words = words
        self.listener = GatedListener(self.captioner, words=words)

    def captioner(self, sink):
        log = structlog.get_logger()
        breaker = Breaker("fake", min_calls=20, wait_s=5)
        return Captioner(
            StreamRequest("ann", "call"),
            "s",
            gate=SpeechGate(GateConfig()),
            voice=LoudnessVoice(),
            recogniser=SpeakerRecogniser(
                self.engine, InlineDecoders(), breaker, Resting(100), log, give_up=self.engine.close
            ),
            sink=sink,
            wants_partials=lambda: True,
            partial_every_ms=lambda: 0,
            on_decoded=lambda samples: None,
            lag_ms=lambda: 0,
            catch_ups=CatchUps(),
            chunk_ms=lambda: 100,
            number=0,
            log=log,
        )

    async def hear(self, samples, frame=1600):
        frames = [
            Audio(samples[at : at + frame].tobytes(), 0, len(samples[at : at + frame]))
            for at in range(0, len(samples), frame)
        ]
        replies = await self.listener.hear(AudioRun(tuple(frames), trio.current_time()))
        assert len(replies) == len(frames)
        return [json.loads(reply.text) for reply in replies]


async def test_silence_is_answered_but_not_decoded():
    gated = Gated()
    assert await gated.hear(silence(3)) == [{"partial": ""}] * 30
    assert gated.engine.given == []


async def test_speech_is_answered_by_its_text_so_far_and_by_a_final_where_the_gate_ends_it():
    gated = Gated()
    replies = await gated.hear(sound(1.5)) + await gated.hear(silence(1))
    finals = [reply for reply in replies if "text" in reply]
    assert [final["text"] for final in finals] == ["w1 w2 w3"]
    assert replies[14]["partial"].startswith("w1")
    assert replies[-1] == {"partial": ""}
    assert len(gated.engine.given) < 25


async def test_times_of_words_count_the_silence_that_was_not_decoded():
    gated = Gated()
    await gated.hear(silence(5))
    replies = await gated.hear(sound(1)) + await gated.hear(silence(1))
    (final,) = [reply for reply in replies if "text" in reply]
    assert final["result"][0]["start"] == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("words", [True, False])
async def test_words_stand_in_a_final_if_they_are_wanted(words):
    gated = Gated(words=words)
    await gated.hear(sound(1))
    assert ("result" in json.loads((await gated.listener.finish()).text)) is words


async def test_utterances_that_end_within_one_frame_are_one_reply():
    gated = Gated()
    whole = [*sound(1), *silence(1), *sound(1), *silence(1)]
    (reply,) = await gated.hear(np.array(whole, np.int16), frame=len(whole))
    assert reply["text"].startswith("w1 w2 w1 w2")
    assert json.loads((await gated.listener.finish()).text) == {"text": ""}
