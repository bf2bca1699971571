"""Clients that come, speak and vanish, again and again, leave nothing behind."""

import gc
import threading

import psutil
import trio

from tests.server.conftest import running_server
from tests.server.test_misuse import masked, nothing_left, plain_upgrade
from trio_stt.app import load_vosk
from trio_stt.bench.speech import load_speech
from trio_stt.settings import Settings

CYCLES = 200
SETTLED = 50
"""After so many cycles every pool and cache has its size."""

MOST_GROWTH_MB = 10


class CountedEngine:
    """The real engine, counting its open recognisers."""

    def __init__(self, engine) -> None:
        self._engine = engine
        self.description = engine.description
        self.recogniser_limit = engine.recogniser_limit
        self.open_recognisers = 0

    def open(self):
        self.open_recognisers += 1
        return self._engine.open()

    def open_plain(self, options):
        self.open_recognisers += 1
        return self._engine.open_plain(options)

    def close(self, recogniser) -> None:
        self.open_recognisers -= 1
        self._engine.close(recogniser)


def tasks() -> int:
    """How many Trio tasks there are."""
    count = 0
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        count += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count


async def test_two_hundred_clients_that_vanish_while_speaking_leave_nothing(model):
    process = psutil.Process()
    speech = load_speech()[0].samples[:16000].tobytes()
    engine = CountedEngine(await trio.to_thread.run_sync(load_vosk, Settings(vosk_model_path=model)))

    async def settled() -> tuple[int, int, int]:
        await nothing_left(server)
        with trio.move_on_after(3):
            while tasks() > idle_tasks:
                await trio.sleep(0.02)
        gc.collect()
        return tasks(), threading.active_count(), process.num_fds()

    async with running_server(engine, vad_engine="silero") as server:
        idle_tasks = tasks()
        after: dict[int, tuple[int, int, int]] = {}
        memory_mb: dict[int, float] = {}
        for cycle in range(1, CYCLES + 1):
            stream = await plain_upgrade(server)
            for begin in range(0, len(speech), 3200):
                await stream.send_all(masked(speech[begin : begin + 3200]))
            await stream.aclose()
            await nothing_left(server)
            if cycle in (SETTLED, CYCLES):
                after[cycle] = await settled()
                memory_mb[cycle] = process.memory_info().rss / 1e6
    growth_mb = memory_mb[CYCLES] - memory_mb[SETTLED]
    print(f"after {SETTLED} and {CYCLES} cycles: (tasks, threads, files) {after}; memory grew by {growth_mb:.1f} MB")
    assert after[CYCLES] == after[SETTLED]
    assert growth_mb <= MOST_GROWTH_MB
