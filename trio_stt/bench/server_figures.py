"""The server's figures: processor time against the raw engine's, latency of finals, memory, start."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import trio
from attrs import frozen

from trio_stt.bench.figures import Figure, percentiles
from trio_stt.bench.final_latency import final_latencies
from trio_stt.bench.load import Speaker, speak_all
from trio_stt.bench.process_usage import cpu_seconds, machine_cpu_seconds, resident_mb
from trio_stt.bench.replay import Replay, replay
from trio_stt.bench.script import continuous, conversation, separate
from trio_stt.bench.server_process import RunningServer, start_server
from trio_stt.bench.speech import Clip, trimmed
from trio_stt.bench.word_errors import total, word_errors
from trio_stt.recognition.call_recorder import RecordingReader
from trio_stt.recognition.engine import SAMPLE_RATE
from trio_stt.recognition.vosk_engine import VoskEngine, warm_up

MOST_TIMES_RAW = 1.7
MOST_FINAL_MS = {100: 500.0, 20: 400.0}
"""For each length of frames in ms: what 95 of 100 finals have to keep."""
MOST_RESIDENT_MB = 450.0
MOST_START_S = 3.0

MOST_LATE_S = 0.020
"""If 1 of 100 frames was sent later than this, it may be the load that was slow and not the server."""

MOST_OTHERS_CORES = 0.1
"""If other processes took more than this share of a core, the figures are not the server's alone."""

PAUSE_S = 1.2
"""Silence between the clips whose finals are timed: longer than any hangover in use."""

CALL_SIZE = 5
"""People in one simulated call; one of them speaks at a time."""

RECORD_CALLS = "TRIO_STT_RECORD_CALLS"
"""The server's variable for the file that it records its recogniser calls in."""

ROUND_S = 10.0
"""About how long the server works before the raw engine makes the same calls, and the server works again: the speed of
a shared machine drifts within a minute."""

_SETTLE_S = 0.5
"""Between ready and the first reading: what starting left to do is not the load's."""


@frozen
class Plan:
    """How much to measure. `running`: measure this server; None: start one for each part."""

    streams: int = 10
    seconds: float = 60.0
    frame_ms: int = 100
    clips_each: int = 12
    connected: int = 50
    connected_seconds: float = 60.0
    running: RunningServer | None = None
    parts: frozenset[str] = frozenset({"cpu", "latency", "memory"})


class ServerBench:
    """Measures one part after another and gathers `figures` and `notes`."""

    def __init__(self, plan: Plan, clips: Sequence[Clip], model: Path, say: Callable[[str], None]) -> None:
        """`model`: the folder of the model that the server uses; the raw engine is measured with it."""
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self._plan = plan
        self._clips = [trimmed(clip) for clip in clips]
        self._model = model
        self._say = say
        self._starts_s: list[float] = []

    async def run(self) -> None:
        """Measures all parts of the plan. Raises `ServerFailedError`, `LoadError`, `ModelError`. May be cancelled."""
        if "cpu" in self._plan.parts:
            await self._measure_cpu()
        if "latency" in self._plan.parts:
            for frame_ms in MOST_FINAL_MS:
                await self._measure_latency(frame_ms)
        if "memory" in self._plan.parts:
            await self._measure_memory()
        if self._starts_s:
            slowest = Figure(
                f"start to ready, slowest of {len(self._starts_s)}", max(self._starts_s), "s", MOST_START_S
            )
            self.figures.append(slowest)

    async def _measure_cpu(self) -> None:
        plan = self._plan
        rounds = max(1, round(plan.seconds / ROUND_S))
        self._say(f"Processor time: {plan.streams} speakers for {plan.seconds:g} s; raw engine in turn, {rounds} times")
        label = f"{plan.streams} streams, {plan.frame_ms} ms frames"
        server_s = audio_s = 0.0
        made: list[Replay] = []
        with tempfile.TemporaryDirectory(prefix="trio-stt-bench-") as folder:
            calls = Path(folder, "calls")
            raw = None if plan.running else await trio.to_thread.run_sync(self._load_raw)
            async with self._server({RECORD_CALLS: str(calls)}) as server:
                recording = None if raw is None else RecordingReader(calls)
                for number in range(rounds):
                    speakers = self._continuous_speakers(plan.seconds / rounds, number)
                    before_s = cpu_seconds(server.pid)
                    await self._speak(server, speakers, "processor time")
                    server_s += cpu_seconds(server.pid) - before_s
                    audio_s += sum(speaker.script.seconds for speaker in speakers)
                    if raw is not None and recording is not None:
                        made.append(await trio.to_thread.run_sync(replay, recording.new_calls(), raw, SAMPLE_RATE))
        self._add(f"server CPU per second of audio, {label}", server_s / audio_s, "s")
        if not made:
            self.notes.append("The raw engine was not measured: that needs a server that is started here.")
            return
        raw_s, within_s = sum(each.cpu_s for each in made), sum(each.recorded_cpu_s for each in made)
        self._add("raw engine CPU per second of audio, same calls", raw_s / audio_s, "s")
        self._add("those calls within the server", within_s / audio_s, "s")
        self._add("everything else in the server", (server_s - within_s) / audio_s, "s")
        self._add("audio that was decoded", 100 * sum(each.audio_s for each in made) / audio_s, "%")
        self._add("server CPU to the raw engine's", server_s / raw_s, "×", MOST_TIMES_RAW)

    def _continuous_speakers(self, seconds: float, number: int) -> list[Speaker]:
        return [
            Speaker(
                f"speaker-{n}",
                f"bench-{n}",
                continuous(self._clips, seconds, self._plan.frame_ms, _dice(1000 * number + n)),
            )
            for n in range(self._plan.streams)
        ]

    def _load_raw(self) -> VoskEngine:
        engine = VoskEngine(self._model, recogniser_memory_mb=1_000_000)
        warm_up(engine)
        return engine

    async def _measure_latency(self, frame_ms: int) -> None:
        plan = self._plan
        scripts = [separate(self._clips, plan.clips_each, PAUSE_S, frame_ms, _dice(n)) for n in range(plan.streams)]
        longest_s = max(script.seconds for script in scripts)
        self._say(f"Latency with {frame_ms} ms frames: {plan.streams} speakers for up to {longest_s:.0f} s")
        speakers = [Speaker(f"speaker-{n}", f"bench-{n}", script) for n, script in enumerate(scripts)]
        async with self._server() as server:
            await self._speak(server, speakers, f"latency with {frame_ms} ms frames")
        latencies = final_latencies(speakers)
        found = percentiles(latencies.seconds)
        label = f"{frame_ms} ms frames"
        self._add(f"final after the last sample, {label}, p50", found.p50_ms, "ms")
        self._add(f"final after the last sample, {label}, p95", found.p95_ms, "ms", MOST_FINAL_MS[frame_ms])
        self._add(f"final after the last sample, {label}, p99", found.p99_ms, "ms")
        self._add(f"clips without a final, {label}", latencies.without_final, f"of {found.count}", 0)
        said = {clip.name: clip.words for clip in self._clips}
        errors = total(
            word_errors([word for clip in each.script.clips for word in said[clip.name]], each.heard_words())
            for each in speakers
        )
        self._add(f"word error rate, {label}", 100 * errors.rate, "%")

    async def _measure_memory(self) -> None:
        plan = self._plan
        self._say(f"Memory: {plan.connected} connected, in calls of {CALL_SIZE}, for {plan.connected_seconds:g} s")
        speakers: list[Speaker] = []
        for call in range(-(-plan.connected // CALL_SIZE)):
            size = min(CALL_SIZE, plan.connected - len(speakers))
            scripts = conversation(self._clips, size, plan.connected_seconds, plan.frame_ms, _dice(call))
            speakers += [Speaker(f"speaker-{call}-{n}", f"bench-{call}", each) for n, each in enumerate(scripts)]
        async with self._server() as server:
            self._add("resident memory, nobody connected", resident_mb(server.pid), "MB")
            most_mb = 0.0
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal most_mb
                    while True:
                        most_mb = max(most_mb, resident_mb(server.pid))
                        await trio.sleep(0.25)

                nursery.start_soon(watch)
                await self._speak(server, speakers, "memory")
                nursery.cancel_scope.cancel()
        self._add(f"resident memory, {plan.connected} in calls of {CALL_SIZE}, peak", most_mb, "MB", MOST_RESIDENT_MB)

    @contextlib.asynccontextmanager
    async def _server(self, environment: Mapping[str, str] | None = None) -> AsyncIterator[RunningServer]:
        if self._plan.running is not None:
            yield self._plan.running
            return
        async with start_server(environment) as server:
            if server.start_s is not None:
                self._starts_s.append(server.start_s)
            await trio.sleep(_SETTLE_S)
            yield server

    async def _speak(self, server: RunningServer, speakers: Sequence[Speaker], part: str) -> None:
        """Lets all speak, and notes if something else than the server may have made the figures."""
        ours = (server.pid, os.getpid())
        began_s = trio.current_time()
        before_s = machine_cpu_seconds() - sum(map(cpu_seconds, ours))
        await speak_all(server.url, speakers)
        others_s = machine_cpu_seconds() - sum(map(cpu_seconds, ours)) - before_s
        others_cores = others_s / (trio.current_time() - began_s)
        if others_cores > MOST_OTHERS_CORES:
            self.notes.append(f"{part}: other processes took {others_cores:.2f} of a core; measure on a quiet machine.")
        late = percentiles([time for speaker in speakers for time in speaker.late_s])
        if late.p99_ms > MOST_LATE_S * 1000:
            self.notes.append(
                f"{part}: 1 of 100 frames was sent {late.p99_ms:.0f} ms or more late: the machine, or this program, "
                "was too busy for these figures to be the server's alone."
            )

    def _add(self, name: str, value: float, unit: str, at_most: float | None = None) -> None:
        self.figures.append(Figure(name, value, unit, at_most))


def _dice(seed: int) -> random.Random:
    """The same course of a run every time."""
    return random.Random(seed)
