"""The options and the course that the benchmarks under load have in common."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import trio
from attrs import frozen
from rich.console import Console

from trio_stt.bench.accuracy import SESSION_S
from trio_stt.bench.figures import Figure, report
from trio_stt.bench.generator.load import FramedSession
from trio_stt.bench.generator.process import GeneratorError, Generators
from trio_stt.bench.measured_load import LoadBench
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.server_process import ServerFailedError, start_server
from trio_stt.bench.speech import Clip, SpeechError, load_speech
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import Kind, Traffic, framed, record_sessions
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.settings import Settings, SettingsError, load

VOSK_SERVER_PATH = "/vosk-server"
"""Where our own server speaks that dialect."""

UNLIMITED = {"MAX_CONCURRENT_CLIENTS": "100000", "MAX_LOAD": "100", "DECODE_COST": "0.000001"}
"""So the server lets everybody in as long as it keeps up, and shows what it can bear."""

TWO_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""More arenas of the allocator would make memory creep upwards for hours without any being lost."""

SETTLE_S = 5.0
"""Until a load is steady: all connections are open and the recognisers' caches warm."""

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


SPEECH_OPTIONS = (
    click.option(
        "--speech",
        "folder",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of 16 kHz WAV files with transcriptions.  [default: Debian's pocketsphinx-testdata]",
    ),
    click.option(
        "--dialect",
        type=click.Choice([each.value for each in Dialect]),
        default=Dialect.NATIVE.value,
        show_default=True,
        help="What the server is spoken to in.",
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
        "--generators",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Processes that generate the load; at most one a core.",
    ),
    click.option(
        "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Save the figures in this file."
    ),
)
"""What is said, how, to whom."""

CHECK_OPTION = click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")


def load_options(session_s: float, step_s: float) -> tuple[Callable[[_F], _F], ...]:
    """What a load is made of, with these defaults."""
    return (
        click.option(
            "--traffic",
            type=click.Choice([each.value for each in Kind]),
            default=Kind.CONTINUOUS.value,
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
            "--settle-s",
            type=click.FloatRange(0, 3600),
            default=SETTLE_S,
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
    )


def with_options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """A decorator that gives a command these options, in this order."""

    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def read(options: Mapping[str, Any]) -> Common:
    """The values of `SPEECH_OPTIONS` and `load_options`, with settings and speech loaded. Raises click's errors."""
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
        traffic=Traffic(
            Kind(options.get("traffic", Kind.CONTINUOUS)), options.get("session_s", SESSION_S), options["frame_ms"]
        ),
        url=options["url"],
        pid=options["pid"],
        settle_s=options.get("settle_s", 0.0),
        measured_s=options.get("measured_s", 0.0),
        generators=options["generators"],
        json_file=options["json_file"],
    )


def own_admission(settings: Settings) -> dict[str, str]:
    """So the server decides by itself whom it lets in, and does less for each as it gets busier."""
    return {"MAX_LOAD": str(settings.max_load), "DECODE_COST": str(settings.decode_cost)}


def say(text: str) -> None:
    """Tells on standard error what goes on."""
    click.echo(f"{text} …", err=True)


class Bench(Protocol):
    """What has been measured."""

    figures: list[Figure]
    notes: list[str]


def finish(
    name: str,
    common: Common,
    parameters: Mapping[str, object],
    bench: Bench,
    check: bool,
    measurements: Sequence[Mapping[str, object]] = (),
) -> None:
    """Prints and saves what `bench` found; ends the process with 1 if a target is missed and `check` is wanted."""
    parameters = {**common.parameters, **parameters}
    kept = report(console(), name, parameters, bench.figures, bench.notes, common.json_file, measurements)
    if check and not kept:
        raise SystemExit(1)


def console() -> Console:
    """As wide as the terminal; wide enough for the tables where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def run_bench(run: Callable[[], Awaitable[None]]) -> None:
    """Runs a benchmark to its end; what may go wrong with it becomes a message of click's."""
    try:
        trio.run(run)
    except (ServerFailedError, GeneratorError, ModelError, EngineError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.Abort from None


@contextlib.asynccontextmanager
async def server_for(common: Common, environment: Mapping[str, str] | None = None) -> AsyncIterator[MeasuredServer]:
    """The server that was named, or one that is started for this."""
    if common.url is not None:
        yield MeasuredServer("server", common.url, common.dialect, common.pid)
        return
    async with start_server(environment) as started:
        path = VOSK_SERVER_PATH if common.dialect is Dialect.VOSK_SERVER else ""
        yield MeasuredServer("trio-stt", started.url + path, common.dialect, started.pid)


@contextlib.asynccontextmanager
async def loads_for(
    common: Common, server: MeasuredServer, extra: Sequence[FramedSession] = ()
) -> AsyncIterator[LoadBench]:
    """Loads of the ordinary sessions; `extra` ones stand behind them in the library."""
    sessions = record_sessions(common.clips, common.traffic)
    library = [framed(session, common.traffic.frame_ms, server.dialect) for session in sessions] + list(extra)
    with Generators(library, common.generators) as generators:
        yield LoadBench(generators, sessions, library, common.hangover_left_s, common.settle_s, common.measured_s)
