"""The command line of the benchmarks that put a server under load: capacity, accuracy, overload, neighbours, churn."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import trio
from attrs import evolve, frozen
from rich.console import Console

from trio_stt.bench.accuracy import AccuracyBench
from trio_stt.bench.capacity import CapacityBench, Contender, Plan
from trio_stt.bench.churn import PART_S, ChurnBench
from trio_stt.bench.figures import Figure, report
from trio_stt.bench.generator.load import FramedSession
from trio_stt.bench.generator.process import GeneratorError, Generators
from trio_stt.bench.measured_load import LoadBench
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.neighbours import LONG_S, NeighboursBench, offenders, offending_sessions
from trio_stt.bench.overload import OverloadBench
from trio_stt.bench.plot import plot_lag
from trio_stt.bench.server_process import ServerFailedError, start_server
from trio_stt.bench.speech import Clip, SpeechError, load_speech
from trio_stt.bench.spoken_sessions import continuous_session
from trio_stt.bench.steps_table import steps_table
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import LIBRARY_SESSIONS, Kind, Traffic, framed, record_sessions
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.settings import Settings, SettingsError, load

VOSK_SERVER_PATH = "/vosk-server"
"""Where our own server speaks that dialect."""

UNLIMITED = {"MAX_CONCURRENT_CLIENTS": "100000"}
"""So the server lets everybody in, and shows what it can bear."""

TWO_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""More arenas of the allocator would make memory creep upwards for hours without any being lost."""

_WIDTH = 140

_F = TypeVar("_F", bound=Callable[..., Any])


@frozen
class Common:
    """The options that all these benchmarks have, read and loaded."""

    settings: Settings
    clips: list[Clip]
    dialect: Dialect
    traffic: Traffic
    url: str | None
    pid: int | None
    settle_s: float
    measured_s: float
    generators: int
    json_file: Path | None

    @property
    def hangover_left_s(self) -> float:
        """The silence behind a final's `end_sample` that the server has to hear: the hangover without the post-roll."""
        hangover_ms = self.settings.vad_min_silence_duration_ms
        return (hangover_ms - min(self.settings.vad_post_roll_ms, hangover_ms)) / 1000

    @property
    def parameters(self) -> dict[str, object]:
        """What was asked for, to be saved with the figures."""
        return {
            "model": self.settings.model_path.name,
            "dialect": self.dialect.value,
            "traffic": self.traffic.kind.value,
            "session_s": self.traffic.session_s,
            "frame_ms": self.traffic.frame_ms,
            "settle_s": self.settle_s,
            "measured_s": self.measured_s,
            "generators": self.generators,
            "hangover_left_s": self.hangover_left_s,
            "server": self.url or "started here",
            "clips": len(self.clips),
        }


def common_options(session_s: float, step_s: float) -> Callable[[_F], _F]:
    """The options of `Common`, with these defaults."""
    options = [
        click.option(
            "--speech",
            "folder",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder of 16 kHz WAV files with transcriptions.  [default: Debian's pocketsphinx-testdata]",
        ),
        click.option(
            "--dialect",
            type=click.Choice([each.value for each in Dialect]),
            default="native",
            show_default=True,
            help="What the server is spoken to in.",
        ),
        click.option(
            "--traffic",
            type=click.Choice([each.value for each in Kind]),
            default="continuous",
            show_default=True,
            help="Speech without pauses, or 38 % speech.",
        ),
        click.option(
            "--session-s",
            type=click.FloatRange(1, 3600),
            default=session_s,
            show_default=True,
            help="About how long a session is; when it ends, the next begins on a new connection.",
        ),
        click.option(
            "--frame-ms", type=click.IntRange(10, 1000), default=100, show_default=True, help="Length of a frame."
        ),
        click.option(
            "--server",
            "url",
            metavar="URL",
            help="A running server (ws://HOST:PORT and its path).  [default: one is started]",
        ),
        click.option("--pid", type=int, help="Its process, if on this machine: for processor time and memory."),
        click.option(
            "--settle-s",
            type=click.FloatRange(0, 3600),
            default=5,
            show_default=True,
            help="Begin of each load that does not count.",
        ),
        click.option(
            "--step-s",
            "measured_s",
            type=click.FloatRange(1, 3600),
            default=step_s,
            show_default=True,
            help="How long each load is measured.",
        ),
        click.option(
            "--generators",
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            help="Processes that generate the load; at most one a core.",
        ),
        click.option(
            "--json",
            "json_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Save the figures in this file.",
        ),
    ]

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _read(options: Mapping[str, Any]) -> Common:
    try:
        settings, clips = load(), load_speech(options["folder"])
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SpeechError as error:
        raise click.ClickException(str(error)) from error
    return Common(
        settings=settings,
        clips=clips,
        dialect=Dialect(options["dialect"]),
        traffic=Traffic(Kind(options["traffic"]), options["session_s"], options["frame_ms"]),
        url=options["url"],
        pid=options["pid"],
        settle_s=options["settle_s"],
        measured_s=options["measured_s"],
        generators=options["generators"],
        json_file=options["json_file"],
    )


@click.command()
@common_options(session_s=10, step_s=15)
@click.option(
    "--streams",
    multiple=True,
    type=click.IntRange(1, 100_000),
    help="Measure this load (may be repeated), and look for no limit.",
)
@click.option(
    "--from",
    "first",
    type=click.IntRange(1, 100_000),
    default=8,
    show_default=True,
    help="First load where the limit is looked for.",
)
@click.option("--compare", "peer_url", metavar="URL", help="A second server, measured in turn with the first.")
@click.option("--compare-pid", "peer_pid", type=int, help="Its process, if on this machine.")
@click.option(
    "--compare-dialect",
    "peer_dialect",
    type=click.Choice([each.value for each in Dialect]),
    default="vosk-server",
    show_default=True,
    help="What it is spoken to in.",
)
@click.option("--compare-name", "peer_name", default="vosk-server", show_default=True, help="What it is called.")
@click.option(
    "--compare-streams",
    "peer_streams",
    multiple=True,
    type=click.IntRange(1, 100_000),
    help="As --streams, for the second server.",
)
@click.option(
    "--compare-from",
    "peer_first",
    type=click.IntRange(1, 100_000),
    default=6,
    show_default=True,
    help="As --from, for the second server.",
)
@click.option(
    "--turns",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    help="How often the search goes past the limit before it ends.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw lag against load as SVG.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def capacity(
    streams: tuple[int, ...],
    first: int,
    peer_url: str | None,
    peer_pid: int | None,
    peer_dialect: str,
    peer_name: str,
    peer_streams: tuple[int, ...],
    peer_first: int,
    turns: int,
    plot: Path | None,
    check: bool,
    **options: Any,
) -> None:
    """Find how many speakers a server holds in real time, beside another server and the engine alone."""
    common = _read(options)
    plan = Plan(common.traffic, common.settle_s, common.measured_s, common.generators, common.hangover_left_s, turns)
    made: list[CapacityBench] = []

    async def run() -> None:
        async with _server(common, UNLIMITED) as server:
            contenders = [Contender(server, first, streams)]
            if peer_url is not None:
                peer = MeasuredServer(peer_name, peer_url, Dialect(peer_dialect), peer_pid)
                contenders.append(Contender(peer, peer_first, peer_streams))
            made.append(CapacityBench(plan, contenders, common.clips, common.settings.model_path, say))
            await made[0].run()

    _run(run)
    parameters = {**common.parameters, "turns": turns, "compare": peer_url, "compare_dialect": peer_dialect}
    console = _console()
    console.print(steps_table(made[0].steps))
    kept = report(
        console,
        "bench capacity",
        parameters,
        made[0].figures,
        made[0].notes,
        common.json_file,
        made[0].measurements(),
    )
    if plot is not None:
        plot_lag(plot, f"{common.traffic.kind.value} speech, sessions of {common.traffic.session_s:g} s", made[0].steps)
    _check(check, kept)


@click.command()
@common_options(session_s=15, step_s=15)
@click.option("--words", type=click.IntRange(1, 1_000_000), default=1500, show_default=True, help="At least so many.")
@click.option("--speakers", type=click.IntRange(1, 100_000), default=16, show_default=True, help="At once.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def accuracy(words: int, speakers: int, check: bool, **options: Any) -> None:
    """Compare the server's word error rate with the engine's alone: gains, telephone, noise, many orders."""
    common = _read(options)
    made: list[AccuracyBench] = []

    async def run() -> None:
        async with _server(common, UNLIMITED) as server:
            model, frame_ms = common.settings.model_path, common.traffic.frame_ms
            made.append(AccuracyBench(server, common.clips, model, words, speakers, frame_ms))
            await made[0].run(say)

    _run(run)
    _finish("bench accuracy", common, {"words": words, "speakers": speakers}, made[0], check)


@click.command()
@common_options(session_s=60, step_s=20)
@click.option(
    "--capacity",
    "speakers",
    type=click.IntRange(1, 100_000),
    required=True,
    help="Speakers whom the server is meant for.",
)
@click.option(
    "--times",
    multiple=True,
    type=click.FloatRange(0.1, 100),
    default=(1.0, 2.0, 4.0),
    show_default=True,
    help="Loads, as multiples of that.",
)
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def overload(speakers: int, times: tuple[float, ...], check: bool, **options: Any) -> None:
    """Put more speakers on a server than it can serve; its own admission decides whom it lets in."""
    common = _read(options)
    made: list[OverloadBench] = []

    async def run() -> None:
        async with _server(common) as server, _loads(common, server) as bench:
            made.append(OverloadBench(bench, server, speakers, times, say))
            await made[0].run()

    _run(run)
    _finish("bench overload", common, {"capacity": speakers, "times": list(times)}, made[0], check)


@click.command()
@common_options(session_s=60, step_s=10)
@click.option("--speakers", type=click.IntRange(1, 100_000), required=True, help="The others.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Pairs of runs.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def neighbours(speakers: int, rounds: int, check: bool, **options: Any) -> None:
    """Measure what one client that misbehaves does to the others."""
    common = _read(options)
    made: list[NeighboursBench] = []

    async def run() -> None:
        speech = continuous_session(common.clips, LONG_S, random.Random(0))
        extra = offending_sessions(speech, common.traffic.frame_ms, common.dialect)
        async with _server(common, UNLIMITED) as server, _loads(common, server, extra) as bench:
            company = offenders(LIBRARY_SESSIONS, common.dialect)
            made.append(NeighboursBench(bench, company, server, speakers, rounds, say))
            await made[0].run()

    _run(run)
    _finish("bench neighbours", common, {"speakers": speakers, "rounds": rounds}, made[0], check, made[0].measured)


@click.command()
@common_options(session_s=10, step_s=PART_S)
@click.option("--speakers", type=click.IntRange(1, 100_000), required=True, help="At once; 70 % of the capacity.")
@click.option("--minutes", type=click.FloatRange(1, 10_000), default=60, show_default=True, help="How long.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def churn(speakers: int, minutes: float, check: bool, **options: Any) -> None:
    """Let speakers come and go for long, and watch the server's memory."""
    common = evolve(_read(options), settle_s=0.0)
    if common.url is not None and common.pid is None:
        raise click.UsageError("--server needs --pid here: memory is what is measured.")
    made: list[ChurnBench] = []

    async def run() -> None:
        async with _server(common, UNLIMITED | TWO_ARENAS) as server, _loads(common, server) as bench:
            made.append(ChurnBench(bench, server, speakers, minutes, say))
            await made[0].run()

    _run(run)
    readings: list[Mapping[str, object]] = [{"at_s": at_s, "resident_mb": mb} for at_s, mb in made[0].readings]
    _finish("bench churn", common, {"speakers": speakers, "minutes": minutes}, made[0], check, readings)


def say(text: str) -> None:
    """Tells on standard error what goes on."""
    click.echo(f"{text} …", err=True)


class _Bench(Protocol):
    figures: list[Figure]
    notes: list[str]


def _finish(
    name: str,
    common: Common,
    parameters: Mapping[str, object],
    bench: _Bench,
    check: bool,
    measurements: Sequence[Mapping[str, object]] = (),
) -> None:
    parameters = {**common.parameters, **parameters}
    kept = report(_console(), name, parameters, bench.figures, bench.notes, common.json_file, measurements)
    _check(check, kept)


def _console() -> Console:
    """As wide as the terminal; wide enough for the tables where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def _check(wanted: bool, kept: bool) -> None:
    if wanted and not kept:
        raise SystemExit(1)


def _run(run: Callable[[], Awaitable[None]]) -> None:
    try:
        trio.run(run)
    except (ServerFailedError, GeneratorError, ModelError, EngineError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.Abort from None


@contextlib.asynccontextmanager
async def _server(common: Common, environment: Mapping[str, str] | None = None) -> AsyncIterator[MeasuredServer]:
    """The server that was named, or one that is started for this."""
    if common.url is not None:
        yield MeasuredServer("server", common.url, common.dialect, common.pid)
        return
    async with start_server(environment) as started:
        path = VOSK_SERVER_PATH if common.dialect is Dialect.VOSK_SERVER else ""
        yield MeasuredServer("trio-stt", started.url + path, common.dialect, started.pid)


@contextlib.asynccontextmanager
async def _loads(
    common: Common, server: MeasuredServer, extra: Sequence[FramedSession] = ()
) -> AsyncIterator[LoadBench]:
    """Loads of the ordinary sessions; `extra` ones stand behind them in the library."""
    sessions = record_sessions(common.clips, common.traffic)
    library = [framed(session, common.traffic.frame_ms, server.dialect) for session in sessions] + list(extra)
    with Generators(library, common.generators) as generators:
        yield LoadBench(generators, sessions, library, common.hangover_left_s, common.settle_s, common.measured_s)
