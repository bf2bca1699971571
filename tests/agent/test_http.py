"""What an agent answers: to servers, to those who have it speak, to who looks after it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from quart import Quart

from agent import http as agent_http
from agent.http import AgentParts, Spoken, agent_app
from agent.metrics import AgentMetrics
from agent.pool import Pool
from tests.agent.played_rooms import PlayedRooms, until
from tests.livekit_tokens import API_KEY, API_SECRET, ROOM, room_token
from tests.tokens import KEYS, token
from tests.unit.gateway.test_auth import BAD
from tests.unit.rooms.test_access import BAD_LIVEKIT, FOR_ELSE
from tests.unit.rooms.test_wanted import GOOD, WRONG
from trio_stt.dialects.request import Refusal
from trio_stt.rooms.access import RoomAccess
from trio_stt.rooms.dispatch import path_of
from trio_stt.rooms.leases import AwayError, LeaseMemory, MemoryLeases, RoomSeen
from trio_stt.rooms.passes import ALL_ROOMS, Passes
from trio_stt.settings import Secret, Settings

SETTINGS = Settings(auth_keys=KEYS, livekit_api_key=API_KEY, livekit_api_secret=Secret(API_SECRET))
PASSES = Passes.of(SETTINGS)


class Voice:
    """Says what it is told when a test lets it; speaks English alone."""

    def __init__(self) -> None:
        self.said: list[Spoken] = []
        self.may_speak = asyncio.Event()
        self.error: Exception | None = None

    def speak(self, worker: object, spoken: Spoken) -> Awaitable[None] | Refusal:
        if spoken.language != "en":
            return Refusal(400, "no_voice", "there is no voice for this language", "language")
        return self._say(spoken)

    async def _say(self, spoken: Spoken) -> None:
        await self.may_speak.wait()
        if self.error is not None:
            raise self.error
        self.said.append(spoken)


class Answering:
    """An agent's app with what is behind it."""

    def __init__(
        self, *, passes: Passes | None = PASSES, mute: bool = False, memory: LeaseMemory | None = None, url: str = ""
    ):
        self.rooms = PlayedRooms()
        self.leases = leases = MemoryLeases(memory)
        self.pool = Pool(f"agent@{url}", url, leases, self.rooms.make, most_rooms=2, most_tracks=10)
        self.voice = Voice()
        parts = AgentParts(
            self.pool,
            leases,
            RoomAccess.of(SETTINGS),
            passes,
            None if mute else self.voice.speak,
            AgentMetrics(self.pool),
        )
        self.app: Quart = agent_app(parts)

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict]:
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        answer = await self.app.test_client().open(path, method=method, data=content, headers=headers)
        return answer.status_code, json.loads(await answer.get_data())

    async def open(self, room: str = ROOM, **more: object) -> tuple[int, dict]:
        wanted = {"room_name": room, **more}
        answer = await self.ask("POST", "/rooms", wanted, **PASSES.headers(room))
        await asyncio.sleep(0)
        return answer

    async def speak(self, shown: str, **changes: object) -> tuple[int, dict]:
        body = {"room_name": ROOM, "text": "hello", "language": "en", **changes}
        body = {name: value for name, value in body.items() if value is not None}
        return await self.ask("POST", "/api/tts/speak", body, Authorization=f"Bearer {shown}")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def quiet(quiet_logs):
    """Whatever these tests provoke is not printed."""


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_opens_rooms_sees_them_and_closes_them():
    async def test() -> None:
        agent = Answering()
        name = agent.pool.agent_id
        assert await agent.open(languages=["de"]) == (201, {"result": "created", "agent": name})
        assert await agent.open(languages=["de"]) == (200, {"result": "exists", "agent": name})
        status, body = await agent.open()
        assert (status, body["error"]["code"], body["agent"]) == (409, "other_settings", name)
        status, body = await agent.ask("GET", "/rooms", **PASSES.headers(ALL_ROOMS))
        assert (status, body["room_names"], body["rooms"], body["most_rooms"]) == (200, [ROOM], 1, 2)
        await agent.open("second")
        status, body = await agent.open("third")
        assert (status, body["error"]["code"]) == (503, "full")
        path = f"/rooms/{path_of(ROOM)}"
        assert await agent.ask("DELETE", path, **PASSES.headers(ROOM)) == (200, {"result": "cancelled", "agent": name})
        assert await agent.ask("DELETE", path, **PASSES.headers(ROOM)) == (200, {"result": "absent", "agent": name})
        assert agent.rooms.inside == ["second"]

    run(test)


@pytest.mark.parametrize("name", ["..", "a/../b", "a//b", "/", "100%", "%2e", "?x=1", "#", " ", "日本", "a+b"])
def test_a_room_of_any_name_can_be_closed(name):
    async def test() -> None:
        agent = Answering()
        assert (await agent.open(name))[0] == 201
        status, body = await agent.ask("DELETE", f"/rooms/{path_of(name)}", **PASSES.headers(name))
        assert (status, body["result"]) == (200, "cancelled")

    run(test)


def test_who_shows_no_pass_for_the_room_opens_and_closes_nothing():
    async def test() -> None:
        agent = Answering()
        await agent.open("there")
        shown = [
            {},
            *({"Authorization": f"Bearer {each}"} for each in (room_token(), token(agent=True), token(admin=True))),
        ]
        for headers in [*shown, PASSES.headers("another room")]:
            for method, path in (("GET", "/rooms"), ("POST", "/rooms"), ("DELETE", "/rooms/there")):
                body = {"room_name": ROOM} if method == "POST" else None
                status, said = await agent.ask(method, path, body, **headers)
                assert (status, said["error"]["code"] in ("missing_token", "invalid_token")) == (401, True)
        assert list(agent.pool) == ["there"]

    run(test)


def test_wrong_requests_are_400_and_open_nothing():
    async def test() -> None:
        agent = Answering(passes=None)
        for changes, code, parameter in WRONG.values():
            body = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
            status, said = await agent.ask("POST", "/rooms", body)
            assert (status, said["error"]["code"], said["error"]["parameter"]) == (400, code, parameter)
        # What a web page may send to any address of this machine without asking.
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            status, _ = await agent.ask("POST", "/rooms", GOOD, **{"Content-Type": kind})
            assert status == 400
        assert (await agent.ask("POST", "/rooms", GOOD, Origin="http://127.0.0.1:8080"))[0] == 403
        assert list(agent.pool) == []
        assert (await agent.ask("POST", "/rooms", GOOD))[0] == 201

    run(test)


# ── speech ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_to_be_said_is_said_and_answered_at_once():
    async def test() -> None:
        agent = Answering()
        await agent.open()
        for shown in (room_token(), token(agent=True)):
            status, body = await agent.speak(shown, voice="af_heart")
            assert (status, list(body)) == (202, ["id"])
        agent.voice.may_speak.set()
        await until(lambda: len(agent.voice.said) == 2)
        said = agent.voice.said[-1]
        assert said == Spoken(body["id"], ROOM, "hello", "en", "af_heart")
        assert "hello" not in repr(said)

    run(test)


def test_who_may_not_have_it_speak_is_told_so():
    async def test() -> None:
        agent = Answering()
        await agent.open()
        for shown in (*filter(str.isascii, BAD.values()), *BAD_LIVEKIT.values()):
            assert (await agent.speak(shown))[0] == 401
        for shown in FOR_ELSE.values():
            assert (await agent.speak(shown))[0] == 403
        status, body = await agent.speak(room_token(), room_name="another room")
        assert (status, body["error"]["code"]) == (403, "wrong_room")
        # Who says that it is an agent shows an agent's pass.
        request = {"room_name": ROOM, "text": "hello", "language": "en"}
        for headers in ({}, {"Authorization": f"Bearer {room_token()}"}, PASSES.headers("another room")):
            status, _ = await agent.ask("POST", "/api/tts/speak", request, **headers, **{"X-Agent-Forwarded": "1"})
            assert status == 401
        open_to_servers = Answering(passes=None)
        await open_to_servers.open()
        assert (await open_to_servers.ask("POST", "/api/tts/speak", request, **{"X-Agent-Forwarded": "1"}))[0] == 401
        agent.voice.may_speak.set()
        await asyncio.sleep(0.01)
        assert agent.voice.said == []

    run(test)


@pytest.mark.parametrize(
    ("changes", "status", "code", "parameter"),
    [
        ({"text": None}, 400, "missing_parameter", "text"),
        ({"text": " "}, 400, "bad_value", "text"),
        ({"text": "x" * 2001}, 400, "bad_value", "text"),
        ({"text": ["hello"]}, 400, "bad_value", "text"),
        ({"language": None}, 400, "missing_parameter", "language"),
        ({"language": "english!"}, 400, "bad_value", "language"),
        ({"language": "de"}, 400, "no_voice", "language"),
        ({"voice": ""}, 400, "bad_value", "voice"),
        ({"voice": 7}, 400, "bad_value", "voice"),
        ({"url": "http://elsewhere"}, 400, "unknown_parameter", "url"),
        ({"room_name": None}, 400, "missing_parameter", "room_name"),
        ({"room_name": "nobody is there"}, 404, "no_agent_in_room", "room_name"),
    ],
)
def test_what_cannot_be_said_is_refused(changes, status, code, parameter):
    async def test() -> None:
        agent = Answering()
        await agent.open()
        got, body = await agent.speak(token(agent=True), **changes)
        assert (got, body["error"]["code"], body["error"]["parameter"]) == (status, code, parameter)

    run(test)


def test_an_agent_without_a_voice_says_so_and_one_with_too_much_to_say():
    async def test() -> None:
        mute, agent = Answering(mute=True), Answering()
        await mute.open()
        await agent.open()
        status, body = await mute.speak(room_token())
        assert (status, body["error"]["code"]) == (404, "not_available")
        assert [(await agent.speak(room_token()))[0] for _ in range(agent_http.MOST_WAITING)] == [202] * 16
        status, body = await agent.speak(room_token())
        assert (status, body["error"]["code"]) == (503, "too_much_to_say")
        agent.voice.error = OSError("what was to be said")
        agent.voice.may_speak.set()
        await asyncio.sleep(0.05)
        assert (await agent.speak(room_token()))[0] == 202

    run(test)


@asynccontextmanager
async def served_within(apps: dict[str, Quart]):
    """Requests of httpx to these hosts go to these apps."""
    real = httpx.AsyncClient

    class Client(real):
        def __init__(self, **options: object) -> None:
            mounts = {f"http://{host}": httpx.ASGITransport(app) for host, app in apps.items()}
            super().__init__(mounts=mounts, **options)

    agent_http.httpx.AsyncClient = Client
    try:
        yield
    finally:
        agent_http.httpx.AsyncClient = real


@pytest.mark.parametrize("passes", [PASSES, None])
def test_any_agent_can_be_asked_to_speak_in_the_room_of_another(passes):
    async def test() -> None:
        memory = LeaseMemory()
        one, other = (Answering(memory=memory, url=f"http://{name}", passes=passes) for name in ("one", "other"))
        for each in (one, other):
            life = asyncio.create_task(each.pool.run())
            await until(lambda each=each: each.pool.agent_id in memory.records)
            life.cancel()
        await other.open()
        async with served_within({"other": other.app}):
            status, body = await one.speak(room_token())
            assert (status, list(body)) == (202, ["id"])
            status, body = await one.speak(room_token(), language="de")
            assert (status, body["error"]["code"]) == (400, "no_voice")
        other.voice.may_speak.set()
        await until(lambda: len(other.voice.said) == 1)
        assert one.voice.said == []

    run(test)


def test_who_asks_for_a_room_whose_agent_is_gone_or_unknown_is_told_to_come_again():
    async def test() -> None:
        memory = LeaseMemory()
        one, other = (Answering(memory=memory, url=f"http://{name}.invalid") for name in ("one", "other"))
        for each in (one, other):
            life = asyncio.create_task(each.pool.run())
            await until(lambda each=each: each.pool.agent_id in memory.records)
            life.cancel()
        await other.open()
        status, body = await one.speak(room_token())
        assert (status, body["error"]["code"]) == (503, "no_agent_there")

        async def away(room_name: str) -> RoomSeen:
            raise AwayError("it is played to be away")

        one.leases.look = away
        status, body = await one.speak(room_token())
        assert (status, body["error"]["code"]) == (503, "agents_unknown")

    run(test)


# ── who looks after it ───────────────────────────────────────────────────────────────────────────────────────────


def test_health_and_metrics_tell_of_rooms_and_name_none():
    async def test() -> None:
        agent = Answering()
        await agent.open()
        agent.rooms.lives[0].figures.update(tracks=3, captions=7)
        status, body = await agent.ask("GET", "/health")
        assert status == 200
        assert body["status"] == "healthy"
        assert body["capacity"] == {"rooms": 1, "most_rooms": 2, "tracks": 3, "most_tracks": 10}
        answer = await agent.app.test_client().get("/metrics")
        text = (await answer.get_data()).decode()
        for line in ("stt_agent_rooms 1.0", "stt_agent_tracks 3.0", "stt_agent_captions_total 7.0"):
            assert line in text.splitlines()
        assert ROOM not in text + json.dumps(body)
        status, body = await agent.ask("GET", "/elsewhere")
        assert (status, body["error"]["code"]) == (404, "not_found")

    run(test)
