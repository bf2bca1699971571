"""When a resumed stream is live again, and how its audio is decoded until then."""

import attrs
import pytest
import trio

from tests.unit.fakes import InlineDecoders, sound
from tests.unit.sessions.test_stream import Speaker
from trio_stt.sessions.captioner import Origin
from trio_stt.sessions.catch_up import CatchUps


def over_after(pieces, lag_ms=0):
    """When catch-up is found to be over, of pieces (time, seconds of audio); None: never."""
    catch_up = CatchUps().begin(lambda: lag_ms, 0)
    for at, audio_s in pieces:
        if catch_up.is_over(at, audio_s):
            return at
    return None


def live(begin, end, every=0.1):
    return [(begin + n * every, every) for n in range(round((end - begin) / every))]


def test_who_sends_as_fast_as_it_speaks_is_live_after_a_second():
    assert over_after(live(0, 5)) == pytest.approx(1.0)


def test_a_burst_counts_until_the_pace_is_that_of_speech():
    burst = [(0.01 * n, 0.4) for n in range(20)]
    assert over_after([*burst, *live(0.3, 5)]) == pytest.approx(2.1, abs=0.15)


def test_who_goes_on_faster_than_speech_is_never_live():
    assert over_after([(0.05 * n, 0.1) for n in range(400)]) is None


def test_a_server_that_reads_slowly_takes_nobody_for_live():
    assert over_after(live(0, 20), lag_ms=3000) is None


def test_a_pause_without_samples_makes_nobody_late_for_ever():
    burst = [(0.01 * n, 0.4) for n in range(20)]
    assert over_after([*burst, *live(30, 35)]) == 30


def test_who_was_resumed_lately_and_waits_for_long_is_behind_until_it_is_live_or_gone():
    catch_ups, lags = CatchUps(), [1500, 300]
    slow = catch_ups.begin(lambda: lags[0], 10)
    other = catch_ups.begin(lambda: lags[1], 10)
    assert catch_ups.behind(11) == 0  # it is not the decoder that they wait for
    slow.is_decoding = other.is_decoding = True
    assert catch_ups.behind(11) == 1
    lags[1] = 1000
    assert catch_ups.behind(11.5) == 2
    slow.end()
    slow.end()
    assert catch_ups.behind(11.5) == 1
    assert catch_ups.behind(20.5) == 0  # since then it is the instance that is slow


class Noting(InlineDecoders):
    """Keeps the turns that are asked for, each with the time since the resume; due times count from it too."""

    def __init__(self):
        self.turns = []
        self.on_call = lambda: None
        self.began = trio.current_time()

    async def run(self, call, turn=None, *, owner=""):
        self.on_call()
        if turn is not None:
            self.turns.append((trio.current_time() - self.began, attrs.evolve(turn, due=turn.due - self.began)))
        return await super().run(call, turn, owner=owner)


@pytest.fixture
def resumed(nursery):
    """Has a stream run that was resumed now and whose first sample was spoken `late_s` ago; with its turns."""

    def make(*, late_s):
        decoders = Noting()
        origin = Origin(began_at=trio.current_time() - late_s, suffix=".2")
        speaker = Speaker(origin=origin, decoders=decoders)
        nursery.start_soon(speaker.stream.run)
        return speaker, decoders.turns

    return make


async def speak(speaker, seconds):
    """Loud sound in real time."""
    for _ in range(round(10 * seconds)):
        await trio.sleep(0.1)
        await speaker.say(sound(0.1))


async def test_what_was_held_is_told_apart_until_it_is_decoded_and_the_speaker_live(resumed, autojump_clock):
    speaker, turns = resumed(late_s=4)
    await speaker.say(sound(4))
    await speak(speaker, 4)
    assert all(turn.catch_up and turn.due < now for now, turn in turns if now < 1)
    assert sum(turn.audio_s for now, turn in turns if now < 1) > 4
    live = [(now, turn) for now, turn in turns if now > 2.5]
    assert len(live) > 10
    assert not any(turn.catch_up for _, turn in live)
    assert all(now - 0.2 <= turn.due <= now for now, turn in live)


async def test_a_stream_is_counted_while_its_decoder_is_behind_and_no_more_when_it_is_over(resumed, autojump_clock):
    speaker, _ = resumed(late_s=4)
    seen = []
    speaker.lag_ms = 2000
    speaker.decoders.on_call = lambda: seen.append(speaker.catch_ups.behind(trio.current_time()))
    await speaker.say(sound(4))
    await trio.sleep(0.5)  # the utterance has not starved yet
    assert set(seen) == {1}
    assert speaker.catch_ups.behind(trio.current_time()) == 0  # nothing is being decoded
    speaker.lag_ms = 0
    await speak(speaker, 4)
    seen.clear()
    speaker.lag_ms = 2000
    await speak(speaker, 1)
    assert set(seen) == {0}  # live again


async def test_a_stream_that_ends_while_it_is_behind_is_counted_no_more(resumed, autojump_clock):
    speaker, _ = resumed(late_s=4)
    speaker.lag_ms = 2000
    await speaker.say(sound(4))
    await speaker.captioner.aclose()
    await trio.sleep(1)
    assert not speaker.catch_ups._open


async def test_what_is_sent_ahead_of_time_is_no_catch_up_and_due_when_it_is_spoken(resumed, autojump_clock):
    speaker, turns = resumed(late_s=0)
    await speaker.say(sound(8))
    await trio.sleep(1)
    assert len(turns) > 10
    assert not any(turn.catch_up for _, turn in turns)
    assert max(turn.due - now for now, turn in turns) > 7


async def test_a_clock_that_was_wrong_makes_nobody_wait_for_long(resumed, autojump_clock):
    speaker, turns = resumed(late_s=-5)
    await speak(speaker, 4)
    assert all(turn.due <= now for now, turn in turns if now > 1.5)
