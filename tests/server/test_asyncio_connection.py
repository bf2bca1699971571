"""The asyncio `open_resuming_stream`, in a thread of its own, against the same server as the Trio one."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from tests.server.scripted_server import (
    CloseWith,
    Cut,
    GoAway,
    HalfOpen,
    NeverAnswer,
    NeverReady,
    Refuse,
    RefuseResume,
    Serve,
    samples,
    scripted_server,
)
from trio_stt.client.asyncio_connection import ResumingStream, open_resuming_stream
from trio_stt.client.resume_events import Ended, EndReason, Interrupted, Lost, Restarted, Resumed, ResumingEvent
from trio_stt.client.resuming_client import StreamEndedError
from trio_stt.dialects.events import Ack, Configured, Ready, StreamRequest, Transcript

REQUEST = StreamRequest("anna", "call-1", encoding="mulaw", sample_rate=8000)
SAMPLES = 2000
LONG = 4000
"""Utterances of this length where there are many samples."""
ALL = [(start, start + 100) for start in range(0, SAMPLES, 100)]


async def on_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    """What `main` returns, run by asyncio in a thread while Trio serves. It may take 30 seconds."""

    async def bounded() -> Any:
        async with asyncio.timeout(30):
            return await main()

    return await trio.to_thread.run_sync(partial(asyncio.run, bounded()))


async def speak(stream: ResumingStream, count: int) -> None:
    try:
        for start in range(0, count, 40):
            await stream.send_audio(samples(start, min(start + 40, count)))
            await asyncio.sleep(0.002)
        await stream.end()
    except StreamEndedError:
        pass


async def whole_stream(url: str | list[str], **options: Any) -> list[ResumingEvent]:
    async def main() -> list[ResumingEvent]:
        async with open_resuming_stream(url, REQUEST, **options) as stream:
            speaking = asyncio.create_task(speak(stream, SAMPLES))
            events = [event async for event in stream]
            await speaking
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return events

    return await on_asyncio(main)


def spans(events: list[ResumingEvent]) -> list[tuple[int, int]]:
    return [(event.start_sample, event.end_sample) for event in events if isinstance(event, Transcript)]


def kinds(events: list[ResumingEvent]) -> list[type]:
    return [type(event) for event in events if not isinstance(event, Transcript | Ack)]


async def test_without_trouble_a_stream_is_like_any_other():
    async with scripted_server() as server:
        events = await whole_stream(server.url, token="secret")
    assert spans(events) == ALL
    assert kinds(events) == [Ready, Ended]
    assert server.bearers == ["Bearer secret"]


@pytest.mark.parametrize(
    "trouble", [Cut(3), Cut(3, acks=False), HalfOpen(3), GoAway(3), CloseWith(3, code=1012)], ids=repr
)
async def test_no_word_is_lost_or_doubled(trouble: Serve):
    async with scripted_server(trouble) as server:
        events = await whole_stream(server.url)
    assert spans(events) == ALL
    assert kinds(events) == [Ready, Interrupted, Resumed, Ended]


async def test_many_troubles_one_after_the_other():
    plan = [
        Refuse(503, b"0.05"),
        Cut(1, acks=False),
        Refuse(502),
        HalfOpen(2),
        NeverAnswer(),
        NeverReady(),
        GoAway(1),
        Refuse(429, b"0.05"),
        Cut(0),
        CloseWith(2),
    ]
    async with scripted_server(*plan) as server:
        events = await whole_stream(["ws://127.0.0.1:9", server.url])
    assert spans(events) == ALL
    assert not [event for event in events if isinstance(event, Lost | Restarted)]
    assert server.plan == []


async def test_a_stream_that_cannot_be_resumed_is_followed_by_a_new_one():
    async with scripted_server(Cut(3), RefuseResume()) as server:
        server.begins_again_at = 300
        events = await whole_stream(server.url)
    assert spans(events) == ALL
    assert kinds(events) == [Ready, Interrupted, Restarted, Ended]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Refuse(403, body={"error": {"code": "wrong_client", "message": "not yours"}}), EndReason.REFUSED),
        (CloseWith(1, code=4001), EndReason.REPLACED),
        (CloseWith(1, code=1000, reason="Idle timeout"), EndReason.FINISHED),
    ],
    ids=repr,
)
async def test_what_another_try_cannot_mend_ends_the_stream(trouble: Refuse | CloseWith, reason: EndReason):
    async with scripted_server(trouble) as server:
        events = await whole_stream(server.url)
    assert events[-1].reason is reason
    if isinstance(trouble, Refuse):
        assert (events[-1].status, events[-1].code, events[-1].message) == (403, "wrong_client", "not yours")


async def test_a_new_access_token_is_fetched_when_the_last_one_is_over():
    issued: list[str] = []

    async def token() -> str:
        issued.append(f"bearer-{len(issued) + 1}")
        return issued[-1]

    async with scripted_server(Cut(1), CloseWith(2, code=1008, error="token_expired")) as server:
        events = await whole_stream(server.url, token=token)
    assert spans(events) == ALL
    assert server.bearers == ["Bearer bearer-1", "Bearer bearer-1", "Bearer bearer-2"]


async def test_a_file_waits_for_room_and_what_is_asked_is_answered():
    count = 8000 * 150

    async def main() -> list[ResumingEvent]:
        async def read_file() -> None:
            await stream.configure(partials=False)
            await stream.send_audio(samples(0, count))
            await stream.finalize("f")
            await stream.end()

        async with open_resuming_stream(server.url, REQUEST, live=False) as stream:
            reading = asyncio.create_task(read_file())
            events = [event async for event in stream]
            await reading
        return events

    async with scripted_server(HalfOpen(3), Cut(100)) as server:
        server.utterance_samples = LONG
        events = await on_asyncio(main)
    assert spans(events) == [(start, start + LONG) for start in range(0, count, LONG)]
    assert [event.id for event in events if isinstance(event, Ack) and event.from_finalize] == ["f"]
    assert Configured in kinds(events)
    assert Lost not in kinds(events)


async def test_an_error_of_the_users_token_source_reaches_the_user():
    async def token() -> str:
        raise OverflowError("no token today")

    async def main() -> None:
        async with open_resuming_stream(server.url, REQUEST, token=token) as stream:
            async for _ in stream:
                pass

    async def only_speak() -> None:
        async with open_resuming_stream(server.url, REQUEST, token=token) as stream:
            await stream.send_audio(samples(0, 100))
            await asyncio.sleep(0.1)

    async with scripted_server() as server:
        for use in (main, only_speak):
            with pytest.raises(OverflowError, match="no token today"):
                await on_asyncio(use)


async def test_cancelled_at_any_time_it_leaves_nothing_behind():
    async def listen() -> None:
        async with open_resuming_stream(server.url, REQUEST) as stream:
            await stream.send_audio(samples(0, 1000))
            async for _ in stream:
                pass

    async def main() -> None:
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.1)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for act in (NeverAnswer(), NeverReady(), HalfOpen(0), Refuse(503, b"100"), Serve()):
        async with scripted_server(act) as server:
            await on_asyncio(main)
