"""What a token of one tenant can find out of another's calls, or do to them: nothing, by any route or message."""

from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio

from tests.server.conftest import events_until_closed, finals_of, guarded_server
from tests.tokens import token
from tests.unit.fakes import silence, sound
from trio_stt.client.connection import CaptionStream
from trio_stt.client.websocket import StreamRefusedError, connect
from trio_stt.dialects.events import Ack, Configured, Failure, Pong, Presence, Ready, ServerEvent, Transcript

SECRET_CALL = "board-meeting"
A, B = token(tenant="acme"), token(tenant="beta")


@attrs.define
class Witness:
    """A client of B's call, and all that it was sent."""

    stream: CaptionStream
    events: list[ServerEvent] = attrs.Factory(list)

    async def watch(self) -> None:
        async for event in self.stream:
            self.events.append(event)

    @property
    def disturbing(self) -> list[ServerEvent]:
        """What it would not have been sent, had it been alone."""
        return [event for event in self.events if not isinstance(event, Ready | Ack | Pong)]


@asynccontextmanager
async def call_of_b(server):
    """A call of tenant B with a speaker and a listener who asked for all there is; neither is closed."""
    async with (
        server.speaker("ann", SECRET_CALL, token=B, presence=True, history=200) as ann,
        server.speaker("eve", SECRET_CALL, token=B, presence=True, speak=False, history=200) as eve,
        trio.open_nursery() as nursery,
    ):
        speaker, listener = Witness(ann), Witness(eve)
        await ann.send_audio(sound(1).tobytes())
        await ann.finalize()
        assert [final.text for final in await finals_of(eve, 1)] == ["w1 w2"]
        nursery.start_soon(speaker.watch)
        nursery.start_soon(listener.watch)
        with trio.fail_after(5):
            while not any(isinstance(event, Ack) and event.from_finalize for event in speaker.events):
                await trio.sleep(0.01)
        speaker.events.clear()
        listener.events.clear()
        yield speaker, listener
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def server():
    async with guarded_server() as running:
        yield running


@pytest.mark.parametrize("client_id", ["ann", "eve", "mallory"])
@pytest.mark.parametrize("speak", [True, False])
async def test_the_same_names_in_another_tenant_are_another_call(server, client_id, speak):
    async with call_of_b(server) as (speaker, listener):
        async with server.speaker(client_id, SECRET_CALL, token=A, speak=speak, presence=True, history=200) as mallory:
            await mallory.configure(transcript=True, partials=True, language="en", target=["pt"])
            await mallory.ping("p")
            if speak:
                await mallory.send_audio(sound(1).tobytes())
            await mallory.finalize("f")
            await mallory.end()
            events, close = await events_until_closed(mallory)
        assert close.code == 1000
        own = [event for event in events if isinstance(event, Transcript)]
        assert {event.stream_id for event in own} <= {events[0].stream_id}
        assert not any(event.history for event in own)
        assert not any(isinstance(event, Presence) for event in events)
        assert {type(event) for event in events} >= {Ready, Pong, Ack, Configured}
    assert speaker.disturbing == listener.disturbing == []


@pytest.mark.parametrize(
    "frame",
    [b"\x01", b"SEQ1", "no JSON", '{"type": "nothing"}', '{"type": "resume", "token": "guessed"}', '{"type":"eof"}'],
)
async def test_nor_does_any_wrong_frame_reach_it(server, frame):
    async with (
        call_of_b(server) as (speaker, listener),
        server.raw(f"client_id=ann&session_id={SECRET_CALL}&framing=seq", token=A) as mallory,
    ):
        await mallory.send(frame)
        await trio.sleep(0.1)
    assert speaker.disturbing == listener.disturbing == []


@pytest.mark.parametrize("query", ["&tenant=beta", "&tenant=beta&tenant=acme"])
async def test_the_tenant_is_the_tokens_whatever_the_query_says(server, query):
    async with (
        call_of_b(server) as (speaker, listener),
        server.raw(f"client_id=ann&session_id={SECRET_CALL}&history=200{query}", token=A) as mallory,
    ):
        assert '"ready"' in await mallory.receive()
        await mallory.send('{"type": "ping"}')
        assert '"pong"' in await mallory.receive()
    assert speaker.disturbing == listener.disturbing == []


async def test_what_b_says_reaches_b_alone(server):
    async with server.speaker("ann", SECRET_CALL, token=B) as ann, server.speaker("ann", SECRET_CALL, token=A) as spy:
        await ann.send_audio(sound(1).tobytes())
        await ann.finalize()
        assert await finals_of(ann, 1)
        await spy.ping("last")
        async for event in spy:
            assert isinstance(event, Ready | Ack | Pong)
            if event == Pong("last"):
                break


async def test_a_client_of_vosk_server_is_alone(server):
    async with call_of_b(server) as (speaker, listener):
        vosk = await connect(f"{server.ws}/vosk-server?session_id={SECRET_CALL}&client_id=ann", timeout_s=5, token=A)
        await vosk.send(sound(0.2, 8000).tobytes())
        assert "partial" in await vosk.receive()
        await vosk.send('{"eof": 1}')
        assert "text" in await vosk.receive()
        await vosk.aclose()
    assert speaker.disturbing == listener.disturbing == []


async def test_whether_b_has_a_call_of_that_name_cannot_be_told_by_limits():
    limits = {"session_max_clients": 2, "tenant_max_sessions": 1, "tenant_max_streams": 1}
    async with guarded_server(**limits) as server, call_of_b(server):
        async with (
            server.speaker("x", SECRET_CALL, token=A),
            server.speaker("y", SECRET_CALL, token=A, speak=False),
        ):
            with pytest.raises(StreamRefusedError) as refused:
                await connect(
                    f"{server.ws}/ws/vosk/?client_id=z&session_id={SECRET_CALL}&speak=false", timeout_s=5, token=A
                )
        assert refused.value.code == "session_full"
        async with server.speaker("x", "other-call", token=A):  # its one session is gone
            pass


async def test_statistics_show_a_service_its_own_tenant_alone(server):
    async with call_of_b(server), httpx.AsyncClient(base_url=server.http) as client:
        async with server.speaker("short", "own-call", token=A) as own:
            await own.send_audio(silence(0.1).tobytes())
        await trio.sleep(0.1)

        async def statistics(shown):
            answer = await client.get("/ws/stats", headers={"Authorization": f"Bearer {shown}"})
            return answer.text, answer.json()

        text, seen = await statistics(A)
        assert SECRET_CALL not in text
        assert "ann" not in [info["client_id"] for info in seen["active_clients_info"]]
        assert seen["websocket_stats"]["active_connections"] == 0
        assert seen["websocket_stats"]["total_disconnects"] == 1
        assert len(seen["websocket_stats"]["recent_disconnects"]) == 1
        assert [seen["service_info"][name] for name in ("sessions", "speakers", "listeners")] == [0, 0, 0]
        _, seen = await statistics(B)
        assert seen["websocket_stats"]["active_connections"] == 2
        assert seen["websocket_stats"]["total_disconnects"] == 0
        assert seen["frequent_disconnect_codes"] == []
        _, seen = await statistics(token(tenant="operators", admin=True))
        assert seen["websocket_stats"]["active_connections"] == 2
        assert seen["websocket_stats"]["total_disconnects"] == 1


ADMIN_ROUTES = [
    ("GET", "streams"),
    ("GET", "sessions"),
    ("DELETE", "streams/{stream}"),
    ("DELETE", f"sessions/{SECRET_CALL}"),
    ("DELETE", f"sessions/{SECRET_CALL}?tenant=beta"),
    ("POST", "drain"),
    ("POST", "models/en/load"),
    ("POST", "models/en/unload"),
    ("POST", "breakers/vosk:vosk-model/reset"),
    ("POST", "log-level"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_administration_is_for_administrators_alone(server, method, path):
    async with call_of_b(server) as (speaker, listener), httpx.AsyncClient(base_url=server.http) as client:
        (stream,) = [one.stream_id for one in server.instance.connections if one.request.speak]
        for shown, status in [
            (None, 401),
            (token(admin=True, exp=1), 401),
            (token(admin=True, key="x" * 64), 401),
            (A, 403),
            (B, 403),
            (token(sub="ann", admin=True), 403),
            (token(admin=False), 403),
        ]:
            headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
            answer = await client.request(
                method, "/admin/" + path.format(stream=stream), headers=headers, json={"level": "DEBUG"}
            )
            assert answer.status_code == status
            assert answer.json()["error"].keys() == {"code", "message", "parameter"}
            assert SECRET_CALL not in answer.text
        assert not server.instance.drain_asked.is_set()
    assert speaker.disturbing == listener.disturbing == []


async def test_a_failure_of_a_keeps_its_message_to_itself(server):
    async with call_of_b(server) as (speaker, listener):
        async with server.speaker("ann", SECRET_CALL, token=A) as mallory:
            await mallory.configure(language="vi")
            events = []
            async for event in mallory:
                events.append(event)
                if isinstance(event, Failure):
                    break
        assert events[-1].code == "language_unavailable"
    assert speaker.disturbing == listener.disturbing == []
