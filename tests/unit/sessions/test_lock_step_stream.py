"""A stream that answers every frame, with a virtual clock and without threads."""

import json
import math

import pytest
import structlog
import trio

from tests.unit.fakes import FakeEngine, InlineDecoders
from trio_stt.dialects.events import Audio, Close, Configure, End, Failure, Flush, Misuse
from trio_stt.dialects.vosk_server import StreamConfig
from trio_stt.recognition.engine import ModelError, PlainOptions
from trio_stt.recognition.lock_step import LockStepRecogniser
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.lock_step import LockStepStream, PlainListener
from trio_stt.sessions.outbox import Outbox

LOUD = Audio(b"\x00\x40" * 800, 0, 800)
SILENT = Audio(bytes(1600), 0, 800)
GONE = Close(1006, "closed by the peer")


class Client:
    """One stream with a fake engine; `send` puts events into its backlog, `replies` is what it was answered."""

    def __init__(self):
        self.engine = FakeEngine()
        self.backlog = Backlog(max_ahead_samples=10**9, max_run_samples=3200)
        self.outbox = Outbox(max_messages=100)
        self.nobody_reads = False
        self.opened = []
        self.heard = []
        self.missing = False
        self.gather_s = 0.0
        self.stream = LockStepStream(
            StreamConfig(8000),
            self.backlog,
            self.outbox,
            open_listener=self.open,
            nobody_reads=lambda: self.nobody_reads,
            on_heard=lambda run, replies: self.heard.append((len(run.frames), len(replies))),
            log=structlog.get_logger(),
        )

    async def open(self, config):
        self.opened.append(config)
        if self.missing:
            raise ModelError("no such model")
        options = PlainOptions(config.sample_rate)
        return PlainListener(
            LockStepRecogniser(self.engine, options, InlineDecoders(), None, on_decoded=lambda seconds: None),
            next_beat=lambda: trio.current_time() + self.gather_s if self.gather_s else -math.inf,
        )

    async def send(self, *events):
        for event in events:
            await self.backlog.put(event)

    async def run(self, *events):
        """What the client receives that sends these events."""
        await self.send(*events)
        with trio.fail_after(5):
            close = await self.stream.run()
        await self.stream.aclose()
        assert self.engine.open_recognisers == 0
        self.outbox.close(close)
        replies = []
        while not isinstance(reply := await self.outbox.take(), Close):
            replies.append(next(iter(json.loads(reply.text).items())))
        return replies, (close.code, close.reason)


@pytest.fixture(autouse=True)
def quiet(quiet_logs):
    """Whatever these tests provoke is not printed."""


async def test_every_frame_is_answered_in_order_and_eof_ends(autojump_clock):
    client = Client()
    assert await client.run(LOUD, LOUD, SILENT, LOUD, End()) == (
        [("partial", "w1"), ("partial", "w1 w2"), ("text", "w1 w2"), ("partial", "w4"), ("text", "w4")],
        (1000, ""),
    )
    assert client.heard == [(4, 4)]


async def test_eof_alone_is_answered_by_an_empty_final(autojump_clock):
    assert await Client().run(End()) == ([("text", "")], (1000, ""))


async def test_reset_is_answered_by_a_final_and_the_stream_goes_on(autojump_clock):
    replies, _ = await Client().run(LOUD, Flush(), Flush(), LOUD, End())
    assert replies == [("partial", "w1"), ("text", "w1"), ("text", ""), ("partial", "w2"), ("text", "w2")]


async def test_a_configuration_has_no_reply_and_counts_from_the_first_frame_on(autojump_clock):
    client = Client()
    replies, _ = await client.run(
        Configure({"sample_rate": 16000}),
        Configure({"words": False}),
        LOUD,
        Configure({"sample_rate": 44100}),
        LOUD,
        End(),
    )
    assert [kind for kind, _ in replies] == ["partial", "partial", "text"]
    assert client.opened == [StreamConfig(16000, words=False)]


async def test_another_model_begins_anew_with_all_that_was_configured(autojump_clock):
    client = Client()
    replies, _ = await client.run(LOUD, Configure({"words": False}), Configure({"model": "german"}), LOUD, End())
    assert replies == [("partial", "w1"), ("partial", "w1"), ("text", "w1")]
    assert client.opened == [StreamConfig(8000), StreamConfig(8000, words=False, model="german")]


async def test_a_misuse_closes_after_the_final_of_what_was_said(autojump_clock):
    misuse = Misuse(Failure("bad_message", "no JSON"), 1007)
    assert await Client().run(LOUD, misuse) == ([("partial", "w1"), ("text", "w1")], (1007, "no JSON"))
    assert await Client().run(LOUD, SILENT, misuse) == ([("partial", "w1"), ("text", "w1")], (1007, "no JSON"))
    assert await Client().run(misuse) == ([], (1007, "no JSON"))


async def test_a_stream_that_is_told_to_end_answers_what_came_and_has_a_final(autojump_clock):
    client = Client()
    await client.send(LOUD, LOUD)
    client.backlog.finish(Close(1012, "restarting"))
    replies, close = await client.run()
    assert replies == [("partial", "w1"), ("partial", "w1 w2"), ("text", "w1 w2")]
    assert close == (1012, "restarting")


async def test_once_nobody_reads_nothing_more_is_decoded(autojump_clock):
    client = Client()
    await client.send(LOUD)
    client.nobody_reads = True
    client.backlog.finish(GONE)
    assert await client.run() == ([], (1006, "closed by the peer"))
    assert client.opened == []


async def test_a_client_that_does_not_take_its_replies_is_not_decoded_any_further(autojump_clock):
    client = Client()
    await client.send(*[LOUD] * 100)
    with trio.move_on_after(60):
        await client.stream.run()
    assert 50 <= len(client.outbox) < 60
    while len(client.outbox):
        await client.outbox.take()
    with trio.move_on_after(60):
        await client.stream.run()
    assert len(client.outbox) > 30


async def test_a_model_that_cannot_be_had_closes_with_1011_and_says_so(autojump_clock):
    client = Client()
    client.missing = True
    assert await client.run(LOUD) == ([], (1011, "no such model"))


async def test_a_recogniser_that_fails_closes_with_1011(autojump_clock):
    client = Client()
    client.engine.failures = 1
    assert await client.run(LOUD) == ([], (1011, "recognition failed"))


async def test_a_flood_of_configurations_lets_others_have_their_turn(autojump_clock):
    client = Client()
    await client.send(*[Configure({})] * 1000, End())
    turns = 0
    async with trio.open_nursery() as nursery:

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        await client.stream.run()
        nursery.cancel_scope.cancel()
    assert turns > 500
    await client.stream.aclose()


async def test_with_many_speakers_frames_that_wait_for_no_reply_are_decoded_together(autojump_clock):
    client = Client()
    client.gather_s = 0.25  # not when a frame comes
    async with trio.open_nursery() as nursery:

        async def speak():
            for _ in range(9):
                await client.send(LOUD)
                await trio.sleep(0.1)
            await client.send(End())

        nursery.start_soon(speak)
        replies, _ = await client.run()
    assert len(replies) == 10
    assert max(frames for frames, _ in client.heard) == 3
    assert all(frames == answers for frames, answers in client.heard)


async def test_a_client_that_waits_for_each_reply_is_made_to_wait_for_one_beat_at_most(autojump_clock):
    client = Client()
    client.gather_s = 0.3
    answered = trio.Event()
    waited = []

    def on_heard(run, replies):
        answered.set()

    client.stream._on_heard = on_heard
    async with trio.open_nursery() as nursery:

        async def speak():
            nonlocal answered
            for _ in range(6):
                began = trio.current_time()
                await client.send(LOUD)
                await answered.wait()
                answered = trio.Event()
                waited.append(trio.current_time() - began)
            await client.send(End())

        nursery.start_soon(speak)
        await client.run()
    assert waited == pytest.approx([0, 0.3, 0, 0, 0, 0])
