"""Real server processes are killed, frozen, stopped, and Redis with them, while people speak: every word, once.

What the server hears as speech is loud sound here, so it is known to the sample what has to be in a final.
"""

import random
import signal
import socket
from collections.abc import Callable

import numpy as np
import pytest
import trio

from tests.e2e.conftest import ServerProcess
from tests.server.redis_server import redis_server
from tests.unit.fakes import silence, sound
from trio_stt.bench.speech import Clip
from trio_stt.client.resume_events import Interrupted, Resumed
from trio_stt.drill.checker import disorder, miscounted, visible_errors
from trio_stt.drill.free_ports import free_ports
from trio_stt.drill.script import Script
from trio_stt.drill.speaker import Speaker

RATE = 16000
SPEAKERS = 4
INSTANCES = 3
SECONDS = 14.0
DOWN_S = 0.6


class Fleet:
    """Instances at fixed addresses that share a Redis; at least one is always ready."""

    def __init__(self, redis) -> None:
        self.redis = redis
        self.ports = [free_ports() for _ in range(INSTANCES)]
        self.processes: dict[int, ServerProcess] = {}

    @property
    def addresses(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}" for port in self.ports]

    async def start(self, port: int) -> None:
        settings = {
            "SERVER_PORT": str(port),
            "VAD_ENGINE": "energy",
            "DECODE_COST": "0.001",
            "REDIS_URL": self.redis.url,
            "RESUME_SECRET": "x" * 40,
            "RESUME_WINDOW_S": "8",
            "DRAIN_TIMEOUT_S": "5",
            "TRANSLATION": "false",
        }
        process = ServerProcess(("tests.faults.fake_server",), **settings)
        self.processes[port] = process
        await trio.to_thread.run_sync(process.wait_for, "ready")

    def close(self) -> None:
        for process in self.processes.values():
            process.close()

    async def kill(self, port: int) -> None:
        self.processes[port].signal(signal.SIGKILL)
        await self._again(port)

    async def replace(self, port: int) -> None:
        self.processes[port].signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(self.processes[port].ended) == 0
        await self._again(port)

    async def freeze(self, port: int) -> None:
        self.processes[port].signal(signal.SIGSTOP)
        await trio.sleep(3)
        self.processes[port].signal(signal.SIGCONT)

    async def lose_redis(self, port: int) -> None:
        """It comes back empty."""
        self.redis.stop()
        await trio.sleep(1)
        self.redis.start()

    async def _again(self, port: int) -> None:
        old = self.processes[port]
        await trio.to_thread.run_sync(old.ended)
        old.close()
        await trio.sleep(DOWN_S)
        await self.start(port)


@pytest.fixture
async def fleet():
    with redis_server() as redis:
        fleet = Fleet(redis)
        try:
            async with trio.open_nursery() as nursery:
                for port in fleet.ports:
                    nursery.start_soon(fleet.start, port)
            yield fleet
        finally:
            fleet.close()


def speaker(number: int, seed: int) -> Speaker:
    """Says phrases and pauses of random lengths."""
    dice = random.Random(seed * 100 + number)
    parts, at = [silence(0.5)], 0.5
    phrases = []  # in samples
    while at < SECONDS:
        phrase, pause = dice.uniform(0.3, 3.0), dice.uniform(0.6, 1.5)
        phrases.append((round(at * RATE), round(at * RATE) + round(phrase * RATE)))
        parts += [sound(phrase), silence(pause)]
        at = sum(map(len, parts)) / RATE
    name = f"speaker-{number}"
    return Speaker(name, f"call-{name}", Script(Clip(name, np.concatenate(parts), ()), tuple(phrases)))


async def spoken_through(fleet: Fleet, seed: int, troubles: list[Callable], every_s: float) -> list[Speaker]:
    """People speak while one trouble after the other comes over the instances, never over the last that is ready."""
    dice = random.Random(seed)
    speakers = [speaker(number, seed) for number in range(SPEAKERS)]
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:

            async def trouble() -> None:
                while True:
                    await trio.sleep(every_s)
                    used = {each.instance.rpartition("-")[2] for each in speakers}  # of a name, the process
                    busy = [port for port in fleet.ports if f"{fleet.processes[port].pid}" in used]
                    await dice.choice(troubles)(fleet, dice.choice(busy or fleet.ports))

            async with trio.open_nursery() as speaking:
                for each in speakers:
                    speaking.start_soon(each.run, fleet.addresses)
                nursery.start_soon(trouble)
            nursery.cancel_scope.cancel()
    return speakers


@pytest.mark.parametrize(
    ("troubles", "every_s"),
    [
        ([Fleet.kill], 1.0),
        ([Fleet.replace], 0.5),
        ([Fleet.freeze], 0.5),
        ([Fleet.kill, Fleet.replace, Fleet.freeze, Fleet.lose_redis], 0.7),
    ],
    ids=["killed", "replaced", "frozen", "everything"],
)
async def test_every_word_is_captioned_once_whatever_happens_to_the_instances(fleet, troubles, every_s):
    speakers = await spoken_through(fleet, 1, troubles, every_s)
    assert [event for each in speakers for event in each.events if isinstance(event, Resumed)]
    for each in speakers:
        assert disorder(each.events, each.name) == []
        assert miscounted(each.script.phrases, each.finals) == []
        assert visible_errors(each.events) == []


async def test_a_frozen_instance_that_a_client_gave_up_does_not_end_its_stream_elsewhere_when_it_thaws(fleet):
    frozen, other = fleet.ports[:2]
    ann = speaker(1, 3)
    fleet.processes[frozen].signal(signal.SIGSTOP)
    with trio.fail_after(60), socket.create_connection(("127.0.0.1", frozen)) as waiting:
        waiting.sendall(
            f"GET /ws/vosk/?client_id={ann.name}&session_id=call-{ann.name}&framing=seq HTTP/1.1\r\n"
            "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await trio.sleep(1)
        waiting.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.run, [f"ws://127.0.0.1:{other}"])
            await trio.sleep(2)
            fleet.processes[frozen].signal(signal.SIGCONT)
            await trio.to_thread.run_sync(fleet.processes[frozen].wait_for, "connection_abandoned")
    assert miscounted(ann.script.phrases, ann.finals) == []
    assert visible_errors(ann.events) == []
    assert not [event for event in ann.events if isinstance(event, Interrupted)]
