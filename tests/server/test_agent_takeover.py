"""Agents that are processes, servers and a real Redis: one agent a room, also when agents are killed, or Redis is."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import trio

from tests.livekit_tokens import API_KEY, API_SECRET
from tests.server.conftest import Server, guarded_server
from tests.server.redis_server import RedisServer, redis_server
from tests.tokens import KEYS, token
from trio_stt.drill.free_ports import free_ports
from trio_stt.settings import Secret

LIVEKIT = {"livekit_api_key": API_KEY, "livekit_api_secret": Secret(API_SECRET)}


class AgentProcess:
    """A played agent in a process of its own; `rooms`: those that it says it is in."""

    def __init__(self, name: str, redis: RedisServer | None, **settings: str) -> None:
        self.port = free_ports()
        self.name = name
        environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LD_LIBRARY_PATH")},
            "INSTANCE": name,
            "AUTH_KEYS": KEYS,
            "AGENT_PORT": str(self.port),
            "REDIS_URL": redis.url if redis else "",
            **settings,
        }
        command = [sys.executable, "-m", "tests.agent.played_agent"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.rooms: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, _, room = line.strip().partition(" ")
            (self.rooms.append if what == "in" else self.rooms.remove)(room)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self, number: int) -> int:
        """Its exit code, once it has ended by that signal."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._reading.join(5)
        return code

    def close(self) -> None:
        """Kills it, if it is there."""
        self.process.kill()
        self.process.wait()
        self._reading.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@contextmanager
def agents(*names: str, redis: RedisServer | None, **settings: str) -> Iterator[list[AgentProcess]]:
    with ExitStack() as held:
        found = [AgentProcess(name, redis, **settings) for name in names]
        for each in found:
            held.callback(each.close)
        until = time.monotonic() + 30
        for each in found:
            while True:
                try:
                    httpx.get(f"{each.url}/health", trust_env=False)
                    break
                except httpx.HTTPError:
                    assert each.process.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.05)
        yield found


async def ask(server: Server, path: str, room: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token(agent=True)}"}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(f"{server.http}/agent/{path}", json={"room_name": room}, headers=headers)


async def answer_to(server: Server, path: str, room: str) -> tuple[str, str | None]:
    """What came of it, and which agent it names (without the end of its id), asked again as long as it is 503."""
    with trio.fail_after(30):
        while True:
            said = await ask(server, path, room)
            if said.status_code != 503:
                body = said.json()
                return body["result"], (body["agent"] or "").rpartition("-")[0] or None
            await trio.sleep(0.2)


async def until(is_so, within_s: float = 20) -> float:
    """How long it took until it was so."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while not is_so():
            await trio.sleep(0.02)
    return trio.current_time() - began


def inside(found: list[AgentProcess]) -> list[str]:
    return sorted(room for each in found for room in each.rooms)


async def started(redis: RedisServer, *names: str, **settings: str) -> tuple[ExitStack, list[AgentProcess]]:
    held = ExitStack()
    found = await trio.to_thread.run_sync(lambda: held.enter_context(agents(*names, redis=redis, **settings)))
    return held, found


async def test_one_agent_is_in_each_room_and_when_it_is_killed_another_within_ten_seconds(redis):
    held, found = await started(redis, "one", "other", "third")
    rooms = [f"room {number}" for number in range(6)]
    with held:
        async with (
            guarded_server(redis_url=redis.url, **LIVEKIT) as server,
            guarded_server(redis_url=redis.url, **LIVEKIT) as second,
        ):
            answers: list[tuple[str, str | None]] = []

            async def join(each: Server, room: str) -> None:
                answers.append(await answer_to(each, "join", room))

            async with trio.open_nursery() as nursery:
                for room in rooms:
                    for each in (server, second) * 2:
                        nursery.start_soon(join, each, room)
            assert sorted(result for result, _ in answers) == ["created"] * 6 + ["exists"] * 18
            await until(lambda: inside(found) == rooms)

            victim = max(found, key=lambda each: len(each.rooms))
            assert victim.rooms
            living = [each for each in found if each is not victim]
            victim.end(signal.SIGKILL)
            took_s = await until(lambda: inside(living) == rooms)
            assert took_s < 10  # promised in docs/dispatch.md

            # An agent that ends hands its rooms on before its leases would have expired.
            going, staying = sorted(living, key=lambda each: len(each.rooms), reverse=True)
            assert await trio.to_thread.run_sync(going.end, signal.SIGTERM) == 0
            assert going.rooms == []
            await until(lambda: sorted(staying.rooms) == rooms)
            for room in rooms:
                assert await answer_to(second, "join", room) == ("exists", staying.name)
                assert await answer_to(server, "cancel", room) == ("cancelled", staying.name)
                assert await answer_to(second, "cancel", room) == ("absent", None)
            await until(lambda: staying.rooms == [])


async def test_an_agent_that_freezes_loses_its_rooms_and_leaves_them_when_it_thaws(redis):
    held, (one, other) = await started(redis, "one", "other")
    with held:
        async with guarded_server(redis_url=redis.url, **LIVEKIT) as server:
            await answer_to(server, "join", "r")
            await until(lambda: one.rooms + other.rooms == ["r"])
            frozen, awake = (one, other) if one.rooms else (other, one)
            os.kill(frozen.process.pid, signal.SIGSTOP)
            await until(lambda: awake.rooms == ["r"])
            os.kill(frozen.process.pid, signal.SIGCONT)
            await until(lambda: frozen.rooms == [])
            assert awake.rooms == ["r"]
            assert await answer_to(server, "join", "r") == ("exists", awake.name)


async def test_redis_lost_and_back_empty_changes_nothing_for_the_rooms(redis):
    held, found = await started(redis, "one", "other")
    with held:
        async with guarded_server(redis_url=redis.url, **LIVEKIT) as server:
            for room in ("a", "b"):
                await answer_to(server, "join", room)
            before = [list(each.rooms) for each in found]
            await trio.to_thread.run_sync(redis.stop)
            await trio.sleep(0.5)
            said = await ask(server, "join", "c")
            assert (said.status_code, said.json()["error"]["code"]) == (503, "agents_unknown")
            assert said.headers["Retry-After"] == "5"
            await trio.sleep(6)  # longer than leases last
            assert [each.rooms for each in found] == before
            await trio.to_thread.run_sync(redis.start)
            await trio.sleep(4)  # all have found it, and have said which rooms they have
            assert (await answer_to(server, "join", "a"))[0] == "exists"
            assert [each.rooms for each in found] == before
            assert (await answer_to(server, "join", "c"))[0] == "created"


async def test_without_redis_the_agents_of_agent_url_are_sent_and_with_redis_away_too(redis):
    held, found = await started(redis, "one", "other")
    with held:
        urls = tuple(each.url for each in found)
        async with guarded_server(redis_url=redis.url, agent_url=urls, **LIVEKIT) as server:
            assert (await answer_to(server, "join", "a"))[0] == "created"
            await trio.to_thread.run_sync(redis.stop)
            await trio.sleep(0.5)
            assert (await answer_to(server, "join", "b"))[0] == "created"
            assert (await answer_to(server, "join", "a"))[0] == "exists"
            await until(lambda: inside(found) == ["a", "b"])
            assert (await answer_to(server, "cancel", "b"))[0] == "cancelled"
            await until(lambda: inside(found) == ["a"])


async def test_rooms_over_what_the_agents_may_have_are_503(redis):
    held, found = await started(redis, "one", "other", AGENT_MAX_ROOMS="2")
    with held:
        async with guarded_server(redis_url=redis.url, **LIVEKIT) as server:
            for number in range(4):
                assert (await answer_to(server, "join", f"r{number}"))[0] == "created"
            said = await ask(server, "join", "one too many")
            assert (said.status_code, said.headers["Retry-After"]) == (503, "5")
            assert sorted(len(each.rooms) for each in found) == [2, 2]
            await answer_to(server, "cancel", "r0")
            assert (await answer_to(server, "join", "one too many"))[0] == "created"
