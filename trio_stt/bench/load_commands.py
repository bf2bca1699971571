"""The command line of the benchmarks that put a server under load: capacity, accuracy, overload, neighbours, churn."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from attrs import evolve

from trio_stt.bench.accuracy import AccuracyBench
from trio_stt.bench.call_members import Members
from trio_stt.bench.capacity import CapacityBench, Contender, Plan
from trio_stt.bench.churn import PART_S, ChurnBench
from trio_stt.bench.large_call import LargeCallBench
from trio_stt.bench.load_options import (
    CHECK_OPTION,
    SPEECH_OPTIONS,
    TWO_ARENAS,
    UNLIMITED,
    console,
    finish,
    load_options,
    loads_for,
    own_admission,
    read,
    run_bench,
    say,
    server_for,
    with_options,
)
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.neighbours import LONG_S, NeighboursBench, offenders, offending_sessions
from trio_stt.bench.overload import OverloadBench
from trio_stt.bench.plot import plot_lag
from trio_stt.bench.spoken_sessions import continuous_session
from trio_stt.bench.steps_table import steps_table
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import LIBRARY_SESSIONS


@click.command()
@with_options(*SPEECH_OPTIONS, *load_options(session_s=10, step_s=15))
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
@CHECK_OPTION
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
    common = read(options)
    plan = Plan(common.traffic, common.settle_s, common.measured_s, common.generators, common.hangover_left_s, turns)
    made: list[CapacityBench] = []

    async def run() -> None:
        async with server_for(common, UNLIMITED) as server:
            contenders = [Contender(server, first, streams)]
            if peer_url is not None:
                peer = MeasuredServer(peer_name, peer_url, Dialect(peer_dialect), peer_pid)
                contenders.append(Contender(peer, peer_first, peer_streams))
            made.append(CapacityBench(plan, contenders, common.clips, common.settings.model_path, say))
            await made[0].run()

    run_bench(run)
    console().print(steps_table(made[0].steps))
    if plot is not None:
        plot_lag(plot, f"{common.traffic.kind.value} speech, sessions of {common.traffic.session_s:g} s", made[0].steps)
    parameters = {"turns": turns, "compare": peer_url, "compare_dialect": peer_dialect}
    finish("bench capacity", common, parameters, made[0], check, made[0].measurements())


@click.command()
@with_options(*SPEECH_OPTIONS)
@click.option("--words", type=click.IntRange(1, 1_000_000), default=1500, show_default=True, help="At least so many.")
@click.option("--speakers", type=click.IntRange(1, 100_000), default=16, show_default=True, help="At once.")
@CHECK_OPTION
def accuracy(words: int, speakers: int, check: bool, **options: Any) -> None:
    """Compare the server's word error rate with the engine's alone: gains, telephone, noise, many orders."""
    common = read(options)
    made: list[AccuracyBench] = []

    async def run() -> None:
        async with server_for(common, UNLIMITED) as server:
            model, frame_ms = common.settings.model_path, common.traffic.frame_ms
            made.append(AccuracyBench(server, common.clips, model, words, speakers, frame_ms))
            await made[0].run(say)

    run_bench(run)
    finish("bench accuracy", common, {"words": words, "speakers": speakers}, made[0], check)


@click.command()
@with_options(*SPEECH_OPTIONS, *load_options(session_s=60, step_s=20))
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
@CHECK_OPTION
def overload(speakers: int, times: tuple[float, ...], check: bool, **options: Any) -> None:
    """Put more speakers on a server than it can serve; its own admission decides whom it lets in."""
    common = read(options)
    made: list[OverloadBench] = []

    async def run() -> None:
        async with server_for(common, own_admission(common.settings)) as server, loads_for(common, server) as bench:
            made.append(OverloadBench(bench, server, speakers, times, say))
            await made[0].run()

    run_bench(run)
    finish("bench overload", common, {"capacity": speakers, "times": list(times)}, made[0], check)


@click.command()
@with_options(*SPEECH_OPTIONS, *load_options(session_s=60, step_s=10))
@click.option("--speakers", type=click.IntRange(1, 100_000), required=True, help="The others.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Pairs of runs.")
@CHECK_OPTION
def neighbours(speakers: int, rounds: int, check: bool, **options: Any) -> None:
    """Measure what one client that misbehaves does to the others."""
    common = read(options)
    made: list[NeighboursBench] = []

    async def run() -> None:
        speech = continuous_session(common.clips, LONG_S, random.Random(0))
        extra = offending_sessions(speech, common.traffic.frame_ms, common.dialect)
        async with (
            server_for(common, own_admission(common.settings)) as server,
            loads_for(common, server, extra) as bench,
        ):
            company = offenders(LIBRARY_SESSIONS, common.dialect)
            made.append(NeighboursBench(bench, company, server, speakers, rounds, say))
            await made[0].run()

    run_bench(run)
    finish("bench neighbours", common, {"speakers": speakers, "rounds": rounds}, made[0], check, made[0].measured)


@click.command()
@with_options(*SPEECH_OPTIONS, *load_options(session_s=60, step_s=20))
@click.option("--speakers", type=click.IntRange(1, 100_000), required=True, help="The others.")
@click.option("--listeners", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Of the large call.")
@click.option("--talking", type=click.IntRange(1, 1000), default=4, show_default=True, help="In the translated call.")
@click.option("--translate", "language", default="pt", show_default=True, help="What its listener reads.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Of all three loads.")
@CHECK_OPTION
def call(speakers: int, listeners: int, talking: int, language: str, rounds: int, check: bool, **options: Any) -> None:
    """Measure what a call of many listeners, and a translated one, do to the others, and how soon translations come."""
    common = read(options)
    made: list[LargeCallBench] = []
    room = {
        "SESSION_MAX_CLIENTS": str(listeners + talking + 1),
        "MAX_LISTENERS": str(listeners + talking + 1),
        "TRANSLATION_CACHE": "0",  # the same few sentences are said again and again
    }
    speech = None if options["folder"] is None else str(options["folder"])

    async def run() -> None:
        async with server_for(common, UNLIMITED | room) as server, loads_for(common, server) as bench:
            url = f"ws://{server.host}:{server.port}"
            calls = {
                f"a call of {listeners} listeners": Members(url, 1, listeners, "", 0, speech),
                f"a call of {talking} that is translated": Members(url, talking, 1, language, 0, speech),
            }
            made.append(LargeCallBench(bench, server, calls, speakers, rounds, say))
            await made[0].run()

    run_bench(run)
    asked = {"speakers": speakers, "listeners": listeners, "talking": talking, "language": language, "rounds": rounds}
    finish("bench call", common, asked, made[0], check, made[0].measured)


@click.command()
@with_options(*SPEECH_OPTIONS, *load_options(session_s=10, step_s=PART_S))
@click.option("--speakers", type=click.IntRange(1, 100_000), required=True, help="At once; 70 % of the capacity.")
@click.option("--minutes", type=click.FloatRange(0.1, 10_000), default=60, show_default=True, help="How long.")
@CHECK_OPTION
def churn(speakers: int, minutes: float, check: bool, **options: Any) -> None:
    """Let speakers come and go for long, and watch the server's memory."""
    common = evolve(read(options), settle_s=0.0)
    if common.url is not None and common.pid is None:
        raise click.UsageError("--server needs --pid here: memory is what is measured.")
    made: list[ChurnBench] = []

    async def run() -> None:
        async with server_for(common, UNLIMITED | TWO_ARENAS) as server, loads_for(common, server) as bench:
            made.append(ChurnBench(bench, server, speakers, minutes, say))
            await made[0].run()

    run_bench(run)
    readings: list[Mapping[str, object]] = [{"at_s": at_s, "resident_mb": mb} for at_s, mb in made[0].readings]
    finish("bench churn", common, {"speakers": speakers, "minutes": minutes}, made[0], check, readings)
