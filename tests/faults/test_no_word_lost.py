"""Real server processes are killed, frozen, stopped, and Redis with them, while people speak: every word, once.

What the server hears as speech is loud sound here, so it is known to the sample what has to be in a final.
"""

import random
import signal
import socket
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import trio

from tests.e2e.conftest import ServerProcess
from tests.server.redis_server import redis_server
from tests.unit.fakes import silence, sound
from trio_stt.client.resume_events import Ended, EndReason, Lost, Restarted, Resumed
from trio_stt.client.resuming_connection import open_resuming_stream
from trio_stt.dialects.events import Ready, StreamRequest, Transcript

RATE = 16000
SPEAKERS = 4
INSTANCES = 3
SECONDS = 14.0
READY = (Ready, Resumed, Restarted)
DOWN_S = 0.6


class Fleet:
    """Instances at fixed addresses that share a Redis; at least one is always ready."""

    def __init__(self, redis) -> None:
        self.redis = redis
        self.ports = []
        for _ in range(INSTANCES):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports.append(free.getsockname()[1])
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


class Speaker:
    """Says phrases and pauses of random lengths in real time; keeps what comes."""

    def __init__(self, number: int, seed: int) -> None:
        self.name = f"speaker-{number}"
        dice = random.Random(seed * 100 + number)
        parts, at = [silence(0.5)], 0.5
        self.phrases: list[tuple[int, int]] = []  # in samples
        while at < SECONDS:
            phrase, pause = dice.uniform(0.3, 3.0), dice.uniform(0.6, 1.5)
            self.phrases.append((round(at * RATE), round(at * RATE) + round(phrase * RATE)))
            parts += [sound(phrase), silence(pause)]
            at = sum(map(len, parts)) / RATE
        self.samples = np.concatenate(parts)
        self.events: list[object] = []

    async def run(self, addresses: list[str]) -> None:
        request = StreamRequest(self.name, f"call-{self.name}", partials=False)
        async with open_resuming_stream(addresses, request) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, stream)
            began = trio.current_time()
            for begin in range(0, len(self.samples), 1600):
                await trio.sleep_until(began + begin / RATE)
                await stream.send_audio(self.samples[begin : begin + 1600].tobytes())
            await stream.end()

    async def _listen(self, stream) -> None:
        async for event in stream:
            self.events.append(event)

    @property
    def instance(self) -> str:
        """The process that it speaks to."""
        told = [event for event in self.events if isinstance(event, READY)]
        ready = [event if isinstance(event, Ready) else event.ready for event in told[-1:]]
        return ready[0].instance.rpartition("-")[2] if ready else ""

    @property
    def finals(self) -> list[Transcript]:
        return [
            event
            for event in self.events
            if isinstance(event, Transcript) and event.is_final and event.client_id == self.name
        ]


def faults_of(phrases: list[tuple[int, int]], finals: list[Transcript]) -> list[str]:
    """What is wrong with the finals of who said these phrases: nothing may be missing, doubled or in disorder."""
    faults = []
    spans = [(final.start_sample, final.end_sample) for final in finals]
    faults += [f"{after} begins within {before}" for before, after in pairwise(spans) if after[0] < before[1]]
    names = [final.segment_id for final in finals]
    faults += [f"{name} came twice" for name in sorted({name for name in names if names.count(name) > 1})]
    for begin, end in phrases:
        covered = sum(max(0, min(end, last) - max(begin, first)) for first, last in spans)
        if covered != end - begin:
            faults.append(f"of the phrase {(begin, end)} {covered} samples are captioned, of {end - begin}")
    return faults


async def spoken_through(fleet: Fleet, seed: int, troubles: list[Callable], every_s: float) -> list[Speaker]:
    """People speak while one trouble after the other comes over the instances, never over the last that is ready."""
    dice = random.Random(seed)
    speakers = [Speaker(number, seed) for number in range(SPEAKERS)]
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:

            async def trouble() -> None:
                while True:
                    await trio.sleep(every_s)
                    used = {speaker.instance for speaker in speakers}
                    busy = [port for port in fleet.ports if f"{fleet.processes[port].pid}" in used]
                    await dice.choice(troubles)(fleet, dice.choice(busy or fleet.ports))

            async with trio.open_nursery() as speaking:
                for speaker in speakers:
                    speaking.start_soon(speaker.run, fleet.addresses)
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
    assert [event for speaker in speakers for event in speaker.events if isinstance(event, Resumed)]
    for speaker in speakers:
        assert faults_of(speaker.phrases, speaker.finals) == []
        assert not [event for event in speaker.events if isinstance(event, Lost | Restarted)]
        assert isinstance(speaker.events[-1], Ended)
        assert speaker.events[-1].reason is EndReason.FINISHED


def final(start: int, end: int, name: str = "") -> Transcript:
    return Transcript("call", "ann", "s", name or f"s-{start}", "w", True, "en", start, end, RATE, 0.0)


def test_the_checker_finds_what_is_missing_doubled_or_in_disorder():
    phrases = [(100, 200), (300, 400)]
    right = [final(90, 210), final(300, 400)]
    assert faults_of(phrases, right) == []
    assert faults_of(phrases, right[:1])
    assert faults_of(phrases, [*right, right[1]])
    assert faults_of(phrases, right[::-1])
    assert faults_of(phrases, [final(90, 199), right[1]])
    assert faults_of(phrases, [final(90, 210), final(205, 400)])
    assert faults_of(phrases, [final(90, 210, "same"), final(300, 400, "same")])
