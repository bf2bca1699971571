"""``/agent/join`` and ``/agent/cancel``: what is wrong gets its answer and sends nobody anywhere; the rest works."""

import json
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from tests.livekit_tokens import API_KEY, API_SECRET, ROOM, room_token, webhook_token
from tests.server.conftest import Server, guarded_server, running_server
from tests.server.fake_agent import FakeAgent, played_agents
from tests.tokens import KEYS, SECRET, token
from tests.unit.gateway.test_auth import BAD
from tests.unit.rooms.test_access import BAD_LIVEKIT, FOR_ELSE
from tests.unit.rooms.test_wanted import GOOD, WRONG
from trio_stt.drill.free_ports import free_ports
from trio_stt.rooms.passes import ALL_ROOMS, Passes
from trio_stt.settings import Secret, Settings

LIVEKIT = {"livekit_api_key": API_KEY, "livekit_api_secret": Secret(API_SECRET)}


@asynccontextmanager
async def server_with(*agents: FakeAgent, **changes):
    """A server that wants tokens, with these agents."""
    async with (
        played_agents(*agents),
        guarded_server(agent_url=tuple(agent.url for agent in agents), **LIVEKIT, **changes) as server,
    ):
        yield server


async def ask(server: Server, path: str, body: object, shown: str | None = None, **headers: str) -> httpx.Response:
    """The answer to a POST; `body`: what is sent as JSON, or bytes as they are; `shown`: the token."""
    if shown is not None:
        headers["Authorization"] = f"Bearer {shown}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        return await client.post(f"{server.http}/agent/{path}", content=content, headers=headers)


def error_of(answer: httpx.Response) -> dict:
    fields = answer.json()
    assert fields.keys() == {"error"}
    assert fields["error"].keys() == {"code", "message", "parameter"}
    return fields["error"]


# ── wrong ways ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_bad_token_is_401_whatever_else_is_wrong_and_nobody_is_sent():
    agent = FakeAgent()
    async with server_with(agent) as server:
        for path in ("join", "cancel"):
            for body in ({"room_name": ROOM}, b"no json"):
                for shown in (None, *filter(None, BAD.values()), *BAD_LIVEKIT.values()):
                    if shown is None or shown.isascii():
                        answer = await ask(server, path, body, shown)
                        assert answer.status_code == 401, shown
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
                        assert error_of(answer)["code"] in ("missing_token", "invalid_token")
    assert agent.asked == []


async def test_a_good_token_for_something_else_is_403_and_nobody_is_sent():
    agent = FakeAgent(rooms={"other": {"room_name": "other"}})
    async with server_with(agent) as server:
        for path in ("join", "cancel"):
            for shown in FOR_ELSE.values():
                assert (await ask(server, path, {"room_name": ROOM}, shown)).status_code == 403
            for shown in (room_token(), token(agent=True, session="call")):
                answer = await ask(server, path, {"room_name": "other"}, shown)
                assert answer.status_code == 403
                assert error_of(answer) == {
                    "code": "wrong_room",
                    "message": "the access token is not for this room",
                    "parameter": "room_name",
                }
    assert agent.asked == []


async def test_every_wrong_body_is_400_naming_what_is_wrong_and_nobody_is_sent():
    agent = FakeAgent()
    async with server_with(agent) as server:
        for path in ("join", "cancel"):
            for changes, code, parameter in WRONG.values():
                body = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
                answer = await ask(server, path, body, token(agent=True))
                assert answer.status_code == 400
                assert (error_of(answer)["code"], error_of(answer)["parameter"]) == (code, parameter)
            for body in (b"", b"[]", b"{", b"\xff", b'{"room_name": "r", "room_name": "s"}', b" " * 10_000):
                assert (await ask(server, path, body, token(agent=True))).status_code == 400
            assert (await ask(server, path, b" " * 100_000, token(agent=True))).status_code == 413
    assert agent.asked == []


async def test_other_methods_are_405(server):
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        for path in ("join", "cancel", "webhook"):
            for method in ("GET", "PUT", "DELETE"):
                assert (await client.request(method, f"{server.http}/agent/{path}")).status_code == 405


async def test_a_token_is_needed_also_where_clients_need_none():
    agent = FakeAgent()
    async with played_agents(agent), running_server(agent_url=(agent.url,), **LIVEKIT) as server:
        assert (await ask(server, "join", {"room_name": ROOM})).status_code == 401
        assert agent.asked == []
        assert (await ask(server, "join", {"room_name": ROOM}, room_token())).json()["result"] == "created"
        assert "authorization" not in agent.joins[0].headers  # there is no key to sign a pass with


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_agent_comes_once_and_leaves_once():
    agent = FakeAgent()
    wanted = {"room_name": ROOM, "languages": ["pt-BR", "de"], "speak": True}
    async with server_with(agent) as server:
        for shown in (room_token(), token(agent=True)):
            said = [await ask(server, *what, shown) for what in [("join", wanted), ("join", wanted)]]
            said += [await ask(server, "cancel", {"room_name": ROOM}, shown) for _ in range(2)]
            assert [answer.status_code for answer in said] == [200] * 4
            assert [answer.json()["result"] for answer in said] == ["created", "exists", "cancelled", "absent"]
            assert said[0].json() == {"result": "created", "room_name": ROOM, "agent": "fake-1"}
            assert said[3].json() == {"result": "absent", "room_name": ROOM, "agent": None}
    assert json.loads(agent.joins[0].body) == {"room_name": ROOM, "languages": ["de", "pt-BR"], "speak": True}


async def test_the_agent_is_shown_a_pass_of_the_servers_own_and_never_the_callers_token():
    agent = FakeAgent()
    passes = Passes.of(Settings(auth_keys=KEYS))
    async with server_with(agent) as server:
        shown = room_token()
        await ask(server, "join", {"room_name": ROOM}, shown)
        await ask(server, "cancel", {"room_name": ROOM}, shown)
    for asked in agent.asked:
        room = ALL_ROOMS if asked.method == "GET" else ROOM
        assert passes.refusal([asked.headers["authorization"]], room) is None
        assert shown not in str(asked)


@pytest.mark.parametrize("name", ["..", "a/../b", "a//b", "100%", "%2e", "?x=1", "#", " ", "日本", "r" * 256])
async def test_a_room_may_have_any_name(name):
    agent = FakeAgent()
    async with server_with(agent) as server:
        said = [await ask(server, path, {"room_name": name}, token(agent=True)) for path in ("join", "cancel")]
    assert [answer.json()["result"] for answer in said] == ["created", "cancelled"]


async def test_a_room_with_other_settings_is_409():
    agent = FakeAgent()
    async with server_with(agent) as server:
        await ask(server, "join", {"room_name": ROOM}, room_token())
        answer = await ask(server, "join", {"room_name": ROOM, "speak": True}, room_token())
    assert answer.status_code == 409
    assert error_of(answer)["code"] == "other_settings"
    assert not agent.rooms[ROOM]["speak"]


async def test_a_server_without_agents_says_404():
    async with guarded_server(**LIVEKIT) as server:
        for path in ("join", "cancel"):
            answer = await ask(server, path, {"room_name": ROOM}, room_token())
            assert (answer.status_code, error_of(answer)["code"]) == (404, "no_agents")


async def test_who_finds_one_agent_full_or_gone_or_broken_gets_another():
    full, broken, good = FakeAgent("full", most_rooms=1, rooms={"x": {}}), FakeAgent("broken"), FakeAgent("good")
    broken.broken_answer = (500, b"no json")
    async with played_agents(full, broken, good):
        urls = (full.url, f"http://127.0.0.1:{free_ports()}", broken.url, good.url)
        async with guarded_server(agent_url=urls, **LIVEKIT) as server:
            for number in range(5):
                answer = await ask(server, "join", {"room_name": f"r{number}"}, token(agent=True))
                assert (answer.json()["result"], answer.json()["agent"]) == ("created", "good")
            for number in range(5):
                answer = await ask(server, "cancel", {"room_name": f"r{number}"}, token(agent=True))
                assert answer.json()["result"] == "cancelled"
            # Whether the room is absent cannot be said while one does not answer.
            answer = await ask(server, "cancel", {"room_name": "r0"}, token(agent=True))
            assert (answer.status_code, error_of(answer)["code"]) == (503, "no_agent_there")


async def test_when_all_are_full_or_gone_it_is_503_with_retry_after():
    full = FakeAgent(most_rooms=1, rooms={"x": {}})
    async with server_with(full) as server:
        answer = await ask(server, "join", {"room_name": ROOM}, room_token())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert error_of(answer)["code"] == "no_agent_free"
    async with guarded_server(agent_url=(f"http://127.0.0.1:{free_ports()}",), **LIVEKIT) as server:
        for path in ("join", "cancel"):
            answer = await ask(server, path, {"room_name": ROOM}, room_token())
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert error_of(answer)["code"] == "no_agent_there"


async def test_all_servers_send_the_same_one_of_several_agents_into_a_room():
    agents = [FakeAgent(f"agent-{number}", most_rooms=100) for number in range(3)]
    async with (
        played_agents(*agents),
        guarded_server(agent_url=tuple(each.url for each in agents), **LIVEKIT) as one,
        guarded_server(agent_url=tuple(each.url for each in reversed(agents)), **LIVEKIT) as other,
    ):
        for number in range(30):
            said = [await ask(each, "join", {"room_name": f"r{number}"}, token(agent=True)) for each in (one, other)]
            assert [answer.json()["result"] for answer in said] == ["created", "exists"]
    assert sum(len(each.rooms) for each in agents) == 30
    assert all(each.rooms for each in agents)


async def test_no_token_and_no_secret_is_logged():
    agent = FakeAgent()
    agent.broken_answer = (503, b"{}")
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with server_with(agent) as server:
            for shown in (room_token(), token(agent=True), room_token(key=SECRET), "nonsense"):
                for path in ("join", "cancel"):
                    await ask(server, path, {"room_name": ROOM}, shown)
                    assert shown not in str(logs)
    assert "room_joined" in {line["event"] for line in logs}
    assert API_SECRET not in str(logs)
    assert SECRET not in str(logs)


# ── webhooks ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def webhook(server: Server, event: object, shown: str | None = None) -> httpx.Response:
    body = json.dumps(event).encode()
    return await ask(server, "webhook", body, Authorization=webhook_token(body) if shown is None else shown)


async def test_webhooks_send_the_agent_where_people_are_and_away_when_the_room_is_closed():
    agent = FakeAgent()
    async with server_with(agent, agent_auto_join=True) as server:
        joined = {"event": "participant_joined", "room": {"name": ROOM}, "participant": {"identity": "ann"}}
        said = [await webhook(server, {**joined, "event": "room_started"}), await webhook(server, joined)]
        assert [answer.json()["result"] for answer in said] == ["created", "exists"]
        agent.rooms[ROOM] = {"room_name": ROOM, "languages": ["de"], "speak": False}  # somebody wants more
        assert (await webhook(server, joined)).json()["result"] == "exists"
        assert (await webhook(server, {**joined, "event": "track_published"})).json()["result"] == "ignored"
        assert (await webhook(server, {**joined, "event": "room_finished"})).json()["result"] == "cancelled"
    assert not agent.rooms


async def test_a_webhook_that_is_not_livekits_is_401_and_without_the_setting_404():
    agent = FakeAgent()
    event = {"event": "room_started", "room": {"name": ROOM}}
    async with server_with(agent, agent_auto_join=True) as server:
        for shown in (webhook_token(b"another body"), room_token(), token(agent=True), "", "Bearer x"):
            assert (await webhook(server, event, shown)).status_code == 401
        assert (await ask(server, "webhook", event)).status_code == 401
    async with server_with(agent) as server:
        assert (await webhook(server, event)).status_code == 404
    assert agent.asked == []
