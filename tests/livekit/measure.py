"""What the agent costs, measured in real rooms: `python -m tests.livekit.measure tracks`, `cycles`, `lag`, `words`.

Not a test: the figures of docs/agent.md come from here. Everything runs on this machine, each part in a process of
its own; what is measured is the agent's process alone.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import httpx
import jwt
import numpy as np
import psutil
from livekit import rtc

from tests.e2e.conftest import ServerProcess, server_process
from tests.livekit.agents import agent_process, rooms_of, send_agent
from tests.livekit.livekit_server import livekit_server
from tests.livekit.people import FRAME, person
from tests.livekit.test_captions import all_final, heard_by, words_by_websocket
from tests.livekit_tokens import API_KEY, API_SECRET
from trio_stt.bench.speech import SAMPLE_RATE, Clip, load_speech, trimmed
from trio_stt.bench.word_errors import WordErrors, total, word_errors

SPEECH = 0.38
"""The share of the time that each speaks."""

MODEL = Path("models/vosk-model")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.livekit.measure", description=__doc__)
    commands = parser.add_subparsers(required=True)
    tracks = commands.add_parser("tracks", help="CPU of an agent that hears many speakers at once")
    tracks.add_argument("--tracks", type=int, default=30)
    tracks.add_argument("--rooms", type=int, default=3)
    tracks.add_argument("--seconds", type=float, default=60)
    tracks.set_defaults(run=measure_tracks)
    cycles = commands.add_parser("cycles", help="memory of an agent that goes into rooms and out of them")
    cycles.add_argument("--cycles", type=int, default=300)
    cycles.add_argument("--at-once", type=int, default=5)
    cycles.set_defaults(run=measure_cycles)
    lag = commands.add_parser("lag", help="how late captions come while the agent speaks, and while it does not")
    lag.add_argument("--rounds", type=int, default=8)
    lag.add_argument("--phrases", type=int, default=8)
    lag.set_defaults(run=measure_lag)
    words = commands.add_parser("words", help="word errors in the room, and of the same sound by WebSocket")
    words.add_argument("--people", type=int, default=6)
    words.set_defaults(run=measure_words)
    arguments = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and not without what was started
    arguments.pop("run")(**arguments)


# ── CPU ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_tracks(tracks: int, rooms: int, seconds: float) -> None:
    names = [f"room {number}" for number in range(rooms)]
    with (
        livekit_server() as livekit,
        server_process(VOSK_MODEL_PATH=str(MODEL)) as stt,
        agent_process(livekit.url, stt_url(stt), AGENT_EMPTY_ROOM_S="60") as (agent, agent_log),
        beside(hear, livekit.url, names) as hearer,
        ExitStack() as crowd,
    ):
        for number, name in enumerate(names):
            count = tracks // rooms + (number < tracks % rooms)
            crowd.enter_context(beside(speak, livekit.url, name, count, number))
        for name in names:
            assert send_agent(agent, name) == "created"
        until(lambda: rooms_of(agent)["tracks"] == tracks, 120)
        time.sleep(10)  # streams are open, and the SDK has settled
        watched = {
            "agent": psutil.Process(agent_log.pid),
            "the SDK's AudioStreams alone": psutil.Process(hearer.pid),
            "server": psutil.Process(stt.pid),
            "livekit-server": psutil.Process(livekit.process.pid),
        }
        figures = {name: metric(agent, name) for name in ("captions", "drops")}
        before = {name: cpu_s(process) for name, process in watched.items()}
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        print(f"{tracks} tracks in {rooms} rooms, {SPEECH:.0%} speech, {took:.0f} s on {psutil.cpu_count()} cores")
        for name, process in watched.items():
            print(f"  {name}: {(cpu_s(process) - before[name]) / took:.3f} CPU s/s, {rss_mb(process):.0f} MB")
        for name, value in figures.items():
            print(f"  {name}: {metric(agent, name) - value:.0f}")


def speak(url: str, name: str, tracks: int, seed: int) -> None:
    """One participant of a room, who has so many microphones, each with somebody before it."""
    clips = [trimmed(clip).samples for clip in load_speech()]

    async def one(room: rtc.Room, number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=200)
        track = rtc.LocalAudioTrack.create_audio_track(f"microphone {number}", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=True)
        await room.local_participant.publish_track(track, options)
        sound = np.zeros(round(dice.uniform(0, 5) * SAMPLE_RATE), np.int16)
        while True:
            for piece in np.array_split(sound, np.arange(FRAME, len(sound), FRAME)):
                await source.capture_frame(rtc.AudioFrame(piece.tobytes(), SAMPLE_RATE, 1, len(piece)))
            samples = dice.choice(clips)
            silence = np.zeros(round(len(samples) * (1 - SPEECH) / SPEECH), np.int16)
            sound = np.concatenate([samples, silence])

    async def everybody() -> None:
        async with person(url, name, "crowd") as crowd:
            await asyncio.gather(*(one(crowd.room, number) for number in range(tracks)))

    asyncio.run(everybody())


def hear(url: str, names: list[str]) -> None:
    """The same streams as the agent's, of which nothing is made."""

    async def read(track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=50, capacity=100)
        async for _ in stream:
            pass

    async def one(name: str) -> None:
        room, tasks = rtc.Room(), []
        room.on("track_subscribed", lambda track, *_: tasks.append(asyncio.create_task(read(track))))
        claims = {
            "iss": API_KEY,
            "sub": "hearer",
            "exp": int(time.time()) + 3600,
            "kind": "agent",
            "video": {"roomJoin": True, "room": name, "canSubscribe": True},
        }
        await room.connect(url, jwt.encode(claims, API_SECRET, "HS256"))
        await asyncio.Event().wait()

    async def all_rooms() -> None:
        await asyncio.gather(*(one(name) for name in names))

    asyncio.run(all_rooms())


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_cycles(cycles: int, at_once: int) -> None:
    with (
        livekit_server() as livekit,
        server_process(VOSK_MODEL_PATH=str(MODEL)) as stt,
        agent_process(livekit.url, stt_url(stt), AGENT_EMPTY_ROOM_S="0.5") as (agent, agent_log),
    ):
        context = multiprocessing.get_context("spawn")
        done = context.Value("i", 0)
        with beside(come_and_go, livekit.url, agent, cycles, at_once, done) as visitors:
            watched = psutil.Process(agent_log.pid)
            step, shown = max(1, cycles // 12), 0
            print("cycles  MB  threads  open files")
            while done.value < cycles and visitors.is_alive():
                if done.value >= shown:
                    print(
                        f"{done.value:6} {rss_mb(watched):4.0f} {watched.num_threads():7} {watched.num_fds():10}",
                        flush=True,
                    )
                    shown += step
                time.sleep(0.2)
            assert done.value == cycles
        time.sleep(5)
        print(f"{done.value:6} {rss_mb(watched):4.0f} {watched.num_threads():7} {watched.num_fds():10}")
        until(lambda: not rooms_of(agent)["rooms"], 30)
        print(f"captions: {metric(agent, 'captions'):.0f}, failures: {metric(agent, 'room_failures'):.0f}")


def come_and_go(url: str, agent: str, cycles: int, at_once: int, done) -> None:
    clip = trimmed(min(load_speech(), key=lambda clip: clip.seconds)).samples

    async def one(number: int) -> None:
        name = f"cycle {number % at_once}"
        async with person(url, name, "ann") as ann:
            result = ""
            while result != "created":
                result = await asyncio.to_thread(send_agent, agent, name)
                await asyncio.sleep(0.1)
            await ann.publish()
            await ann.until(lambda: any(each.kind == 4 for each in ann.room.remote_participants.values()))
            while not ann.finals("ann"):  # what is said before it is heard is not captioned
                await ann.say(clip)
                await asyncio.sleep(0.5)
        async with asyncio.timeout(30):
            while name in (await asyncio.to_thread(rooms_of, agent))["room_names"]:
                await asyncio.sleep(0.1)

    async def row(first: int) -> None:
        for number in range(first, cycles, at_once):
            await one(number)
            done.value += 1

    async def all_rows() -> None:
        await asyncio.gather(*(row(first) for first in range(at_once)))

    asyncio.run(all_rows())


# ── lag ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


SPOKEN = "The recording has started, and everybody can hear it, so please speak one after the other."
Lags = tuple[list[float], list[float]]

QUEUED = 3
"""So many announcements are with the agent while it speaks: it never waits for the next."""


def measure_lag(rounds: int, phrases: int) -> None:
    with (
        livekit_server() as livekit,
        server_process(VOSK_MODEL_PATH=str(MODEL)) as stt,
        agent_process(livekit.url, stt_url(stt)) as (agent, _),
    ):
        lags, announced = asyncio.run(_lags(livekit.url, agent, rounds, phrases))
    print(f"from a phrase's last sample to its final at another, hangover included; announcements: {dict(announced)}")
    for title, found in zip(("silent", "speaking"), lags, strict=True):
        print(
            f"  agent {title}: {len(found)} phrases, p50 {1000 * np.median(found):.0f} ms, p95 {p95_ms(found):.0f} ms"
        )
    print(f"  p95 rises by {p95_ms(lags[1]) - p95_ms(lags[0]):.0f} ms")


async def _lags(url: str, agent: str, rounds: int, phrases: int) -> tuple[Lags, Counter[str]]:
    """In s, while the agent is silent, and while it speaks, in turns; and what became of its announcements."""
    clips = sorted((trimmed(clip).samples for clip in load_speech()), key=len)[:phrases]
    lags: Lags = ([], [])
    async with person(url, "lag", "ann", {"agent_control": "true"}) as ann, person(url, "lag", "bob") as bob:
        assert await asyncio.to_thread(send_agent, agent, "lag") == "created"
        await ann.publish()
        while not (await asyncio.to_thread(rooms_of, agent))["tracks"]:
            await asyncio.sleep(0.1)

        def statuses() -> list[str]:
            return [json.loads(data)["status"] for topic, data in ann.messages if topic == "tts_status"]

        async def announce() -> None:
            told = len(statuses())
            while True:
                while told - len(statuses()) < QUEUED:
                    message = {"text": SPOKEN, "language": "en", "id": str(told)}
                    await ann.room.local_participant.publish_data(json.dumps(message), topic="tts_control")
                    told += 1
                await asyncio.sleep(0.1)

        for number in range(2 * rounds):
            announcing = asyncio.create_task(announce()) if number % 2 else None
            before = len(statuses())
            if announcing is not None:
                await ann.until(lambda before=before: len(statuses()) > before, 120)
            for clip in clips:
                await ann.say(clip)
                said_at = time.monotonic()
                await bob.until(lambda at=said_at: any(read.at > at for read in bob.finals("ann")))
                await asyncio.sleep(1)
                last = max(read.at for read in bob.finals("ann"))
                lags[number % 2].append(last - said_at)
            if announcing is not None:
                announcing.cancel()
                await asyncio.sleep(15)  # it says what it was told
        return lags, Counter(statuses())


def p95_ms(seconds: list[float]) -> float:
    return 1000 * float(np.percentile(seconds, 95))


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_words(people: int) -> None:
    with (
        livekit_server() as livekit,
        server_process(VOSK_MODEL_PATH=str(MODEL)) as stt,
        agent_process(livekit.url, address := stt_url(stt)) as (agent, _),
    ):
        in_room, by_websocket = asyncio.run(_words(livekit.url, address, agent, people))
    for title, found in (("in the room", in_room), ("by WebSocket", by_websocket)):
        print(f"{title}: {found.errors} errors of {found.words} words, {100 * found.rate:.2f} %")
    print(f"in the room {100 * (in_room.rate - by_websocket.rate):+.2f} points")


async def _words(url: str, stt: str, agent: str, count: int) -> tuple[WordErrors, WordErrors]:
    """Everybody says all recordings, each in an order of his own, all at once."""
    dice = random.Random(1)
    pause = np.zeros(3 * SAMPLE_RATE // 2, np.int16)
    said: dict[str, list[Clip]] = {}
    for number in range(count):
        said[f"person {number}"] = dice.sample(load_speech(), len(load_speech()))
    sounds = {
        name: np.concatenate([part for clip in clips for part in (clip.samples, pause)]) for name, clips in said.items()
    }
    async with AsyncExitStack() as held:
        reader = await held.enter_async_context(person(url, "words", "reader"))
        speakers = [await held.enter_async_context(person(url, "words", name)) for name in said]
        assert await asyncio.to_thread(send_agent, agent, "words") == "created"
        for one in speakers:
            await one.publish()
        await heard_by(agent, count)
        await asyncio.gather(*(one.say(sounds[one.identity]) for one in speakers))
        await asyncio.sleep(5)
        await reader.until(lambda: all_final(reader))
        in_room = total(word_errors(_words_of(clips), reader.words(name)) for name, clips in said.items())
    alone = []
    for number, (name, clips) in enumerate(said.items()):
        alone.append(word_errors(_words_of(clips), await words_by_websocket(stt, number, sounds[name])))
    return in_room, total(alone)


def _words_of(clips: list[Clip]) -> list[str]:
    return [word for clip in clips for word in clip.words]


# ── helps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def beside(run: Callable, *arguments: object) -> Iterator[multiprocessing.Process]:
    """Runs it in a process of its own while the block runs."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def stt_url(stt: ServerProcess) -> str:
    return stt.wait_for("ready", 60)["url"].replace("http:", "ws:")


def metric(agent: str, name: str) -> float:
    for line in httpx.get(f"{agent}/metrics", trust_env=False).text.splitlines():
        if line.startswith(f"stt_agent_{name}_total "):
            return float(line.split()[1])
    raise KeyError(name)


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def rss_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def until(is_so: Callable[[], bool], within_s: float) -> None:
    limit = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.2)


if __name__ == "__main__":
    main()
