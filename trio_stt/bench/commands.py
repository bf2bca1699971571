"""The command line of `trio-stt bench`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from trio_stt.bench.engine_figures import measure_engine
from trio_stt.bench.figures import report
from trio_stt.bench.speech import Clip, SpeechError, load_speech
from trio_stt.models.errors import ModelStoreError
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.settings import Settings, SettingsError, load

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


@bench.command()
@speech_option
@json_option
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds that are counted.")
def engine(folder: Path | None, json_file: Path | None, rounds: int) -> None:
    """Measure the raw engine: the compiled graph against the shipped one, in turn, on one thread each."""
    settings, clips = _prepare(folder)
    console = Console()
    try:
        figures, notes = measure_engine(settings.model_path, clips, rounds, _say)
    except (ModelStoreError, ModelError, EngineError) as error:
        raise click.ClickException(str(error)) from error
    parameters = {"model": settings.model_path.name, "rounds": rounds, **_described(clips)}
    report(console, "bench engine", parameters, figures, notes, json_file)


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


def _say(text: str) -> None:
    click.echo(f"{text} …", err=True)
