"""Who shows no good token, or comes from the wrong place, or too often, is answered by HTTP before the upgrade."""

import time
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from attrs import frozen

from tests.server.conftest import events_until_closed, finals_of, guarded_server, running_server
from tests.tokens import token
from tests.unit.fakes import sound
from tests.unit.gateway.test_auth import BAD
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError, connect
from trio_stt.dialects.events import Close, Failure, Transcript
from trio_stt.drill.free_ports import free_ports
from trio_stt.gateway.keys import AccessError
from trio_stt.serve import serve
from trio_stt.settings import Settings

WHO = "client_id=ann&session_id=call"
NATIVE = f"/ws/vosk/?{WHO}"
VOSK_SERVER = "/vosk-server"


@pytest.fixture
async def server():
    async with guarded_server(vosk_server_port=0) as running:
        yield running


@frozen
class Answer:
    """What a request for a WebSocket is answered by; headers in lower case."""

    status: int
    headers: dict[str, str]


@asynccontextmanager
async def request(server, path, **headers):
    """Asks for a WebSocket as a browser or a proxy does; the connection stays open while the block runs."""
    host, _, port = server.http.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        status_line, *fields = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        named = (field.partition(":") for field in fields)
        yield Answer(int(status_line.split()[1]), {name.lower(): value.strip() for name, _, value in named})


async def status(server, path, **headers) -> int:
    async with request(server, path, **headers) as answer:
        return answer.status


async def refusal(server, path, **how) -> StreamRefusedError:
    with pytest.raises(StreamRefusedError) as refused:
        await connect(server.ws + path, timeout_s=5, **how)
    return refused.value


async def replies_until_closed(websocket) -> tuple[list[str], Close]:
    replies = []
    with trio.fail_after(10):
        while True:
            try:
                replies.append(await websocket.receive())
            except StreamClosedError as closed:
                return replies, closed.close


@pytest.mark.parametrize("path", [NATIVE, VOSK_SERVER, "/ws/vosk/"])
async def test_without_a_token_it_is_401_whatever_else_is_wrong(server, path):
    refused = await refusal(server, path)
    assert (refused.status, refused.code) == (401, "missing_token")
    async with request(server, path) as answer:
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", [NATIVE, VOSK_SERVER])
async def test_every_bad_token_is_401(server, path):
    for bad in BAD.values():
        if bad:
            assert (await refusal(server, path, token=bad)).status == 401
    assert server.instance.admission.speakers == 0


@pytest.mark.parametrize(
    ("path", "claims", "code"),
    [
        (NATIVE, {"sub": "bob"}, "wrong_client"),
        (NATIVE, {"session": "another"}, "wrong_session"),
        (NATIVE, {"session": ["another", "third"]}, "wrong_session"),
        (NATIVE, {"session": []}, "wrong_session"),
        (VOSK_SERVER, {"session": "call"}, "wrong_session"),
    ],
)
async def test_a_good_token_for_something_else_is_403(server, path, claims, code):
    refused = await refusal(server, path, token=token(**claims))
    assert (refused.status, refused.code) == (403, code)


@pytest.mark.parametrize("path", [NATIVE, VOSK_SERVER])
async def test_a_good_token_opens_a_stream_by_header_and_by_subprotocol(server, path):
    socket = await connect(server.ws + path, timeout_s=5, token=token())
    await socket.aclose()
    async with request(server, path, Sec_WebSocket_Protocol=f"bearer, {token()}") as answer:
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "bearer")
    async with request(server, path, Authorization=f"bearer {token()}", Sec_WebSocket_Protocol="chat") as answer:
        assert (answer.status, "sec-websocket-protocol" in answer.headers) == (101, False)


async def test_one_bad_token_beside_a_good_one_is_401(server):
    bad = f"bearer, {token(exp=1)}"
    assert await status(server, NATIVE, Authorization=f"Bearer {token()}", Sec_WebSocket_Protocol=bad) == 401


async def test_vosk_servers_own_port_wants_tokens_too():
    port = free_ports()
    async with guarded_server(vosk_server_port=port):
        with pytest.raises(StreamRefusedError) as refused:
            await connect(f"ws://127.0.0.1:{port}/", timeout_s=5)
        assert refused.value.status == 401
        await (await connect(f"ws://127.0.0.1:{port}/any", timeout_s=5, token=token())).aclose()


async def test_with_auth_off_a_browser_that_shows_a_token_is_served_too():
    async with (
        running_server() as server,
        request(server, NATIVE, Sec_WebSocket_Protocol="bearer, whatever") as answer,
    ):
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "bearer")


async def test_at_exp_the_open_utterance_ends_and_the_client_is_told(server):
    async with server.speaker(token=token(exp=int(time.time()) + 2)) as ann:
        await ann.send_audio(sound(1).tobytes())
        events, close = await events_until_closed(ann)
    assert close == Close(1008, "token_expired")
    assert isinstance(events[-1], Failure)
    assert events[-1].code == "token_expired"
    assert [event.text for event in events if isinstance(event, Transcript) and event.is_final] == ["w1 w2"]


async def test_at_exp_a_listener_and_a_client_of_vosk_server_are_closed_too(server):
    short = token(exp=int(time.time()) + 2)
    vosk = await connect(server.ws + VOSK_SERVER, timeout_s=5, token=short)
    async with server.speaker("eve", speak=False, token=short) as eve:
        await vosk.send(sound(0.1, 8000).tobytes())
        replies, close = await replies_until_closed(vosk)
        assert close == Close(1008, "token_expired")
        assert len(replies) == 2  # to the frame, and what was said since the last final
        events, close = await events_until_closed(eve)
        assert (events[-1].code, close.code) == ("token_expired", 1008)
    await vosk.aclose()


# ── places of a tenant ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tenant_with_all_its_streams_gets_429_and_another_tenant_a_place():
    async with guarded_server(tenant_max_streams=1, tenant_max_listeners=1) as server:
        async with server.speaker("ann", token=token()), server.speaker("eve", speak=False, token=token()):
            for who in ("client_id=bob&session_id=call", "client_id=bob&session_id=call&speak=false"):
                refused = await refusal(server, f"/ws/vosk/?{who}", token=token())
                assert (refused.status, refused.code, refused.retry_after_s) == (429, "too_many_streams", 10)
            assert (await refusal(server, VOSK_SERVER, token=token())).status == 429
            async with server.speaker("ann", token=token()):  # which replaces its older connection
                pass
            async with server.speaker("ann", token=token(tenant="beta")):
                pass
        async with server.speaker("bob", token=token()):
            pass


async def test_a_tenant_with_all_its_sessions_gets_429():
    async with guarded_server(tenant_max_sessions=1) as server, server.speaker("ann", "one", token=token()):
        refused = await refusal(server, "/ws/vosk/?client_id=bob&session_id=two", token=token())
        assert (refused.status, refused.code) == (429, "too_many_sessions")
        async with server.speaker("bob", "one", token=token()), server.speaker("x", "two", token=token(tenant="b")):
            pass


async def test_when_the_days_audio_is_used_up_speakers_end_with_their_final_and_none_is_let_in():
    async with guarded_server(tenant_audio_s_a_day=2) as server:
        async with (
            server.speaker("ann", token=token()) as ann,
            server.speaker("eve", speak=False, token=token()) as eve,
            server.speaker("x", token=token(tenant="beta")) as other,
        ):
            await ann.send_audio(sound(1).tobytes())
            await ann.send_audio(sound(1).tobytes())
            events, close = await events_until_closed(ann)
            assert close == Close(1008, "quota_used_up")
            assert events[-1].code == "quota_used_up"
            assert [final.text for final in await finals_of(eve, 1)] == ["w1 w2 w3 w4"]
            refused = await refusal(server, NATIVE, token=token())
            assert (refused.status, refused.code) == (429, "quota_used_up")
            assert 0 < refused.retry_after_s <= 86_400
            await other.send_audio(sound(1).tobytes())
            await other.finalize()
            assert await finals_of(other, 1)
        async with server.speaker("eve", speak=False, token=token()):
            pass


async def test_the_days_audio_ends_streams_of_vosk_servers_clients_too():
    async with guarded_server(tenant_audio_s_a_day=1) as server:
        vosk = await connect(server.ws + VOSK_SERVER, timeout_s=5, token=token())
        await vosk.send(sound(1, 8000).tobytes())
        assert (await replies_until_closed(vosk))[1] == Close(1008, "quota_used_up")
        await vosk.aclose()


# ── where clients come from ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_that_is_not_allowed_gets_403_before_its_token_is_looked_at():
    async with guarded_server(allowed_origins="https://app.example.org") as server:
        assert await status(server, NATIVE, Origin="https://example.org") == 403
        ours, shown = "https://app.example.org", f"bearer, {token()}"
        assert await status(server, NATIVE, Origin=ours) == 401
        assert await status(server, NATIVE, Origin=ours, Sec_WebSocket_Protocol=shown) == 101
        assert await status(server, NATIVE, Sec_WebSocket_Protocol=shown) == 101  # no page


async def test_with_auth_off_only_pages_of_this_machine_connect():
    async with running_server() as server:
        for path in (NATIVE, VOSK_SERVER):
            assert await status(server, path, Origin="https://example.org") == 403
            assert await status(server, path, Origin="http://localhost:3000") == 101


async def test_an_address_with_too_many_connections_gets_429_until_one_has_gone():
    async with running_server(max_connections_per_address=1) as server:
        async with server.speaker("ann"):
            refused = await refusal(server, "/ws/vosk/?client_id=bob&session_id=call")
            assert (refused.status, refused.code, refused.retry_after_s) == (429, "too_many_connections", 10)
        with trio.fail_after(5):
            while len(server.instance.connections):
                await trio.sleep(0.01)
        async with server.speaker("bob"):
            pass


async def test_behind_a_trusted_proxy_each_client_has_its_own_address():
    shown = {"Authorization": f"Bearer {token()}"}
    async with (
        guarded_server(max_connections_per_address=1, trusted_proxies="127.0.0.1") as server,
        request(server, NATIVE, X_Forwarded_For="198.51.100.1", **shown) as answer,
    ):
        assert answer.status == 101
        assert await status(server, NATIVE, X_Forwarded_For="192.0.2.9, 198.51.100.1", **shown) == 429
        assert await status(server, NATIVE, X_Forwarded_For="198.51.100.2", **shown) == 101


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_statistics_are_for_services_and_health_for_everybody(server):
    async with httpx.AsyncClient(base_url=server.http) as client:

        async def answer(path, shown=None):
            headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
            return (await client.get(path, headers=headers)).status_code

        assert await answer("/ws/stats") == 401
        assert await answer("/ws/stats", token(exp=1)) == 401
        assert await answer("/ws/stats", token(sub="ann")) == 403
        assert await answer("/ws/stats", token(session="call")) == 403
        assert await answer("/ws/stats", token()) == 200
        assert [await answer(path) for path in ("/health", "/health/simple", "/metrics")] == [200] * 3


async def test_refusals_under_a_full_server_do_not_reach_the_places(server):
    """A crowd without tokens costs no place, no session and no count of anybody's."""
    refused = []

    async def knock() -> None:
        refused.append((await refusal(server, NATIVE, token=token(exp=1))).status)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(knock)
    assert refused == [401] * 100
    assert len(server.instance.connections) == 0
    assert len(server.instance.sessions) == 0


async def test_a_server_without_keys_does_not_even_listen():
    with pytest.raises(AccessError, match="AUTH_KEYS"):
        await serve(Settings(server_port=0), stop=trio.Event(), hurry=trio.Event())
