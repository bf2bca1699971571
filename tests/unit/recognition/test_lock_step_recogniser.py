import json

import pytest
from attrs import frozen

from tests.unit.fakes import FakeEngine, InlineDecoders
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.engine import EngineError, PlainOptions
from trio_stt.recognition.lock_step import FRAMES_A_CALL, LockStepRecogniser
from trio_stt.recognition.schedule import Turn

RATE = 8000
LOUD = b"\x00\x40" * 800  # 0.1 s
SILENT = bytes(1600)


@frozen
class Frame:
    payload: bytes


class CountingDecoders(InlineDecoders):
    """`Decoders` without threads that count the hops."""

    def __init__(self):
        self.calls = 0
        self.turns = []

    async def run(self, call, turn=Turn(), *, owner=""):  # noqa: B008  (frozen)
        self.calls += 1
        self.turns.append(turn)
        return await super().run(call)


class Heard:
    """One recogniser with its parts."""

    def __init__(self, breaker=None):
        self.engine = FakeEngine()
        self.decoders = CountingDecoders()
        self.decoded_s = []
        self.recogniser = LockStepRecogniser(
            self.engine, PlainOptions(RATE), self.decoders, breaker, on_decoded=self.decoded_s.append
        )

    async def hear(self, *payloads):
        return [
            (json.loads(reply.text), reply.is_final)
            for reply in await self.recogniser.hear([Frame(payload) for payload in payloads], 100.0)
        ]


async def test_frames_that_wait_together_are_decoded_in_one_hop_and_each_is_answered():
    heard = Heard()
    assert await heard.hear(LOUD, LOUD, SILENT) == [
        ({"partial": "w1"}, False),
        ({"partial": "w1 w2"}, False),
        ({"text": "w1 w2"}, True),
    ]
    assert heard.decoders.calls == 1
    assert heard.decoded_s == [pytest.approx(0.3)]


async def test_a_long_frame_is_decoded_in_parts_and_answered_once():
    heard = Heard()
    # 1.0 s in calls of 0.4 s; this twin hears a word in each part.
    assert await heard.hear(LOUD * 10) == [({"partial": "w1 w2 w3"}, False)]
    assert heard.decoders.calls == 3
    assert heard.decoded_s == [pytest.approx(0.4), pytest.approx(0.4), pytest.approx(0.2)]


async def test_a_flood_of_tiny_frames_is_answered_in_calls_of_bounded_length():
    heard = Heard()
    assert len(await heard.hear(*[b"\0\0"] * (2 * FRAMES_A_CALL + 1))) == 2 * FRAMES_A_CALL + 1
    assert heard.decoders.calls == 3


async def test_an_empty_frame_has_an_answer_too():
    assert await Heard().hear(b"", LOUD, b"") == [
        ({"partial": ""}, False),
        ({"partial": "w2"}, False),
        ({"text": "w2"}, True),
    ]


async def test_the_end_before_any_sound_is_an_empty_final():
    heard = Heard()
    reply = await heard.recogniser.finish()
    assert (json.loads(reply.text), reply.is_final) == ({"text": ""}, True)


async def test_the_recogniser_is_given_back_once():
    heard = Heard()
    await heard.recogniser.aclose()
    await heard.hear(LOUD)
    assert heard.engine.open_recognisers == 1
    await heard.recogniser.aclose()
    await heard.recogniser.aclose()
    assert heard.engine.open_recognisers == 0


@pytest.mark.parametrize("counted", [True, False])
async def test_failures_open_the_breaker_only_where_they_are_the_model_s(counted):
    breaker = Breaker("fake", min_calls=1, wait_s=5)
    heard = Heard(breaker if counted else None)
    heard.engine.failures = 1
    with pytest.raises(EngineError):
        await heard.hear(LOUD)
    assert breaker.admits is not counted


async def test_calls_are_due_when_their_sound_was_spoken_however_early_it_was_sent():
    heard = Heard()
    await heard.hear(LOUD, LOUD)
    await heard.hear(LOUD * 10)
    await heard.recogniser.finish()
    turns = heard.decoders.turns
    assert [turn.due for turn in turns] == pytest.approx([100.1, 100.5, 100.9, 101.1, 101.1])
    assert [turn.audio_s for turn in turns] == pytest.approx([0.2, 0.4, 0.4, 0.2, 0.0])
    assert [turn.ends_utterance for turn in turns] == [False] * 4 + [True]
