"""How a voice's captions get into the room: in order, not too often, and again where they could not be sent."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from agent import caption_sender as sender_module
from agent.caption_line import Caption
from agent.caption_sender import CaptionSender
from agent.room_connection import unbroken
from tests.agent.played_rooms import until


class PlayedPost:
    """A room that takes captions, or does not."""

    def __init__(self) -> None:
        self.sent: list[tuple[Caption, str, str, list[str] | None]] = []
        self.tries = 0
        self.works = True
        self.slow_s = 0.0

    async def caption(self, caption, identity, track_sid, to) -> bool:
        self.tries += 1
        await asyncio.sleep(self.slow_s)
        if self.works:
            self.sent.append((caption, identity, track_sid, to))
        return self.works

    async def wait(self) -> None:
        pass


def on_sender(test: Callable[[CaptionSender, PlayedPost], Awaitable[None]]) -> None:
    async def bounded() -> None:
        post = PlayedPost()
        audience = {"pt": ["bob"], "de": None}
        sender = CaptionSender(post, "ann", "TR_1", lambda tag: audience.get(tag, []), structlog.get_logger())
        async with asyncio.timeout(30):
            life = asyncio.create_task(sender.run())
            try:
                await test(sender, post)
                assert not life.done()
            finally:
                life.cancel()
                await asyncio.wait([life])

    asyncio.run(bounded())


def say(sender: CaptionSender, segment: str, text: str, *, is_final: bool = False) -> None:
    sender.line.heard(segment, text, "en", is_final=is_final)
    sender.notify()


@pytest.fixture(autouse=True)
def quick(monkeypatch, quiet_logs):
    monkeypatch.setattr(sender_module, "RETRY_S", 0.01)
    monkeypatch.setattr(sender_module, "SPACING_S", 0.1)


def test_of_unfinished_texts_that_follow_each_other_quickly_the_newest_is_sent_and_every_final():
    async def test(sender: CaptionSender, post: PlayedPost) -> None:
        for length in range(1, 20):
            say(sender, "s-1", "x" * length)
            await asyncio.sleep(0.002)
        say(sender, "s-1", "x" * 20, is_final=True)
        say(sender, "s-2", "y", is_final=True)
        await asyncio.wait_for(sender.done(), 5)
        sent = [caption for caption, *_ in post.sent]
        assert [each.text for each in sent if each.is_final] == ["x" * 20, "y"]
        assert 1 <= len([each for each in sent if not each.is_final]) <= 3
        assert sender.is_done
        assert {(identity, track, to is None) for _, identity, track, to in post.sent} == {("ann", "TR_1", True)}

    on_sender(test)


def test_a_final_that_cannot_be_sent_is_sent_again_and_the_next_one_waits_for_it():
    async def test(sender: CaptionSender, post: PlayedPost) -> None:
        post.works = False
        say(sender, "s-1", "one", is_final=True)
        say(sender, "s-2", "two", is_final=True)
        await until(lambda: post.tries >= 3)
        assert not sender.is_done
        post.works = True
        await sender.done()
        assert [caption.text for caption, *_ in post.sent] == ["one", "two"]

    on_sender(test)


def test_a_final_that_can_never_be_sent_does_not_keep_the_others():
    async def test(sender: CaptionSender, post: PlayedPost) -> None:
        post.works = False
        say(sender, "s-1", "one", is_final=True)
        await until(lambda: sender.unsendable == 1)
        assert post.tries == sender_module.MOST_TRIES
        post.works = True
        say(sender, "s-2", "two", is_final=True)
        await sender.done()
        assert [caption.text for caption, *_ in post.sent] == ["two"]

    on_sender(test)


def test_translations_go_to_who_reads_them():
    async def test(sender: CaptionSender, post: PlayedPost) -> None:
        for language in ("pt", "de", "fr"):
            sender.line.translated("s-1", language, language, is_final=True)
            sender.line.translated("s-2", language, language, is_final=False)
        sender.notify()
        await sender.done()
        assert {(caption.text, caption.is_final, str(to)) for caption, _, _, to in post.sent} == {
            ("pt", True, "['bob']"),
            ("pt", False, "['bob']"),
            ("de", True, "None"),
            ("de", False, "None"),
        }

    on_sender(test)


def test_what_must_not_be_broken_off_is_waited_for_by_who_is_cancelled():
    async def test() -> None:
        done = []

        async def work() -> int:
            await asyncio.sleep(0.1)
            done.append(True)
            return 7

        assert await unbroken(work()) == 7
        waiting = asyncio.create_task(unbroken(work()))
        await asyncio.sleep(0.01)
        for _ in range(3):  # however often
            waiting.cancel()
            await asyncio.sleep(0.01)
        assert not waiting.done()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert done == [True, True]

        async def fail() -> None:
            raise ValueError("so")

        with pytest.raises(ValueError, match="so"):
            await unbroken(fail())

    asyncio.run(test())
