"""`trio-stt fleet`: the local fleet's commands; `scripts/scale-deploy.sh` calls the first six.

Most of what they need is imported when they need it: `keep` stays beside each process for days, and is to be small;
`instance` becomes the server, and is to be quick.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from trio_stt.fleet.folder import MOST_INSTANCES, FleetError
from trio_stt.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from trio_stt.fleet.local_fleet import LocalFleet

HONCHO_DRAIN_S = 4.0
"""honcho kills what has not ended 5 s after SIGTERM."""

_TABLE_WIDTH = 120

_INSTANCES = click.IntRange(1, MOST_INSTANCES)


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


def _do(act: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    """What goes wrong becomes a message."""
    try:
        act(*arguments, **more)
    except FleetError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'the system'}: {error.strerror or error}") from error


def _fleet() -> LocalFleet:
    from trio_stt.fleet.local_fleet import LocalFleet

    return LocalFleet(_settings(), click.echo)


def _log(line: str) -> None:
    click.echo(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}")


@click.group("fleet")
def fleet() -> None:
    """Several instances on this machine behind nginx: started, scaled, restarted and kept alive as one service."""
    if sys.platform == "win32":
        raise click.UsageError("The local fleet needs Linux; on Windows: scripts/scale-deploy.ps1, in containers.")


@fleet.command()
@click.argument("instances", type=_INSTANCES)
@click.option("--most", type=_INSTANCES, help="Up to so many, as many as are needed.  [default: a fixed number]")
def start(instances: int, most: int | None) -> None:
    """Start that many instances, nginx, and Redis if it is installed; returns when all are ready."""
    _do(_fleet().start, instances, most)


@fleet.command()
@click.argument("instances", type=_INSTANCES)
@click.option("--most", type=_INSTANCES, help="Up to so many, as many as are needed.  [default: a fixed number]")
def scale(instances: int, most: int | None) -> None:
    """Change their number; who is talking goes on, instances that go drain first."""
    _do(_fleet().scale, instances, most)


@fleet.command()
def restart() -> None:
    """Restart all instances, one at a time, each when the last one is ready."""
    _do(_fleet().restart)


@fleet.command()
def status() -> None:
    """Show each instance's state, streams, capacity, memory and version."""
    from rich.console import Console

    width = shutil.get_terminal_size((_TABLE_WIDTH, 24)).columns
    _do(_fleet().show_status, Console(width=max(width, _TABLE_WIDTH), highlight=False).print)


@fleet.command()
@click.argument("process", required=False)
@click.option("-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="How many of each.")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
def logs(process: str | None, lines: int, follow: bool) -> None:
    """Show the last log lines of a process (a name from `status`), or of all."""

    def show() -> None:
        files = _fleet().log_files(process)
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)])

    _do(show)


@fleet.command()
def stop() -> None:
    """Drain and end all instances, then nginx and the rest; leaves logs and nothing else."""
    _do(_fleet().stop)


@fleet.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--end-by", type=click.Choice(["TERM", "INT", "QUIT"]), help="The signal that ends it.  [default: ours]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def keep(end_by: str | None, command: tuple[str, ...]) -> None:
    """Run a command and start it again whenever it ends, until SIGTERM, SIGINT or SIGHUP, which is passed on."""
    import trio

    from trio_stt.fleet.keep import keep_command

    def run() -> None:
        number = signal.Signals[f"SIG{end_by}"] if end_by else None
        say = partial(click.echo, err=True)
        sys.exit(trio.run(partial(keep_command, command, lambda line: say(f"{command[0]} {line}"), end_by=number)))

    _do(run)


_OF = click.option("--of", "of", type=_INSTANCES, help="How many instances there are.  [default: as scale-deploy says]")


@fleet.command(hidden=True)
@click.argument("number", type=_INSTANCES)
@_OF
def instance(number: int, of: int | None) -> None:
    """Become one instance; with --of in a Procfile."""
    from trio_stt.fleet.instance_process import become_instance

    drain_at_most_s = None if of is None else HONCHO_DRAIN_S
    _do(become_instance, _settings(), number, of=of, drain_at_most_s=drain_at_most_s)


@fleet.command(hidden=True)
@_OF
def nginx(of: int | None) -> None:
    """Become nginx, in front of the instances; with --of in a Procfile."""
    from trio_stt.fleet.processes import become_nginx

    _do(become_nginx, _settings(), of=of)


@fleet.command(hidden=True)
def redis() -> None:
    """Become Redis, for the instances, unless REDIS_URL is set or it is not installed."""
    from trio_stt.fleet.processes import become_redis

    _do(become_redis, _settings(), _log)


@fleet.command(hidden=True)
@click.option("--honcho", is_flag=True, help="Ends within the time that honcho gives.")
def agent(honcho: bool) -> None:
    """Become the LiveKit agent, unless LIVEKIT_URL is not set or its packages are not installed."""
    from trio_stt.fleet.processes import become_agent

    _do(become_agent, _settings(), _log, drain_at_most_s=HONCHO_DRAIN_S if honcho else None)


@fleet.command(hidden=True)
def conductor() -> None:
    """Bring the fleet to what scale-deploy asked for."""
    from trio_stt.fleet.processes import run_conductor

    _do(run_conductor, _settings(), _log)


@fleet.command(hidden=True)
@click.option("--of", "of", type=_INSTANCES, required=True, help="How many instances there are.")
def probes(of: int) -> None:
    """Have nginx leave out those of a fixed number of instances that do not answer."""
    from trio_stt.fleet.processes import run_probes

    _do(run_probes, _settings(), of, _log)
