"""One step of the set-up: a command that is silent unless it fails, and that is never left running behind our back."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the repository, where every command runs."""

_SHOWN_LINES = 40
"""How much of a failed command's output is shown: the reason stands at its end."""


class SetupError(Exception):
    """A step failed. The message says what, and what to do about it."""


def say(message: str, end: str = "\n") -> None:
    """Tells the user, at once also in a pipe."""
    print(message, end=end, flush=True)


def run(
    title: str, command: Sequence[str | Path], *, folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> None:
    """Runs a command under a title; its output is shown only if it fails. Raises `SetupError`.

    However this is left, also by Ctrl-C, the command has ended before.
    """
    say(f"{title} … ", end="")
    begun = time.monotonic()
    code, output = _ended(command, subprocess.PIPE, folder, environment)
    _judge(title, code, output, begun)


@contextmanager
def beside(
    title: str, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Runs a command as `run` does, but while the block runs; waits for it behind that. Raises `SetupError`."""
    say(f"{title}: begun, beside what follows")
    begun = time.monotonic()
    # A file, not a pipe, which would be full before it is read.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield
            say(f"{title} … ", end="")
            code = process.wait()
        finally:
            _interrupt(process)
        output.seek(0)
        _judge(title, code, output.read(), begun)


def _judge(title: str, code: int, output: str, begun: float) -> None:
    if code != 0:
        say("failed")
        raise SetupError(f"{title}: exit code {code}\n" + "\n".join(output.splitlines()[-_SHOWN_LINES:]))
    say(f"{time.monotonic() - begun:.0f} s")


def run_shown(command: Sequence[str | Path]) -> int:
    """Runs a command that talks to the user itself; returns its exit code. Left only when the command has ended."""
    return _ended(command, None, ROOT, None)[0]


def ask(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Runs a short command for its answer."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def _ended(
    command: Sequence[str | Path], output: int | None, folder: Path, environment: Mapping[str, str] | None
) -> tuple[int, str]:
    errors = None if output is None else subprocess.STDOUT
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, text=True
    ) as process:
        try:
            printed, _ = process.communicate()
        finally:
            _interrupt(process)
    return process.returncode, printed or ""


def _interrupt(process: subprocess.Popen[Any]) -> None:
    """Ends it, if it has not ended."""
    if process.poll() is not None:
        return
    # Not terminate(): apt puts SIGINT off while dpkg writes; SIGTERM would leave half-installed packages.
    process.terminate() if os.name == "nt" else process.send_signal(signal.SIGINT)
    process.wait()
