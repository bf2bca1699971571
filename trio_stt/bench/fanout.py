"""What it costs to send one caption to everybody in a call: sockets and all, without recognition."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from trio_stt.app import Instance
from trio_stt.bench.figures import Figure, percentiles
from trio_stt.bench.listeners import SESSION
from trio_stt.dialects.events import Transcript, Word
from trio_stt.serve import serve
from trio_stt.sessions.bus import Call
from trio_stt.settings import Settings, load

AT_MOST_US = 80.0
"""CPU that a listener of a caption may cost."""

PAUSE_S = 0.1
"""Between captions: each has been sent when the next comes."""

CONNECT_TIMEOUT_S = 60.0

_TEXT = "so the meeting is on thursday at half past nine in the large room upstairs"


class FanoutError(Exception):
    """The listeners could not be connected."""


async def measure_fanout(listeners: int, captions: int) -> list[Figure]:
    """Sends `captions` to so many listeners, who are another process. Raises `FanoutError`. May be cancelled."""
    made: list[Instance] = []

    def make_instance(settings: Settings) -> Instance:
        made.append(Instance(settings, load_engine=lambda _: _NoEngine()))
        return made[0]

    environment = {
        "SERVER_PORT": "0",
        "AUTH_MODE": "off",
        "VAD_ENGINE": "energy",
        "DECODE_COST": "0.001",
        "MAX_CONNECTIONS_PER_ADDRESS": "0",
        "SESSION_MAX_CLIENTS": str(listeners),
        "MAX_LISTENERS": str(listeners),
    }
    settings = load(environment, Path(os.devnull))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        start = partial(serve, settings, stop=stop, hurry=trio.Event(), make_instance=make_instance)
        url = await nursery.start(start)
        arguments = [sys.executable, "-m", "trio_stt.bench.listeners", url.replace("http:", "ws:"), str(listeners)]
        process = await trio.lowlevel.open_process(arguments, stdout=subprocess.PIPE)
        try:
            with trio.move_on_after(CONNECT_TIMEOUT_S):
                assert process.stdout is not None  # noqa: S101  (it is a pipe)
                await process.stdout.receive_some()
            (session,) = (each for each in made[0].sessions if each.call == Call("", SESSION))
            if len(session) != listeners:
                raise FanoutError(f"{len(session)} of {listeners} listeners connected")
            idle_s = await _cpu_of(captions, lambda number: None)
            events = [_caption(number) for number in range(captions)]
            loops_s: list[float] = []
            busy_s = await _cpu_of(captions, lambda number: session.deliver(events[number]), loops_s)
        finally:
            process.kill()
            stop.set()
    each_us = (busy_s - idle_s) / captions / listeners * 1e6
    return [
        Figure("CPU for each listener of a caption", each_us, "µs", at_most=AT_MOST_US),
        Figure("CPU for a caption", (busy_s - idle_s) / captions * 1000, "ms"),
        Figure("Event loop taken by a caption, p95", percentiles(loops_s).p95_ms, "ms"),
    ]


async def _cpu_of(count: int, act: Callable[[int], object], loops_s: list[float] | None = None) -> float:
    """CPU seconds of this thread while `act` is done `count` times, each in a pause of its own."""
    began = time.thread_time()
    for number in range(count):
        before = time.perf_counter()
        act(number)
        await trio.lowlevel.checkpoint()  # the senders' turn comes before ours
        await trio.lowlevel.checkpoint()
        if loops_s is not None:
            loops_s.append(time.perf_counter() - before)
        await trio.sleep(PAUSE_S)
    return time.thread_time() - began


def _caption(number: int) -> Transcript:
    words = tuple(Word(word, place / 2, place / 2 + 0.4, 0.9) for place, word in enumerate(_TEXT.split()))
    start = number * 48000
    ids = ("speaker", "stream", f"stream-{number}")
    return Transcript(SESSION, *ids, _TEXT, True, "en", start, start + 48000, 16000, time.time(), words)


class _NoEngine:
    """An `Engine` for listeners alone."""

    recogniser_limit = None

    def __init__(self) -> None:
        self.description: dict[str, object] = {"engine": "none", "model": "none", "graph": "compiled"}

    def _refuse(self, *_: object) -> NoReturn:
        raise RuntimeError("nobody speaks in this benchmark")

    recogniser_mb = open = load_phrases = open_plain = close = unload = _refuse
