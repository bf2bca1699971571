"""The whole way of sound through one stream, with a virtual clock and without threads."""

import pytest
import structlog
import trio

from tests.unit.fakes import FakeEngine, InlineDecoders, LoudnessVoice, silence, sound
from trio_stt.audio.speech_gate import GateConfig, SpeechGate
from trio_stt.dialects.events import (
    Ack,
    Audio,
    Close,
    Configure,
    Configured,
    End,
    Failure,
    Flush,
    Misuse,
    Ping,
    Pong,
    StreamRequest,
    Transcript,
)
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.resting import Resting
from trio_stt.recognition.speaker import SpeakerRecogniser
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.captioner import BEGINNING, Captioner
from trio_stt.sessions.catch_up import CatchUps
from trio_stt.sessions.outbox import Outbox
from trio_stt.sessions.session import REPLACED, Member
from trio_stt.sessions.stream import Stream

FRAME_S = 0.1


class DeliveredAtOnce:
    """A sink that sends captions to their speaker."""

    def __init__(self, member) -> None:
        self.publish_now = member.deliver

    async def publish(self, caption) -> None:
        self.publish_now(caption)


class Speaker:
    """One stream with a fake engine; `say` sends sound in frames of 100 ms, `received` is what the client is sent."""

    def __init__(self, *, origin=BEGINNING, decoders=None, **request) -> None:
        self.decoders = decoders or InlineDecoders()
        self.request = StreamRequest("ann", "call", **{"framing": "seq", **request})
        self.engine = FakeEngine()
        self.outbox = Outbox(max_messages=10_000)
        self.member = Member(self.request, self.outbox, lambda close: None)
        self.backlog = Backlog(max_ahead_samples=10**9, max_run_samples=6400)
        self.received = []
        self.partial_every_ms = 0
        self.lag_ms = 0
        self.catch_ups = CatchUps()
        self.log = log = structlog.get_logger()
        self.resting = Resting(100)
        self.captioner = Captioner(
            self.request,
            "s",
            origin=origin,
            gate=SpeechGate(GateConfig(), goes_on=origin.resumes),
            voice=LoudnessVoice(),
            recogniser=self.recogniser(self.engine),
            sink=DeliveredAtOnce(self.member),
            wants_partials=lambda: self.member.request.partials,
            partial_every_ms=lambda: self.partial_every_ms,
            on_decoded=lambda samples: None,
            lag_ms=lambda: self.lag_ms,
            catch_ups=self.catch_ups,
            chunk_ms=lambda: 100,
            number=0,
            log=log,
        )
        self.stream = Stream(
            self.member,
            self.backlog,
            self.captioner if self.request.speak else None,
            publisher=None,
            check_language=lambda language: Failure("language_unavailable", language) if language == "xx" else None,
            change_language=self.change_language,
        )
        self.position = 0
        self.chunk_id = None

    def recogniser(self, engine: FakeEngine) -> SpeakerRecogniser:
        breaker = Breaker("fake", min_calls=20, wait_s=5, jitter=lambda: 0.0)
        return SpeakerRecogniser(engine, self.decoders, breaker, self.resting, self.log, give_up=engine.close)

    async def change_language(self, language: str) -> Failure | None:
        """Another engine hears from now on; that of "yy" cannot be had."""
        await trio.sleep(0.5)
        if language == "yy":
            return Failure("language_unavailable", "not now", {"parameter": "language"})
        self.first_engine, self.engine = self.engine, FakeEngine()
        await self.captioner.change_recogniser(self.recogniser(self.engine), language)
        return None

    async def say(self, samples, frame_s: float = FRAME_S) -> None:
        step = round(frame_s * self.request.sample_rate)
        for begin in range(0, len(samples), step):
            frame = samples[begin : begin + step]
            await self.backlog.put(Audio(frame.tobytes(), self.position, len(frame), self.chunk_id))
            self.position += len(frame)
            if self.chunk_id is not None:
                self.chunk_id += 1

    async def run(self, *, for_s: float = 60) -> Close | None:
        """Runs the stream to its end, or for a while; what the client was sent meanwhile is in `received`."""
        result = None
        with trio.move_on_after(for_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._collect)
                result = await self.stream.run()
                self.outbox.close(result)
        return result

    async def _collect(self) -> None:
        while not isinstance(event := await self.outbox.take(), Close):
            self.received.append(event)

    @property
    def finals(self) -> list[Transcript]:
        return [event for event in self.received if isinstance(event, Transcript) and event.is_final]

    @property
    def partials(self) -> list[Transcript]:
        return [event for event in self.received if isinstance(event, Transcript) and not event.is_final]

    @property
    def acks(self) -> list[Ack]:
        return [event for event in self.received if isinstance(event, Ack)]


async def test_an_utterance_becomes_partials_and_one_final_then_an_ack(autojump_clock):
    ann = Speaker(words=True)
    for samples in (silence(1), sound(2), silence(1)):
        await ann.say(samples)
    await ann.backlog.put(End())
    assert await ann.run() == Close(1000)
    (final,) = ann.finals
    assert final.text == "w1 w2 w3 w4 w5"
    assert final.start_sample == pytest.approx(16000 - 6400, abs=512)
    assert final.end_sample == pytest.approx(3 * 16000, abs=3000)
    assert {partial.segment_id for partial in ann.partials} == {final.segment_id}
    assert [len(partial.text) for partial in ann.partials] == sorted(len(partial.text) for partial in ann.partials)
    assert ann.received[-1] == Ack(4 * 16000)
    assert ann.received.index(final) < ann.received.index(ann.acks[-1])


async def test_partials_are_as_rare_as_the_level_of_service_says_and_finals_as_before(autojump_clock):
    captions = []
    for partial_every_ms in (0, 800):
        ann = Speaker()
        ann.partial_every_ms = partial_every_ms
        await ann.say(sound(8))
        await ann.say(silence(1))
        await ann.backlog.put(End())
        await ann.run()
        captions.append((len(ann.partials), ann.finals[0].text))
    (often, text), (rarely, same_text) = captions
    assert 4 <= rarely <= 8 / (0.75 * 0.8)
    assert rarely < often
    assert same_text == text


async def test_words_stand_on_the_stream_s_own_clock(autojump_clock):
    ann = Speaker(sample_rate=8000)
    await ann.say(silence(2, 8000))
    await ann.say(sound(1, 8000))
    await ann.say(silence(1, 8000))
    await ann.backlog.put(End())
    await ann.run()
    (final,) = ann.finals
    assert final.sample_rate == 8000
    assert final.start_sample / 8000 == pytest.approx(1.6, abs=0.05)
    assert final.words[0].start == pytest.approx(final.start_sample / 8000)
    assert [round(later.start - word.start, 3) for word, later in zip(final.words, final.words[1:], strict=False)] == [
        0.5
    ] * (len(final.words) - 1)
    assert final.words[-1].end <= final.end_sample / 8000 + 0.001


async def test_silence_reaches_no_recogniser_and_moves_the_ack_behind_the_newest_sample(autojump_clock):
    ann = Speaker()

    async def talk_in_real_time() -> None:
        for _ in range(50):
            await ann.say(silence(0.1))
            await trio.sleep(0.1)
        await ann.backlog.put(End())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk_in_real_time)
        await ann.run()
    assert ann.engine.given == []
    assert ann.engine.open_recognisers == 0
    moved = [ack.sample for ack in ann.acks]
    assert len(moved) >= 5
    assert moved == sorted(moved)
    assert moved[-2] <= 5 * 16000 - 4800
    assert moved[-1] == 5 * 16000


async def test_no_utterance_begins_before_an_ack_or_an_earlier_end(autojump_clock):
    ann = Speaker()

    async def talk_in_real_time() -> None:
        for part in (silence(1.3), sound(0.7), silence(0.9), sound(0.2), silence(2.1), sound(1.0), silence(0.5)):
            for begin in range(0, len(part), 320):
                await ann.say(part[begin : begin + 320], frame_s=0.02)
                await trio.sleep(0.02)
        await ann.backlog.put(End())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk_in_real_time)
        await ann.run()
    assert len(ann.finals) == 3
    bound = 0
    for event in ann.received:
        if isinstance(event, Ack):
            bound = max(bound, event.sample)
        elif isinstance(event, Transcript):
            assert event.start_sample >= bound or not event.is_final
            bound = event.end_sample if event.is_final else bound


async def test_an_utterance_that_ends_while_the_next_begins_is_acked_too(autojump_clock):
    ann = Speaker()
    ann.backlog = Backlog(max_ahead_samples=10**9, max_run_samples=10**9)
    ann.stream._backlog = ann.backlog
    for samples in (sound(1), silence(1), sound(1)):
        await ann.say(samples)
    await ann.run(for_s=0.5)
    (final,) = ann.finals
    assert [ack.sample >= final.end_sample for ack in ann.acks] == [True]


async def test_finalize_ends_speech_exactly_there_and_answers_with_all_that_was_received(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1.05))
    await ann.backlog.put(Flush("now"))
    await ann.say(sound(1))
    await ann.backlog.put(End())
    await ann.run()
    first, second = ann.finals
    assert first.end_sample == second.start_sample == round(1.05 * 16000)
    answer = next(ack for ack in ann.acks if ack.from_finalize)
    assert answer == Ack(round(1.05 * 16000), from_finalize=True, id="now")
    assert ann.received.index(first) < ann.received.index(answer) < ann.received.index(second)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
async def test_finalize_in_silence_is_answered_and_nothing_later_begins_before_it(rate, autojump_clock):
    ann = Speaker(sample_rate=rate)
    await ann.say(silence(2.03, rate))
    await ann.backlog.put(Flush(1))
    await ann.say(sound(1, rate))
    await ann.backlog.put(End())
    await ann.run()
    received = ann.acks[0].sample
    assert received == len(silence(2.03, rate))
    (final,) = ann.finals
    assert final.start_sample >= received


async def test_finalize_twice_yields_one_final_and_two_answers(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    for number in (1, 2):
        await ann.backlog.put(Flush(number))
    await ann.backlog.put(End())
    await ann.run()
    assert len(ann.finals) == 1
    assert [ack.id for ack in ann.acks if ack.from_finalize] == [1, 2]


async def test_an_utterance_without_further_sound_ends_after_a_second(autojump_clock):
    early, late = Speaker(), Speaker()
    await early.say(sound(1))
    await early.run(for_s=0.9)
    assert early.finals == []
    await late.say(sound(1))
    await late.run(for_s=1.1)
    assert [final.end_sample for final in late.finals] == [16000]


async def test_pings_and_empty_frames_do_not_keep_an_utterance_open(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))

    async def fidget() -> None:
        for _ in range(8):
            await trio.sleep(0.3)
            await ann.backlog.put(Ping())
            await ann.backlog.put(Audio(b"", ann.position, 0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fidget)
        await ann.run(for_s=2)
    assert [final.end_sample for final in ann.finals] == [16000]
    assert ann.acks[-1].sample == 16000


async def test_a_stream_cut_while_its_final_is_awaited_still_ends_its_utterance(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.run(for_s=0.1)

    class Stuck(InlineDecoders):
        async def run(self, call, turn=None, *, owner=""):
            await trio.sleep_forever()

    ann.captioner._recogniser._decoders = Stuck()
    await ann.backlog.put(End())
    await ann.run(for_s=1)
    ann.captioner.give_up()
    with trio.move_on_after(1):
        await ann._collect()
    assert [final.text for final in ann.finals] == ["w1 w2"]


async def test_one_large_frame_is_decoded_in_calls_of_bounded_length(autojump_clock):
    ann = Speaker()
    await ann.say(sound(20), frame_s=20)
    await ann.backlog.put(End())
    await ann.run()
    assert max(given.size for given in ann.engine.given) <= 0.4 * 16000
    assert sum(given.size for given in ann.engine.given) == 20 * 16000


async def test_captions_carry_the_language_tag_that_was_configured(autojump_clock):
    ann = Speaker()
    await ann.backlog.put(Configure({"language": "en-GB"}))
    await ann.say(sound(1))
    await ann.backlog.put(End())
    await ann.run()
    assert [final.language for final in ann.finals] == ["en-GB"]


async def test_a_replaced_connection_is_not_told_that_its_last_words_were_delivered(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    ann.backlog.finish(REPLACED)
    assert await ann.run() == REPLACED
    assert all(ack.sample == 0 for ack in ann.acks)


async def test_ids_of_chunks_of_silence_are_forgotten(autojump_clock):
    ann = Speaker(framing="auto")
    ann.chunk_id = 0
    await ann.say(silence(60))
    await ann.backlog.put(Flush())
    await ann.run(for_s=1)
    assert len(ann.captioner._chunk_ids._chunks) < 10


async def test_a_final_at_a_cut_has_the_id_of_the_chunk_in_which_it_ends(autojump_clock):
    ann = Speaker(framing="auto")
    ann.chunk_id = 0
    await ann.say(sound(35))
    await ann.backlog.put(End())
    await ann.run()
    assert [final.chunk_id for final in ann.finals] == [(final.end_sample - 1) // 1600 for final in ann.finals]


async def test_a_vanished_client_s_speech_still_gets_its_final(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    ann.backlog.finish(Close(1006))
    assert await ann.run() == Close(1006)
    assert len(ann.finals) == 1


async def test_raw_framing_has_no_acks_but_those_that_answer(autojump_clock):
    ann = Speaker(framing="raw")
    await ann.say(sound(1))
    await ann.say(silence(2))
    await ann.backlog.put(Flush())
    await ann.backlog.put(End())
    await ann.run()
    assert [ack.from_finalize for ack in ann.acks] == [True, False]


async def test_an_utterance_is_cut_at_its_maximum_and_no_word_is_lost_or_doubled(autojump_clock):
    ann = Speaker(words=True, partials=False)
    await ann.say(sound(70))
    await ann.say(silence(1))
    await ann.backlog.put(End())
    await ann.run()
    assert len(ann.finals) == 3
    for earlier, later in zip(ann.finals, ann.finals[1:], strict=False):
        assert earlier.end_sample == later.start_sample
        assert earlier.segment_id != later.segment_id
    assert all(final.end_sample - final.start_sample <= 30 * 16000 + 512 for final in ann.finals)
    assert sum(len(final.words) for final in ann.finals) == pytest.approx(140, abs=2)


async def test_results_carry_the_id_of_the_chunk_in_which_they_end(autojump_clock):
    ann = Speaker(framing="auto")
    ann.chunk_id = 100
    await ann.say(sound(1))
    await ann.backlog.put(End())
    await ann.run()
    assert ann.finals[0].chunk_id == 109
    assert all(100 <= partial.chunk_id <= 109 for partial in ann.partials)


async def test_messages_act_at_their_place(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.backlog.put(Configure({"partials": False}))
    await ann.say(sound(1))
    await ann.backlog.put(Ping(5))
    await ann.backlog.put(End())
    await ann.run()
    configured = next(event for event in ann.received if isinstance(event, Configured))
    assert configured.values["partials"] is False
    place = ann.received.index(configured)
    assert not any(isinstance(event, Transcript) and not event.is_final for event in ann.received[place:])
    assert Pong(5) in ann.received


async def test_a_language_without_a_model_changes_nothing(autojump_clock):
    ann = Speaker()
    await ann.backlog.put(Configure({"language": "xx", "partials": False}))
    await ann.backlog.put(End())
    await ann.run()
    assert ann.received[0].code == "language_unavailable"
    assert ann.member.request == ann.request


async def test_a_new_language_ends_the_utterance_there_and_the_stream_goes_on_with_another_engine(autojump_clock):
    ann = Speaker(words=True)
    await ann.say(sound(1.05))
    await ann.backlog.put(Configure({"language": "de", "partials": False}))
    await ann.say(sound(1))
    await ann.backlog.put(End())
    assert await ann.run() == Close(1000)
    first, second = ann.finals
    assert (first.language, second.language) == ("en", "de")
    assert first.end_sample == second.start_sample == round(1.05 * 16000)
    assert second.end_sample == round(2.05 * 16000)
    assert second.words[0].start == pytest.approx(1.05)
    assert first.stream_id == second.stream_id
    assert first.segment_id != second.segment_id
    (configured,) = [event for event in ann.received if isinstance(event, Configured)]
    assert (configured.values["language"], configured.values["partials"]) == ("de", False)
    assert ann.received.index(first) < ann.received.index(configured) < ann.received.index(second)
    assert sum(given.size for given in ann.first_engine.given) == round(1.05 * 16000)
    assert sum(given.size for given in ann.engine.given) == 16000
    assert ann.first_engine.open_recognisers == 0


async def test_a_language_that_cannot_be_had_now_changes_nothing_and_the_next_words_are_heard_as_before(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.backlog.put(Configure({"language": "yy", "partials": False}))
    await ann.say(sound(1))
    await ann.backlog.put(End())
    await ann.run()
    (failure,) = [event for event in ann.received if isinstance(event, Failure)]
    assert (failure.code, failure.extra) == ("language_unavailable", {"parameter": "language"})
    assert ann.member.request == ann.request
    assert [final.language for final in ann.finals] == ["en", "en"]
    assert not any(isinstance(event, Configured) for event in ann.received)


async def test_the_final_does_not_wait_until_another_model_is_there(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.backlog.put(Configure({"language": "de"}))
    await ann.run(for_s=0.3)
    assert len(ann.finals) == 1
    assert not any(isinstance(event, Configured) for event in ann.received)


async def test_a_listener_takes_any_language_and_no_engine(autojump_clock):
    ann = Speaker(speak=False)
    await ann.backlog.put(Configure({"language": "xx"}))
    await ann.backlog.put(End())
    await ann.run()
    assert ann.received[0].values["language"] == "xx"


async def test_misuse_that_closes_ends_the_open_utterance_first(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.backlog.put(Misuse(Failure("bad_frame", "half a sample"), 1003))
    assert await ann.run() == Close(1003, "bad_frame")
    assert isinstance(ann.received[-1], Failure)
    assert len(ann.finals) == 1


async def test_misuse_that_does_not_close_is_told_and_the_stream_goes_on(autojump_clock):
    ann = Speaker()
    await ann.backlog.put(Misuse(Failure("unknown_type", "what?")))
    await ann.say(sound(1))
    await ann.backlog.put(End())
    assert await ann.run() == Close(1000)
    assert ann.received[0] == Failure("unknown_type", "what?")
    assert len(ann.finals) == 1


async def test_a_listener_is_answered_like_a_speaker(autojump_clock):
    ann = Speaker(speak=False)
    for event in (Ping(1), Flush(2), End()):
        await ann.backlog.put(event)
    assert await ann.run() == Close(1000)
    assert ann.received == [Pong(1), Ack(0, from_finalize=True, id=2), Ack(0)]


async def test_an_engine_that_fails_once_costs_no_word(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.run(for_s=0.1)
    ann.engine.failures = 1
    await ann.say(sound(1))
    await ann.backlog.put(End())
    await ann.run()
    assert ann.finals[0].text == "w1 w2 w3 w4"


async def test_a_stream_that_cannot_go_on_still_ends_its_utterance(autojump_clock):
    ann = Speaker()
    await ann.say(sound(1))
    await ann.run(for_s=0.1)
    ann.captioner.give_up()
    ann.captioner.give_up()
    with trio.move_on_after(1):
        await ann._collect()
    assert len(ann.finals) == 1
    assert ann.finals[0].text == ann.partials[-1].text
