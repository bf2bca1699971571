"""The settings for people: a table in the terminal, the page `docs/settings.md` and the file `env.example`."""

from __future__ import annotations

import textwrap
from pathlib import Path

import attrs
import click
import environ
from attrs import frozen
from rich.console import Console
from rich.table import Table

from trio_stt.settings import Settings

_SECTIONS = {
    "SERVER_HOST": "Server",
    "AUTH_MODE": "Access",
    "LANGUAGE": "Recognition",
    "VAD_ENABLED": "Speech gate (voice activity detection)",
    "MAX_CONCURRENT_CLIENTS": "Streams and sessions",
    "RESUME_WINDOW_S": "Resume",
    "REDIS_URL": "Result bus",
    "FLEET_DIR": "The fleet",
    "LIVEKIT_URL": "The LiveKit agent",
    "VOSK_SAMPLE_RATE": "The vosk-server dialect",
    "STT_CIRCUIT_BREAKER_TIMEOUT": "Health and breaker",
}
"""The headings, each by the first setting below it."""

_DEFAULTS_OF_THE_MACHINE = {
    "INSTANCE": "host name and process id",
    "DECODE_CORES": "the cores this process may use",
}
"""Defaults that differ from machine to machine, in words."""

_PAGE_HEAD = """\
# Settings

Every setting is an environment variable. All commands also read the file `.env` in the folder they are started in; the
environment wins over it, an empty variable counts as unset. `cp env.example .env` gives a file to begin with. A wrong
value ends the command at once with a message that names the variable, the file it stands in and what is expected.

This page is printed by `trio-stt settings --markdown`, `env.example` by `trio-stt settings --env`.
"""

_ENV_HEAD = """\
# All settings with their defaults. Copy this file to .env and take away the # of what you change;
# variables of the environment win over .env.
"""


_EXPECTED = {
    "AUTH_KEYS": "kid:secret, separated by commas",
    "AUTH_KEY_FILES": "kid:file, separated by commas",
    "ALLOWED_ORIGINS": "origins, separated by commas, or *",
    "TRUSTED_PROXIES": "addresses or networks, separated by commas, or none",
    "ACCESS_TOKEN": "a token",
    "CACHE_DIR": "a path, or off",
    "REDIS_URL": "an address: redis://…, rediss://… or unix:///…",
    "AGENT_OWN_URL": "an address that begins with http:// or https://",
    "AGENT_URL": "addresses such as http://10.0.0.7:8080, separated by commas",
    "AGENT_CONTROLLERS": "identities, separated by commas",
    "LIVEKIT_API_KEY": "some text",
    "LIVEKIT_API_SECRET": "some text",
    "LIVEKIT_URL": "an address that begins with ws:// or wss://",
    "STT_URL": "an address that begins with ws:// or wss://",
}
"""What lists that may be empty consist of, and other values that a wrong one does not tell."""

_NO_VALUE = "\n"
"""Wrong for every setting that can be wrong, but for paths, where nearly everything is right."""


@frozen
class SettingHelp:
    """What a person needs to know of one setting; `default` is "" where there is none."""

    name: str
    default: str
    expects: str
    meaning: str
    section: str


def settings_help() -> list[SettingHelp]:
    """All settings in the order of `trio_stt.settings.Settings`."""
    found: list[SettingHelp] = []
    fields = attrs.fields(Settings)  # type: ignore[arg-type]  # environ.config makes an attrs class; mypy cannot see it
    expected = {field.name.upper(): _expectation(field) for field in fields}

    def collect(entries: list[dict[str, object]]) -> str:
        section = ""
        for entry in entries:
            name = str(entry["var_name"])
            section = _SECTIONS.get(name, section)
            default = _DEFAULTS_OF_THE_MACHINE.get(name) or _as_variable(entry["default"])
            found.append(SettingHelp(name, default, expected[name], str(entry["help_str"]), section))
        return ""

    environ.generate_help(Settings, formatter=collect)
    return found


def markdown(entries: list[SettingHelp]) -> str:
    """The page `docs/settings.md`."""
    lines = [_PAGE_HEAD.rstrip()]
    section = None
    for entry in entries:
        if entry.section != section:
            section = entry.section
            lines += ["", f"## {section}", "", "| variable | default | value | meaning |", "|---|---|---|---|"]
        default = entry.default if _is_in_words(entry) else f"`{entry.default}`" if entry.default else "none"
        cells = (f"`{entry.name}`", default, entry.expects, entry.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def env_example(entries: list[SettingHelp]) -> str:
    """The file `env.example`: every setting as a comment, so that a copy of it changes nothing."""
    lines = [_ENV_HEAD.rstrip()]
    section = None
    for entry in entries:
        if entry.section != section:
            section = entry.section
            lines += ["", f"# ── {section} ──"]
        default = f" Default: {entry.default}." if _is_in_words(entry) else ""
        lines += [
            "",
            *textwrap.wrap(
                f"{entry.meaning} ({entry.expects}){default}", 110, initial_indent="# ", subsequent_indent="# "
            ),
        ]
        lines.append(f"#{entry.name}=" + ("" if _is_in_words(entry) else entry.default))
    return "\n".join(lines) + "\n"


@click.command("settings")
@click.option("--markdown", "form", flag_value="markdown", help="Print the page docs/settings.md.")
@click.option("--env", "form", flag_value="env", help="Print the file env.example.")
def settings_command(form: str | None) -> None:
    """Print all settings: variable, default, possible values and meaning."""
    entries = settings_help()
    if form == "markdown":
        click.echo(markdown(entries), nl=False)
    elif form == "env":
        click.echo(env_example(entries), nl=False)
    else:
        _print_table(entries)


def _print_table(entries: list[SettingHelp]) -> None:
    table = Table("variable", "default", "value", "meaning")
    section = entries[0].section
    for entry in entries:
        if entry.section != section:
            section = entry.section
            table.add_section()
        table.add_row(entry.name, entry.default, entry.expects, entry.meaning)
    Console().print(table)


def _expectation(field: attrs.Attribute[object]) -> str:
    """What values a setting takes, in the words of its own error; but paths and lists may be empty."""
    name, convert = field.name.upper(), field.converter
    if name in _EXPECTED:
        return _EXPECTED[name]
    if not callable(convert):
        raise TypeError(f"{name} has no converter, which would say what it expects")
    try:
        if isinstance(convert(""), tuple):
            return "names, separated by commas"
        if isinstance(convert(_NO_VALUE), Path):
            return "a path"
    except ValueError as error:
        return str(error)
    raise TypeError(f"{name} takes everything, so nothing says what it expects: say it in _EXPECTED")


def _as_variable(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _is_in_words(entry: SettingHelp) -> bool:
    return entry.name in _DEFAULTS_OF_THE_MACHINE
