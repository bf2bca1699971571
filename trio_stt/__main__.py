"""The command line: serve, transcribe, models, token, admin, fleet, cert, bench, drill, settings."""

from __future__ import annotations

import gc
import importlib
import sys
from functools import partial
from types import ModuleType
from typing import Any

import click

from trio_stt import __version__
from trio_stt.operations import allocator
from trio_stt.operations.gently import gently
from trio_stt.settings import SettingsError, load

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT, as shells count."""


class _Commands(click.Group):
    """Imports a command's module when it is used: `models` need not load the recogniser, nor `serve` a codec."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which one meets them."""
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in _MODULES:
            return None
        module, attribute = _MODULES[cmd_name].split(":")
        command: click.Command = getattr(_imported(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. Ctrl-C, while its module is imported too, ends the process as shells expect."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo("Aborted!", err=True)
            raise SystemExit(INTERRUPTED) from None


_MODULES = {
    "serve": "trio_stt.serve:serve_command",
    "transcribe": "trio_stt.transcribe.command:transcribe",
    "models": "trio_stt.models.commands:commands",
    "token": "trio_stt.token_command:token_command",
    "admin": "trio_stt.admin_command:admin",
    "fleet": "trio_stt.fleet.commands:fleet",
    "cert": "trio_stt.fleet.certificate:cert",
    "bench": "trio_stt.bench.commands:bench",
    "drill": "trio_stt.drill.commands:drill",
    "settings": "trio_stt.settings_reference:settings_command",
}


@click.command(cls=_Commands)
@click.version_option(__version__, prog_name="trio-stt")
def main() -> None:
    """Self-hosted real-time captions for calls."""


def run() -> None:
    """The program: the server is first given its allocator, before it loads anything."""
    if sys.argv[1:2] == ["serve"] and not allocator.is_chosen() and _wants_jemalloc():
        allocator.start_with_jemalloc()
    main()


def _imported(module: str) -> ModuleType:
    """The module, at low priority: that takes seconds, and on this machine other servers may be at work.

    Nothing that is imported is garbage: the collector, which would look again and again, rests meanwhile.
    """
    gc.disable()
    try:
        return gently(partial(importlib.import_module, module))
    finally:
        gc.enable()


def _wants_jemalloc() -> bool:
    try:
        return load().jemalloc
    except SettingsError:
        return False  # `serve` says what is wrong


if __name__ == "__main__":
    run()
