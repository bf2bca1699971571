"""One load on one server: what it did to the captions, and what it took of the machine."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence

import trio
from attrs import evolve, frozen

from trio_stt.bench.figures import Percentiles, percentiles
from trio_stt.bench.generator.load import FramedSession, Load, LoadResult, Talker
from trio_stt.bench.generator.process import GeneratorError, Generators
from trio_stt.bench.load import leaves
from trio_stt.bench.measured_server import MeasuredServer, ServerUsage
from trio_stt.bench.process_usage import cpu_seconds, machine_cpu_seconds
from trio_stt.bench.speech import Clip
from trio_stt.bench.stream_lag import Answered, answers, heard_words, is_whole, session_ends
from trio_stt.bench.traffic import goodbye, target
from trio_stt.bench.word_errors import WordErrors, total, word_errors

LAST_WORDS_S = 10.0
"""After the last frame the server gets so long for what is left."""

MOST_LATE_S = 0.020
"""If 1 of 100 frames was sent later than this, it may be the load that was slow and not the server."""

MOST_GENERATOR_CORES = 0.7
"""A generating process that is busier than this can no longer keep its times."""

MOST_OTHERS_CORES = 0.1
"""If other processes took more than this share of a core, the figures are not the server's alone."""

_AHEAD_S = 0.2  # for the load's way to its process
_LOOK_S = 0.25


@frozen
class Usage:
    """Processor seconds for each second of audio that was sent, where they can be told apart; None: not known."""

    decoder_s: float
    gate_s: float | None
    server_s: float
    """All the rest of the server, the gate as well where that is not known by itself."""
    decoded_audio_s: float | None
    """For each second that was sent."""
    resident_mb: float
    """The most that was seen."""

    @property
    def total_s(self) -> float:
        """All of the server."""
        return self.decoder_s + (self.gate_s or 0.0) + self.server_s


@frozen
class Measured:
    """What one load showed. Times are of what was sent within the measured seconds."""

    server: str
    talkers: int
    lag: Percentiles | None
    """None: nothing that has an answer was sent."""
    last_words: Percentiles | None
    """From the goodbye to a session's last words."""
    errors: WordErrors
    """Over the sessions that were said from beginning to end."""
    unanswered: int
    refused: int
    dropped: int
    usage: Usage | None
    generator_s: float
    """Processor seconds for each second of audio."""
    generator_cores: float
    """The busiest generating process could be this busy."""
    microseconds_a_message: float
    """The generator's processor time."""
    late_p99_s: float
    others_cores: float
    found: tuple[Answered, ...]
    result: LoadResult

    def holds(self, most_lag_s: float) -> bool:
        """Whether 95 of 100 answers came within `most_lag_s` and nobody was refused or lost."""
        return (
            self.lag is not None
            and self.lag.p95_ms <= 1000 * most_lag_s
            and not self.refused
            and not self.dropped
            and not self.unanswered
        )

    def notes(self) -> list[str]:
        """What to know of this measurement."""
        label = f"{self.server}, {self.talkers} speakers"
        notes = []
        if self.late_p99_s > MOST_LATE_S or self.generator_cores > MOST_GENERATOR_CORES:
            notes.append(
                f"{label}: the load generator is the bottleneck: 1 of 100 frames was {1000 * self.late_p99_s:.0f} ms "
                f"late or more, and it took {self.generator_cores:.2f} of a core. The lags are not the server's alone."
            )
        if self.others_cores > MOST_OTHERS_CORES:
            notes.append(f"{label}: other processes took {self.others_cores:.2f} of a core; use a quiet machine.")
        return notes


class LoadBench:
    """Puts loads on servers, one after the other."""

    def __init__(
        self,
        generators: Generators,
        sessions: Sequence[Clip],
        library: Sequence[FramedSession],
        hangover_left_s: float,
        settle_s: float,
        measured_s: float,
    ) -> None:
        """`library`: the `sessions` as the generators have them; it may hold more behind them.

        Each load begins with `settle_s` that do not count. `hangover_left_s`: see `stream_lag.answers`.
        """
        self._generators = generators
        self._sessions = sessions
        self.library = library
        """All that can be said."""
        self._hangover_left_s = hangover_left_s
        self.settle_s = settle_s
        self.measured_s = measured_s
        self._serving: set[str] = set()  # addresses of servers that have let somebody in

    async def put(self, server: MeasuredServer, plan: Sequence[Talker], counted: int | None = None) -> Measured:
        """Lets `plan` talk to `server`; of it, the first `counted` (default: all) are looked at. May be cancelled.

        Raises `OSError`, also if the server lets nobody in and never has, `GeneratorError`.
        """
        counted = len(plan) if counted is None else counted
        begins_at = time.monotonic() + _AHEAD_S
        load = Load(
            server.host,
            server.port,
            target(server.path, server.dialect),
            goodbye(server.dialect),
            tuple(plan),
            begins_at,
            self.settle_s + self.measured_s,
            LAST_WORDS_S,
        )
        results: list[LoadResult] = []
        watch = _Watch(server, self._generators.pids)
        failed: list[BaseException] = []
        try:
            async with trio.open_nursery() as nursery:

                async def generate() -> None:
                    generating = self._generators.generate
                    results.append(await trio.to_thread.run_sync(generating, load, abandon_on_cancel=True))

                nursery.start_soon(generate)
                await watch.run(begins_at + self.settle_s, self.measured_s)
        except* (GeneratorError, OSError) as group:
            failed = list(leaves(group))
        if failed:
            raise failed[0]
        self._check_that_it_serves(server, results[0])
        await server.come_to_rest()
        return self._measured(server, counted, load, results[0], watch)

    def _check_that_it_serves(self, server: MeasuredServer, result: LoadResult) -> None:
        """Raises `OSError` if nobody was let in, now or before: then it is not the load that is too much for it."""
        if any(connection.accepted for connection in result.connections):
            self._serving.add(server.url)
        if server.url in self._serving:
            return
        answers = Counter(connection.status for connection in result.connections)
        told = ", ".join(
            f"{count} × {f'HTTP {status}' if status else 'no answer'}" for status, count in answers.items()
        )
        raise OSError(
            f"{server.name} ({server.url}) let nobody in: {told}. Is this its address, and open without a token?"
        )

    def _measured(
        self, server: MeasuredServer, counted: int, load: Load, result: LoadResult, watch: _Watch
    ) -> Measured:
        ours = [connection for connection in result.connections if connection.talker < counted]
        result = LoadResult(tuple(ours), result.late_s, result.over_at, result.cpu_s, result.messages)
        begin, end = load.begins_at + self.settle_s, load.begins_at + load.seconds
        found = tuple(
            evolve(each, audio_s=min(each.audio_s, each.sent_at - begin))  # what was said before does not count
            for each in answers(result, self.library, server.dialect, self._hangover_left_s)
            if begin <= each.sent_at < end
        )
        lasts = [each.latency_s for each in session_ends(result) if begin <= each.goodbye_at < end]
        said = [connection for connection in ours if is_whole(connection) and connection.session < len(self._sessions)]
        audio_s = counted * self.measured_s
        return Measured(
            server=server.name,
            talkers=counted,
            lag=percentiles([each.lag_s for each in found]) if found else None,
            last_words=_percentiles([each for each in lasts if each is not None]),
            errors=total(
                word_errors(self._sessions[each.session].words, heard_words(each, server.dialect)) for each in said
            ),
            unanswered=sum(not each.answered for each in found),
            refused=sum(connection.refused or connection.status == 0 for connection in ours),
            dropped=sum(connection.dropped for connection in ours),
            usage=watch.usage(audio_s),
            generator_s=watch.generators_s / audio_s,
            generator_cores=watch.busiest_generator_s / self.measured_s,
            microseconds_a_message=1e6 * result.cpu_s / max(1, result.messages),
            late_p99_s=percentiles(result.late_s).p99_ms / 1000 if result.late_s else 0.0,
            others_cores=watch.others_s / self.measured_s,
            found=found,
            result=result,
        )


class _Watch:
    """Reads the meters where the measured seconds begin and end."""

    def __init__(self, server: MeasuredServer, generators: Sequence[int]) -> None:
        self._server = server
        self._generators = generators
        self._used: tuple[ServerUsage, ServerUsage] | None = None
        self._resident_mb = 0.0
        self.generators_s = 0.0
        self.busiest_generator_s = 0.0
        self.others_s = 0.0

    async def run(self, begins_at: float, seconds: float) -> None:
        await trio.sleep(begins_at - time.monotonic())
        before = await self._server.usage()
        machine_s, each_s = machine_cpu_seconds(), [cpu_seconds(pid) for pid in self._generators]
        ours_s = cpu_seconds(os.getpid())
        while (left_s := begins_at + seconds - time.monotonic()) > 0:
            self._resident_mb = max(self._resident_mb, self._server.resident_mb() or 0.0)
            await trio.sleep(min(left_s, _LOOK_S))
        took_s = [cpu_seconds(pid) - before_s for pid, before_s in zip(self._generators, each_s, strict=True)]
        self.generators_s, self.busiest_generator_s = sum(took_s), max(took_s)
        after = await self._server.usage()
        self.others_s = machine_cpu_seconds() - machine_s - self.generators_s - (cpu_seconds(os.getpid()) - ours_s)
        if before is not None and after is not None:
            self._used = before, after
            self.others_s -= after.event_loop_cpu_s + after.other_threads_cpu_s
            self.others_s += before.event_loop_cpu_s + before.other_threads_cpu_s

    def usage(self, audio_s: float) -> Usage | None:
        """For each of `audio_s` seconds."""
        if self._used is None:
            return None
        before, after = self._used
        gate_s = _difference(before.gate_cpu_s, after.gate_cpu_s)
        decoded_s = _difference(before.decoded_audio_s, after.decoded_audio_s)
        return Usage(
            decoder_s=(after.other_threads_cpu_s - before.other_threads_cpu_s) / audio_s,
            gate_s=None if gate_s is None else gate_s / audio_s,
            server_s=(after.event_loop_cpu_s - before.event_loop_cpu_s - (gate_s or 0.0)) / audio_s,
            decoded_audio_s=None if decoded_s is None else decoded_s / audio_s,
            resident_mb=self._resident_mb,
        )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _percentiles(times_s: Sequence[float]) -> Percentiles | None:
    return percentiles(times_s) if times_s else None
