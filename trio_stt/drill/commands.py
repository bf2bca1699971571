"""The command line of `trio-stt drill`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import trio
from rich.console import Console

from trio_stt.bench.figures import Figure, report
from trio_stt.bench.generator.process import GeneratorError
from trio_stt.bench.load import leaves
from trio_stt.bench.speech import SpeechError, load_speech
from trio_stt.drill import troubles
from trio_stt.drill.drill import Drill, Outcome, run_drill
from trio_stt.drill.drilled_fleet import MOST_INSTANCES
from trio_stt.drill.report import figures_of, notes_of
from trio_stt.drill.script import write_scripts
from trio_stt.fleet.folder import FleetError
from trio_stt.settings import SettingsError, load

UNDISTURBED = Drill("undisturbed", troubles.nothing, most_interruptions=0)

DRILLS = {
    each.name: each
    for each in (
        Drill("kill", troubles.kill, stall_p99_s=1.0),
        Drill("freeze", troubles.freeze, stall_p99_s=4.0, from_blow=True),
        Drill("restart", troubles.restart, stall_p99_s=0.25),
        Drill("scale", troubles.scale, stall_p99_s=0.25),
        Drill("reload", troubles.reload, most_interruptions=0),
        Drill("redis", troubles.redis, most_interruptions=0),
        Drill("redis-kill", partial(troubles.redis, kills=True), stall_p99_s=1.0),
        Drill("network", troubles.nothing, stall_p99_s=4.0, bad_network=True),
        Drill("overload", troubles.kill, stall_p99_s=1.0, crowd=True),
    )
}

_WIDTH = 130


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(DRILLS)))
@click.option("--speakers", type=click.IntRange(1, 1000), default=20, show_default=True, help="Who talk at once.")
@click.option("--seconds", type=click.FloatRange(10, 3600), default=180, show_default=True, help="For so long.")
@click.option(
    "--instances", type=click.IntRange(2, MOST_INSTANCES), default=3, show_default=True, help="In the fleet at first."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is said and what is done.")
@click.option(
    "--speech",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of 16 kHz WAV files with transcriptions.  [default: Debian's pocketsphinx-testdata]",
)
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep the fleets' logs in this folder.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Save the figures.")
@click.option("--check", is_flag=True, help="Exit with 1 if a target is missed.")
def drill(
    names: tuple[str, ...],
    speakers: int,
    seconds: float,
    instances: int,
    seed: int,
    folder: Path | None,
    logs: Path | None,
    json_file: Path | None,
    check: bool,
) -> None:
    """Hurt a fleet of your own while people talk on it, and count what they lose: nothing.

    All drills by default. Before them the same is said undisturbed, to compare with.
    """
    try:
        settings, clips = load(), load_speech(folder)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SpeechError as error:
        raise click.ClickException(str(error)) from error
    scripts = write_scripts(clips, speakers, seconds, seed)
    outcomes: list[Outcome] = []

    async def run() -> None:
        for each in [UNDISTURBED, *(DRILLS[name] for name in names or DRILLS)]:
            outcomes.append(
                await run_drill(
                    each,
                    scripts,
                    clips,
                    instances=instances,
                    model=settings.model_path.absolute(),
                    seed=seed,
                    logs_to=logs / each.name if logs else None,
                    say=lambda line: click.echo(line, err=True),
                )
            )

    interrupted = False
    failed: list[BaseException] = []
    try:
        trio.run(run)
    except* (FleetError, GeneratorError, OSError) as group:
        failed = list(leaves(group))
    except* KeyboardInterrupt:
        interrupted = True
    if failed:
        raise click.ClickException("; ".join(map(str, failed)))
    if interrupted:
        raise click.Abort
    figures: list[Figure] = [figure for each in outcomes for figure in figures_of(each, outcomes[0])]
    notes = [note for each in outcomes for note in notes_of(each)]
    parameters = {"speakers": speakers, "seconds": seconds, "instances": instances, "seed": seed}
    kept = report(Console(width=_WIDTH), "drill", parameters, figures, notes, json_file)
    if check and not kept:
        raise SystemExit(1)
