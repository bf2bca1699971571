import numpy as np
import pytest
import structlog
import trio
import trio.testing

from tests.unit.fakes import InlineDecoders
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.engine import EngineError, HeardWord
from trio_stt.recognition.resting import Resting
from trio_stt.recognition.speaker import ATTEMPTS, Heard, SpeakerRecogniser


class CountingRecogniser:
    """Hears one word for each call of `accept`: the number of samples given."""

    def __init__(self, engine):
        self.engine = engine
        self.words = []

    def accept(self, samples):
        if self.engine.failures:
            self.engine.failures -= 1
            raise EngineError("planted")
        self.words.append(str(samples.size))

    def partial(self):
        self.engine.partials += 1
        return " ".join(self.words)

    def finish(self):
        words, self.words = self.words, []
        return tuple(HeardWord(word, 0, 1, 1.0) for word in words)


class FakeEngine:
    def __init__(self):
        self.failures = 0
        self.opened = 0
        self.partials = 0
        self.closed = []

    def recogniser_mb(self, decoded_s):
        return 4 + decoded_s

    def open(self):
        self.opened += 1
        return CountingRecogniser(self)

    def close(self, recogniser):
        self.closed.append(recogniser)


def new_speaker(engine, breaker, resting):
    return SpeakerRecogniser(engine, InlineDecoders(), breaker, resting, structlog.get_logger(), give_up=engine.close)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def breaker():
    return Breaker("vosk-en", min_calls=8, wait_s=5, jitter=lambda: 0.0)


@pytest.fixture
def resting():
    return Resting(budget_mb=10)


@pytest.fixture
def speaker(engine, breaker, resting):
    return new_speaker(engine, breaker, resting)


def samples(count):
    return np.zeros(count, np.int16)


async def test_no_recogniser_is_opened_before_somebody_speaks(engine, speaker):
    await speaker.aclose()
    assert engine.opened == 0
    assert engine.closed == []


async def test_partials_are_computed_only_when_wanted(engine, speaker):
    assert await speaker.accept(samples(10), partial=False) == ""
    assert engine.partials == 0
    assert await speaker.accept(samples(20), partial=True) == "10 20"


async def test_one_recogniser_serves_all_utterances_of_a_speaker(engine, speaker):
    await speaker.accept(samples(1), partial=False)
    assert (await speaker.finish(samples(2))).text == "1 2"
    assert (await speaker.finish(samples(3))).text == "3"
    assert engine.opened == 1
    await speaker.aclose()
    assert len(engine.closed) == 1


async def test_after_a_failure_a_new_recogniser_hears_the_whole_utterance_again(engine, speaker):
    await speaker.accept(samples(10), partial=False)
    engine.failures = 1
    assert await speaker.accept(samples(20), partial=True) == "30"
    heard = await speaker.finish(samples(5))
    assert heard.text == "30 5"
    assert engine.opened == 2


async def test_audio_that_fails_every_time_ends_with_what_was_heard_before(engine, speaker):
    await speaker.accept(samples(10), partial=True)
    engine.failures = ATTEMPTS
    assert await speaker.finish(samples(20)) == Heard("10")
    assert (await speaker.finish(samples(7))).text == "7"


async def test_a_failed_recogniser_is_never_given_back(engine, speaker):
    engine.failures = 1
    await speaker.accept(samples(1), partial=False)
    await speaker.aclose()
    assert len(engine.closed) == 1
    assert engine.opened == 2


async def test_calls_wait_while_the_breaker_is_open_and_lose_nothing(engine, breaker, speaker, autojump_clock):
    async def works() -> bool:
        return True

    await speaker.accept(samples(10), partial=False)
    breaker.trip()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(breaker.keep_probing, works)
        assert (await speaker.finish(samples(5))).text == "10 5"
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == 5


async def test_failures_reach_the_breaker(engine, breaker, speaker):
    engine.failures = 2
    await speaker.accept(samples(1), partial=False)
    assert (breaker.statistics().calls, breaker.statistics().failures) == (3, 2)


async def test_under_memory_pressure_those_silent_longest_are_forgotten_first(engine, breaker, resting):
    speakers = [new_speaker(engine, breaker, resting) for _ in range(3)]
    for speaker in speakers:
        await speaker.finish(samples(1))
    assert len(engine.closed) == 1
    await speakers[1].finish(samples(1))
    await speakers[2].finish(samples(1))
    assert engine.opened == 3
    await speakers[0].finish(samples(1))
    assert engine.opened == 4
    assert len(engine.closed) == 2
    for speaker in speakers:
        await speaker.aclose()
    assert len(engine.closed) == engine.opened
    assert len(resting) == 0


async def test_a_recogniser_larger_than_all_memory_is_forgotten_at_once(engine, speaker):
    await speaker.finish(samples(16000 * 7))
    assert len(engine.closed) == 1
    assert (await speaker.finish(samples(1))).text == "1"


async def test_who_speaks_is_not_forgotten(engine, breaker, resting):
    talking, other = (new_speaker(engine, breaker, resting) for _ in range(2))
    await talking.finish(samples(16000 * 4))
    await talking.accept(samples(1), partial=False)
    await other.finish(samples(16000 * 5))
    assert len(engine.closed) == 1
    assert (await talking.finish(samples(2))).text == "1 2"
    assert engine.opened == 2


async def test_who_only_finishes_an_utterance_is_not_forgotten_meanwhile(engine, breaker, resting):
    deciding = trio.Event()

    class SlowDecoders(InlineDecoders):
        async def run(self, call, turn=None, *, owner=""):
            await deciding.wait()
            return call()

    brief, other = (new_speaker(engine, breaker, resting) for _ in range(2))
    await brief.finish(samples(16000 * 4))
    brief._decoders = SlowDecoders()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(brief.finish, samples(7))
        await trio.testing.wait_all_tasks_blocked()
        recogniser = brief._recogniser
        await other.finish(samples(16000 * 5))
        assert brief._recogniser is recogniser
        assert recogniser not in engine.closed
        deciding.set()
