"""The command line of `trio-stt bench`."""

from __future__ import annotations

from pathlib import Path

import click
import structlog
import trio
from rich.console import Console

from trio_stt.bench.call_commands import bus, fanout
from trio_stt.bench.engine_figures import measure_engine
from trio_stt.bench.figures import report
from trio_stt.bench.load import LoadError
from trio_stt.bench.load_commands import accuracy, call, capacity, churn, neighbours, overload
from trio_stt.bench.load_options import say
from trio_stt.bench.server_figures import Plan, ServerBench
from trio_stt.bench.server_process import RunningServer, ServerFailedError
from trio_stt.bench.speech import Clip, SpeechError, load_speech
from trio_stt.bench.translation import TranslationBenchError, measure, sentences_of
from trio_stt.models.errors import ModelStoreError
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.settings import Settings, SettingsError, load
from trio_stt.translation.engine import TranslationError
from trio_stt.translation.engines import make_engines

PARTS = ("cpu", "latency", "memory")

SECONDS_FOR_A_CLIP = 5.0
"""About what a clip and the silence before it take, where latency is measured."""

speech_option = click.option(
    "--speech",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of 16 kHz WAV files with transcriptions.  [default: Debian's pocketsphinx-testdata]",
)
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the figures in this file.",
)


@click.group()
def bench() -> None:
    """Measure the engine alone, or the server under real speech."""


for command in (capacity, accuracy, overload, neighbours, call, churn, fanout, bus):
    bench.add_command(command)


@bench.command()
@speech_option
@json_option
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds that are counted.")
def engine(folder: Path | None, json_file: Path | None, rounds: int) -> None:
    """Measure the raw engine: the compiled graph against the shipped one, in turn, on one thread each."""
    settings, clips = _prepare(folder)
    console = Console()
    try:
        figures, notes = measure_engine(settings.model_path, clips, rounds, say)
    except (ModelStoreError, ModelError, EngineError) as error:
        raise click.ClickException(str(error)) from error
    parameters = {"model": settings.model_path.name, "rounds": rounds, **_described(clips)}
    report(console, "bench engine", parameters, figures, notes, json_file)


@bench.command()
@speech_option
@json_option
@click.option("--streams", type=click.IntRange(1, 1000), default=10, show_default=True, help="Speakers at once.")
@click.option("--seconds", type=click.FloatRange(5, 3600), default=60, show_default=True, help="Length of each part.")
@click.option(
    "--frame-ms", type=click.IntRange(10, 1000), default=100, show_default=True, help="Frames, where CPU is measured."
)
@click.option("--connected", type=click.IntRange(1, 10_000), default=50, show_default=True, help="For memory.")
@click.option("--only", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part (may be repeated).")
@click.option("--server", "url", metavar="URL", help="Measure a running server (ws://HOST:PORT); needs --pid.")
@click.option("--pid", type=int, help="Process of the running server, on this machine.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def server(
    folder: Path | None,
    json_file: Path | None,
    streams: int,
    seconds: float,
    frame_ms: int,
    connected: int,
    parts: tuple[str, ...],
    url: str | None,
    pid: int | None,
    check: bool,
) -> None:
    """Measure the server under real speech in real time, beside what it promises."""
    if (url is None) != (pid is None):
        raise click.UsageError("--server and --pid belong together.")
    settings, clips = _prepare(folder)
    plan = Plan(
        streams=streams,
        seconds=seconds,
        frame_ms=frame_ms,
        clips_each=max(1, round(seconds / SECONDS_FOR_A_CLIP)),
        connected=connected,
        connected_seconds=seconds,
        running=None if url is None or pid is None else RunningServer(url, pid),
        parts=frozenset(parts or PARTS),
    )
    measured = ServerBench(plan, clips, settings.model_path, say)
    try:
        trio.run(measured.run)
    except (ServerFailedError, LoadError, ModelError, EngineError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.Abort from None
    parameters = {
        "model": settings.model_path.name,
        "streams": streams,
        "seconds": seconds,
        "frame_ms": frame_ms,
        "connected": connected,
        "clips_each": plan.clips_each,
        **_described(clips),
    }
    kept = report(Console(), "bench server", parameters, measured.figures, measured.notes, json_file)
    if check and not kept:
        raise SystemExit(1)


@bench.command()
@click.argument("pair", default="en-pt")
@json_option
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def translation(pair: str, json_file: Path | None, check: bool) -> None:
    """Measure what restoring capitals and marks does for translation, and its delay; PAIR such as en-pt."""
    source, _, target = pair.partition("-")
    try:
        engine = next(
            (each for each in make_engines(load(), structlog.get_logger()) if (source, target) in (each.pairs or ())),
            None,
        )
        if engine is None:
            raise TranslationBenchError(f"no engine here translates {pair}; try: trio-stt models install {pair}")
        sentences = sentences_of(source)
        figures, notes = measure(engine, sentences, source, target, say)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except (TranslationBenchError, TranslationError) as error:
        raise click.ClickException(str(error)) from error
    parameters = {"engine": engine.name, "pair": pair, "utterances": len(sentences)}
    if not report(Console(), "bench translation", parameters, figures, notes, json_file) and check:
        raise SystemExit(1)


def _prepare(folder: Path | None) -> tuple[Settings, list[Clip]]:
    try:
        return load(), load_speech(folder)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SpeechError as error:
        raise click.ClickException(str(error)) from error


def _described(clips: list[Clip]) -> dict[str, object]:
    return {
        "clips": len(clips),
        "clip_seconds": round(sum(clip.seconds for clip in clips), 3),
        "words": sum(len(clip.words) for clip in clips),
    }
