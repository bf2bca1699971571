"""What an operator sees and does, by HTTP and by `trio-stt admin`."""

import json

import httpx
import pytest
import structlog
import trio
from click.testing import CliRunner

from tests.server.conftest import events_until_closed, finals_of, guarded_server, running_server
from tests.tokens import KEYS, token
from tests.unit.fakes import sound
from tests.unit.translation_fakes import ShoutingEngine
from trio_stt.__main__ import main
from trio_stt.client.websocket import StreamRefusedError
from trio_stt.dialects.events import Close, Failure
from trio_stt.operations.logs import configure_logs

ADMIN = token(tenant="operators", admin=True)


@pytest.fixture
async def server():
    async with guarded_server() as running:
        yield running


@pytest.fixture
async def client(server):
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient(base_url=f"{server.http}/admin/", headers=headers) as client:
        yield client


async def test_streams_and_sessions_of_all_tenants_are_listed(server, client):
    async with (
        server.speaker("ann", "call", token=token()),
        server.speaker("eve", "call", speak=False, token=token()),
        server.speaker("ann", "call", token=token(tenant="beta")),
    ):
        streams = (await client.get("streams")).json()["streams"]
        assert [(one["tenant"], one["client_id"], one["speak"]) for one in streams] == [
            ("acme", "ann", True),
            ("acme", "eve", False),
            ("beta", "ann", True),
        ]
        assert streams[0].keys() >= {"stream_id", "session_id", "language", "connected_seconds"}
        assert (await client.get("sessions")).json() == {
            "sessions": [
                {"tenant": "acme", "session_id": "call", "clients": ["ann", "eve"]},
                {"tenant": "beta", "session_id": "call", "clients": ["ann"]},
            ]
        }


async def test_a_stream_is_ended_with_its_last_final(server, client):
    async with server.speaker("ann", token=token()) as ann, server.speaker("bob", token=token()) as bob:
        await ann.send_audio(sound(1).tobytes())
        await trio.sleep(0.1)
        (stream_id,) = [one.stream_id for one in server.instance.connections if one.request.client_id == "ann"]
        assert (await client.delete(f"streams/{stream_id}")).json() == {"result": "closed", "streams": 1}
        events, close = await events_until_closed(ann)
        assert close == Close(1008, "closed_by_admin")
        assert isinstance(events[-1], Failure)
        assert [final.text for final in await finals_of(bob, 1)] == ["w1 w2"]
    for name in (stream_id, "nobody"):
        answer = await client.delete(f"streams/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_stream")


async def test_a_session_is_ended_by_its_tenant_where_two_have_one(server, client):
    async with (
        server.speaker("ann", token=token()) as ann,
        server.speaker("eve", speak=False, token=token()) as eve,
        server.speaker("ann", token=token(tenant="beta")) as other,
    ):
        answer = await client.delete("sessions/call")
        assert (answer.status_code, answer.json()["error"]["parameter"]) == (409, "tenant")
        assert (await client.delete("sessions/call?tenant=acme")).json() == {"result": "closed", "streams": 2}
        for member in (ann, eve):
            assert (await events_until_closed(member))[1].code == 1008
        assert (await client.delete("sessions/call?tenant=acme")).status_code == 404
        await other.ping("still here")
        assert (await client.delete("sessions/call")).json()["result"] == "closed"
        assert (await events_until_closed(other))[1].code == 1008
    assert (await client.delete("sessions/call")).json()["error"]["code"] == "unknown_session"


async def test_drain_ends_the_instance_as_a_signal_does():
    async with (
        guarded_server() as server,
        server.speaker("ann", token=token()) as ann,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN}"}) as client,
    ):
        for _ in range(2):
            answer = await client.post(f"{server.http}/admin/drain")
            assert (answer.status_code, answer.json()) == (202, {"result": "draining"})
        assert (await events_until_closed(ann))[1] == Close(1012, "restarting")


async def test_a_breaker_is_reset(server, client):
    server.instance.breakers["en"].trip()
    with pytest.raises(StreamRefusedError):
        async with server.speaker(token=token()):
            pass
    answer = await client.post("breakers/vosk:vosk-model/reset")
    assert answer.json() == {"result": "reset", "state": "closed"}
    async with server.speaker(token=token()):
        pass
    assert (await client.post("breakers/other/reset")).status_code == 404


async def test_a_translation_engine_s_breaker_is_reset_too(server, client):
    async with (
        running_server(auth_keys=KEYS, translation_engines=[ShoutingEngine()]) as translating,
        httpx.AsyncClient(base_url=f"{translating.http}/admin/", headers=client.headers) as operator,
    ):
        (breaker,) = translating.instance.translator.breakers
        breaker.trip()
        answer = await operator.post(f"breakers/{breaker.name}/reset")
        assert answer.json() == {"result": "reset", "state": "closed"}


async def test_the_log_level_changes_for_loggers_that_live(client, logs, capsys):
    configure_logs("INFO", "json")
    log = structlog.get_logger().bind()
    log.debug("before")
    assert (await client.post("log-level", json={"level": "DEBUG"})).json() == {"result": "set", "level": "DEBUG"}
    log.debug("while")
    assert (await client.post("log-level", json={"level": "ERROR"})).status_code == 200
    log.warning("after")
    log.error("always")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines if "logger" not in line] == ["admin_log_level", "while", "always"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"level": "LOUD"}', b'{"level": ["DEBUG"]}', b'{"level": null}'])
async def test_a_wrong_log_level_is_400(client, body):
    answer = await client.post("log-level", content=body)
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (400, "level")


async def test_what_came_through_a_proxy_is_refused_whatever_token_it_shows():
    async with guarded_server(trusted_proxies="127.0.0.1") as server, httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        answer = await client.get(
            f"{server.http}/admin/streams", headers={**headers, "X-Forwarded-For": "198.51.100.1"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_through_proxies")
        assert (await client.get(f"{server.http}/admin/streams", headers=headers)).status_code == 200


async def test_with_auth_off_administration_still_needs_a_token():
    async with running_server(auth_keys=KEYS) as server, httpx.AsyncClient() as client:
        assert (await client.get(f"{server.http}/admin/streams")).status_code == 401
        headers = {"Authorization": f"Bearer {ADMIN}"}
        assert (await client.get(f"{server.http}/admin/streams", headers=headers)).status_code == 200
    async with running_server() as server, httpx.AsyncClient() as client:
        assert (await client.get(f"{server.http}/admin/streams", headers=headers)).status_code == 401


async def admin(server, *arguments: str, shown: str | None = ADMIN):
    environment = {"SERVER_PORT": server.http.rpartition(":")[2], "ACCESS_TOKEN": shown, "AUTH_KEYS": None}
    return await trio.to_thread.run_sync(
        lambda: CliRunner(env=environment).invoke(main, ["admin", *arguments], catch_exceptions=False)
    )


async def test_there_is_a_command_for_each_route(server):
    async with server.speaker("ann", token=token()), server.speaker("bob", "call:2.3", token=token()):
        listed = json.loads((await admin(server, "streams")).output)["streams"]
        assert [one["client_id"] for one in listed] == ["ann", "bob"]
        assert len(json.loads((await admin(server, "sessions")).output)["sessions"]) == 2
        closed = await admin(server, "close-stream", listed[0]["stream_id"])
        assert (closed.exit_code, json.loads(closed.output)["result"]) == (0, "closed")
        assert (await admin(server, "close-session", "call:2.3", "--tenant", "acme")).exit_code == 0
    assert json.loads((await admin(server, "reset-breaker", "vosk:vosk-model")).output)["state"] == "closed"
    assert json.loads((await admin(server, "log-level", "info")).output)["level"] == "INFO"
    assert json.loads((await admin(server, "drain")).output)["result"] == "draining"
    assert server.instance.drain_asked.is_set()


async def test_the_command_says_why_it_was_refused(server):
    refused = await admin(server, "close-stream", "../drain")
    assert (refused.exit_code, "(HTTP 404)" in refused.output) == (1, True)
    assert not server.instance.drain_asked.is_set()
    refused = await admin(server, "streams", shown=token())
    assert "admin true" in refused.output
    assert "(HTTP 403)" in refused.output
    assert "ACCESS_TOKEN" in (await admin(server, "streams", shown=None)).output
    nobody = await admin(server, "--server", "http://127.0.0.1:1", "streams")
    assert (nobody.exit_code, "no answer" in nobody.output) == (1, True)
    assert ADMIN not in nobody.output
