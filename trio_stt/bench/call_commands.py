"""`trio-stt bench fanout` and `trio-stt bench bus`: what a call of many costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import trio
from rich.console import Console

from trio_stt.bench.bus_delay import BusUnreachableError, measure_bus
from trio_stt.bench.fanout import FanoutError, measure_fanout
from trio_stt.bench.figures import Figure, report
from trio_stt.operations.logs import configure_logs
from trio_stt.settings import SettingsError, load

json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the figures in this file.",
)


@click.command()
@json_option
@click.option("--listeners", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Of one call.")
@click.option("--captions", type=click.IntRange(10, 10_000), default=100, show_default=True, help="That are sent.")
def fanout(json_file: Path | None, listeners: int, captions: int) -> None:
    """Measure the CPU that sending a caption to each listener of a call costs."""
    figures = _measured(lambda: measure_fanout(listeners, captions))
    report(Console(), "bench fanout", {"listeners": listeners, "captions": captions}, figures, [], json_file)


@click.command()
@json_option
@click.option("--redis", "url", metavar="URL", help="The Redis to measure.  [default: REDIS_URL]")
@click.option("--captions", type=click.IntRange(10, 100_000), default=500, show_default=True, help="That are sent.")
@click.option("--every-ms", type=click.IntRange(1, 10_000), default=20, show_default=True, help="One in so long.")
def bus(json_file: Path | None, url: str | None, captions: int, every_ms: int) -> None:
    """Measure how long captions take from one instance to another over Redis."""
    try:
        url = url or load().redis_url
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    if not url:
        raise click.UsageError("There is no Redis to measure: set REDIS_URL, or give --redis redis://HOST:PORT.")
    figures = _measured(lambda: measure_bus(url, captions, every_ms / 1000))
    report(Console(), "bench bus", {"captions": captions, "every_ms": every_ms}, figures, [], json_file)


def _measured(measure: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    configure_logs("ERROR", "console")

    async def run() -> list[Figure]:
        return await measure()

    reasons: list[str] = []
    interrupted = False
    figures: list[Figure] = []
    try:
        figures = trio.run(run)
    except* (BusUnreachableError, FanoutError) as errors:
        reasons = [str(error) for error in errors.exceptions]
    except* KeyboardInterrupt:
        interrupted = True
    if interrupted:
        raise click.Abort
    if reasons:
        raise click.ClickException(reasons[0])
    return figures
