"""`open_resuming_stream` against a server that cuts, freezes, refuses and sends away."""

from contextlib import asynccontextmanager

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
    ScriptedServer,
    Serve,
    samples,
    scripted_server,
)
from tests.unit.fakes import silence, sound
from trio_stt.client.resume_events import (
    Ended,
    EndReason,
    Interrupted,
    Lost,
    Restarted,
    Resumed,
    ResumeUnavailable,
    ResumingEvent,
)
from trio_stt.client.resuming_client import StreamEndedError
from trio_stt.client.resuming_connection import ResumingStream, open_resuming_stream
from trio_stt.dialects.events import Ack, Configured, Ready, StreamRequest, Transcript

REQUEST = StreamRequest("anna", "call-1", encoding="mulaw", sample_rate=8000)
SAMPLES = 2000
LONG = 4000
"""Utterances of this length where there are many samples."""
NO_RESUME = {"error": {"code": "not_available", "message": "resume=true is not available", "parameter": "resume"}}


async def speak(stream: ResumingStream, count: int = SAMPLES) -> None:
    """Speaks `count` samples piece by piece, and ends the stream."""
    first = stream.given_samples
    try:
        for start in range(first, first + count, 40):
            await stream.send_audio(samples(start, min(start + 40, first + count)))
            await trio.sleep(0.002)
        await stream.end()
    except StreamEndedError:
        pass


async def whole_stream(url: str | list[str], **options) -> list[ResumingEvent]:
    """All events of a stream that speaks `SAMPLES` samples."""
    with trio.fail_after(30):
        async with open_resuming_stream(url, REQUEST, **options) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(speak, stream)
            return [event async for event in stream]


def spans(events: list[ResumingEvent]) -> list[tuple[int, int]]:
    return [(event.start_sample, event.end_sample) for event in events if isinstance(event, Transcript)]


def kinds(events: list[ResumingEvent]) -> list[type]:
    """Without captions and acks."""
    return [type(event) for event in events if not isinstance(event, Transcript | Ack)]


ALL = [(start, start + 100) for start in range(0, SAMPLES, 100)]


async def test_without_trouble_a_stream_is_like_any_other():
    async with scripted_server() as server:
        events = await whole_stream(server.url)
    assert spans(events) == ALL
    assert kinds(events) == [Ready, Ended]
    assert events[-1].reason is EndReason.FINISHED
    assert server.queries == [
        {"client_id": "anna", "session_id": "call-1", "language": "en", "encoding": "mulaw", "sample_rate": "8000"}
        | {"framing": "seq"}
    ]


@pytest.mark.parametrize(
    "trouble",
    [Cut(3), Cut(3, acks=False), HalfOpen(3), GoAway(3), *(CloseWith(3, code=code) for code in (1011, 1012, 4008))],
    ids=repr,
)
async def test_no_word_is_lost_or_doubled(trouble: Serve):
    async with scripted_server(trouble) as server:
        events = await whole_stream(server.url)
    assert spans(events) == ALL
    assert kinds(events) == [Ready, Interrupted, Resumed, Ended]
    assert {"resume": "true", "history": "200", "framing": "seq"}.items() <= server.queries[1].items()
    (resume,) = server.resumes
    assert resume.keys() == {"token", "from_sample", "accepted"}
    assert resume["token"] == "token-1"
    assert resume["accepted"] >= 300
    acked = resume["accepted"] if trouble.acks else 0
    if isinstance(trouble, GoAway):  # it is served on meanwhile: the last final's ack may still be on its way
        assert resume["from_sample"] in (acked - 100, acked)
    else:
        assert resume["from_sample"] == acked


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
        events = await whole_stream(server.url)
    assert spans(events) == ALL
    assert not [event for event in events if isinstance(event, Lost | Restarted)]
    assert server.plan == []


async def test_several_servers_are_tried_in_turn():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nobody = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    async with scripted_server(Cut(2)) as one, scripted_server() as other:
        other.streams, other.finals = 1, one.finals
        events = await whole_stream([nobody, one.url, other.url])
    assert spans(events) == ALL
    assert kinds(events) == [Interrupted, Ready, Interrupted, Resumed, Ended]
    assert next(event.why for event in events if isinstance(event, Interrupted)) == "no server answers"
    assert (len(one.queries), len(other.queries)) == (1, 1)


async def test_a_server_that_cannot_resume_is_given_a_new_stream_that_begins_where_the_old_one_was_heard():
    for plan in ([Cut(3), Refuse(400, body=NO_RESUME)], [Cut(3, tokens=False)], [Cut(3), RefuseResume()]):
        async with scripted_server(*plan) as server:
            server.begins_again_at = 300
            with trio.fail_after(30):
                async with open_resuming_stream(server.url, REQUEST) as stream:
                    await stream.send_audio(samples(0, 310))
                    events = [await anext(stream)]
                    while not isinstance(events[-1], Interrupted):
                        events.append(await anext(stream))
                    await stream.send_audio(samples(310, 1000))
                    await stream.end()
                    events += [event async for event in stream]
        assert spans(events) == ALL[:10]
        (restarted,) = [event for event in events if isinstance(event, Restarted)]
        assert restarted.at_sample == 300
        told = isinstance(plan[-1], RefuseResume)
        assert (ResumeUnavailable in kinds(events)) is not told
        assert kinds(events)[-1] is Ended


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Refuse(403), EndReason.REFUSED),
        (Refuse(400), EndReason.REFUSED),
        (Refuse(401), EndReason.UNAUTHORISED),
        (CloseWith(1, code=4001), EndReason.REPLACED),
        (CloseWith(1, code=1008, error="quota_used_up"), EndReason.CLOSED),
        (CloseWith(1, code=1008, error="token_expired"), EndReason.UNAUTHORISED),
        (CloseWith(1, code=1000, reason="Max duration reached"), EndReason.FINISHED),
    ],
    ids=repr,
)
async def test_what_another_try_cannot_mend_ends_the_stream(trouble: Refuse | CloseWith, reason: EndReason):
    async with scripted_server(trouble) as server:
        events = await whole_stream(server.url)
    assert isinstance(events[-1], Ended)
    assert events[-1].reason is reason
    assert len(server.queries) == 1
    (lost,) = [event for event in events if isinstance(event, Lost)]
    assert lost.from_sample == max((end for _, end in spans(events)), default=0)


async def test_a_stream_that_finds_no_server_is_given_up_when_the_users_patience_ends():
    async with open_resuming_stream("ws://127.0.0.1:9", REQUEST, patience_s=0.3) as stream:
        await stream.send_audio(samples(0, 100))
        events = [event async for event in stream]
        assert events == [
            Interrupted("no server answers"),
            Lost(0, 100),
            Ended(EndReason.UNREACHABLE, message="no server was ready within 0.3 s: no server answers"),
        ]
        assert stream.ended == events[-1]
        with pytest.raises(StreamEndedError):
            await stream.send_audio(b"a")


async def test_a_new_access_token_is_fetched_when_the_last_one_is_over():
    issued: list[str] = []

    async def token() -> str:
        issued.append(f"bearer-{len(issued) + 1}")
        return issued[-1]

    plan = [Cut(1), CloseWith(2, code=1008, error="token_expired"), Refuse(401)]
    async with scripted_server(*plan, Refuse(401)) as server:
        events = await whole_stream(server.url, token=token)
    bearers = ["bearer-1", "bearer-1", "bearer-2"]
    assert server.bearers == [f"Bearer {bearer}" for bearer in bearers]
    assert events[-1].reason is EndReason.UNAUTHORISED
    async with scripted_server(Refuse(401)) as server:
        events = await whole_stream(server.url, token=token)
    assert spans(events) == ALL


async def test_what_was_not_answered_is_asked_for_again():
    async with scripted_server(HalfOpen(1, acks=False)) as server, open_resuming_stream(server.url, REQUEST) as stream:
        with trio.fail_after(10):
            await stream.send_audio(samples(0, 150))
            while not isinstance(await anext(stream), Transcript):
                pass
            await stream.finalize("f")
            await stream.configure(partials=False)
            await stream.send_audio(samples(150, 180))
            await stream.end()
            events = [event async for event in stream]
    assert spans(events) == [(100, 150), (150, 180)]
    assert [event.id for event in events if isinstance(event, Ack) and event.from_finalize] == ["f"]
    assert Configured in kinds(events)


async def test_a_configured_value_is_part_of_the_next_query():
    async with scripted_server(Cut(1)) as server, open_resuming_stream(server.url, REQUEST) as stream:
        with trio.fail_after(10):
            await stream.configure(partials=False)
            while not isinstance(await anext(stream), Configured):
                pass
            await stream.send_audio(samples(0, 100))
            await stream.end()
            assert [event async for event in stream][-1].reason is EndReason.FINISHED
    assert server.queries[1]["partials"] == "false"


async def test_a_file_waits_for_room_and_loses_nothing():
    count = 8000 * 150
    request = StreamRequest("anna", "call-1", encoding="mulaw", sample_rate=8000)
    with trio.fail_after(60):
        async with (
            scripted_server(HalfOpen(3), Cut(100)) as server,
            open_resuming_stream(server.url, request, live=False) as stream,
            trio.open_nursery() as nursery,
        ):
            server.utterance_samples = LONG

            async def read_file() -> None:
                await stream.send_audio(samples(0, count))
                await stream.end()

            nursery.start_soon(read_file)
            events = [event async for event in stream]
    assert spans(events) == [(start, start + LONG) for start in range(0, count, LONG)]
    assert Lost not in kinds(events)


async def test_a_microphone_without_a_server_says_what_it_lost():
    async with scripted_server(Refuse(503, b"2")) as server, open_resuming_stream(server.url, REQUEST) as stream:
        with trio.fail_after(20):
            for second in range(130):
                await stream.send_audio(samples(second * 8000, second * 8000 + 8000))
            server.began_at = stream.given_samples - 120 * 8000
            server.utterance_samples = LONG
            await stream.end()
            events = [event async for event in stream]
    (lost,) = [event for event in events if isinstance(event, Lost)]
    assert lost == Lost(0, 10 * 8000)
    assert spans(events)[0][0] == lost.to_sample
    assert spans(events)[-1][1] == stream.given_samples


async def leave_by_an_error(server: ScriptedServer) -> None:
    async with open_resuming_stream(server.url, REQUEST):
        await server.accepted.wait()
        raise KeyError


async def test_the_real_server_captions_a_resuming_stream(server):
    request = StreamRequest("anna", "call-1")
    with trio.fail_after(20):
        async with open_resuming_stream(server.ws, request) as stream:
            await stream.send_audio(silence(0.5).tobytes() + sound(1.5).tobytes() + silence(0.5).tobytes())
            await stream.finalize("f")
            await stream.end()
            events = [event async for event in stream]
    assert isinstance(events[0], Ready)
    assert [event.text.split()[:2] for event in events if isinstance(event, Transcript) and event.is_final] == [
        ["w1", "w2"]
    ]
    assert Ack(40_000, True, "f") in events
    assert events[-1].reason is EndReason.FINISHED


async def test_leaving_the_block_keeps_the_users_own_error_and_closes_the_connection():
    async with scripted_server(NeverReady()) as server:
        with pytest.raises(KeyError):
            await leave_by_an_error(server)
        with trio.fail_after(5):
            while not server.closed_by_client:
                await trio.sleep(0.01)
    assert server.closed_by_client == [1000]


async def test_an_error_of_the_users_token_source_is_theirs_too():
    async def token() -> str:
        raise OSError("no token today")

    async with scripted_server() as server:
        with pytest.raises(BaseExceptionGroup) as errors:
            async with open_resuming_stream(server.url, REQUEST, token=token):
                await trio.sleep_forever()
    assert errors.group_contains(OSError, match="no token today")


@asynccontextmanager
async def cancelled_soon():
    with trio.move_on_after(0.05) as scope:
        yield
    assert scope.cancelled_caught


async def test_cancelled_at_any_time_it_leaves_nothing_behind():
    for act in (NeverAnswer(), NeverReady(), HalfOpen(0), Refuse(503, b"100"), Serve()):
        async with (
            scripted_server(act) as server,
            cancelled_soon(),
            open_resuming_stream(server.url, REQUEST) as stream,
        ):
            await stream.send_audio(samples(0, 1000))
            async for _ in stream:
                pass


async def test_a_cancelled_wait_for_an_event_loses_none():
    async with scripted_server(Cut(3)) as server, open_resuming_stream(server.url, REQUEST) as stream:
        events: list[ResumingEvent] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak, stream)
            with trio.fail_after(20):
                while not events or not isinstance(events[-1], Ended):
                    with trio.move_on_after(0.001):
                        events.append(await anext(stream))
    assert spans(events) == ALL


async def test_a_user_who_does_not_listen_stalls_only_themselves(monkeypatch):
    monkeypatch.setattr("trio_stt.client.resuming_client.MAX_EVENTS", 4)
    async with scripted_server() as server, open_resuming_stream(server.url, REQUEST) as stream:
        with trio.fail_after(20):
            await stream.send_audio(samples(0, SAMPLES))
            await stream.end()
            await trio.sleep(1)
            events = [event async for event in stream]
    assert spans(events) == ALL
    assert kinds(events) == [Ready, Ended]


@pytest.mark.parametrize("servers", [[], "http://127.0.0.1", ["ws://127.0.0.1", "no address"]])
async def test_wrong_addresses_are_told_at_once(servers):
    with pytest.raises(ValueError, match="expected"):
        async with open_resuming_stream(servers, REQUEST):
            pass


async def test_what_cannot_be_sent_is_told_and_takes_nothing():
    async with open_resuming_stream("ws://127.0.0.1:9", StreamRequest("a", "b")) as stream:
        with pytest.raises(ValueError, match="whole samples"):
            await stream.send_audio(bytes(200_001))
        with pytest.raises(ValueError, match="120 or more"):
            async with open_resuming_stream("ws://127.0.0.1:9", REQUEST, room_s=10):
                pass
        await stream.end()
        with pytest.raises(ValueError, match="told to end"):
            await stream.send_audio(b"ab")
        assert stream.given_samples == 0
