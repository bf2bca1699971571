"""Runs all checks and then the tests; fails if any of them failed. With arguments: only pytest, with these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CHECKS = {
    "Format": ["ruff", "format", "--check"],
    "Style": ["ruff", "check"],
    "Types": ["mypy"],
    "Import layers": ["lint-imports"],
}
"""What is checked before the tests, by title: a command of the virtual environment."""


SIDE_BY_SIDE = ["--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
"""Half of the tests' time is waiting: two run at once, those of a file one after the other in the same process. In the
order of their folders, so that the long ones come first, and none of them alone at the end."""


def main(pytest_arguments: list[str]) -> int:
    """Returns the exit code. pytest comes last, so that its summary is the last thing printed."""
    failed = [] if pytest_arguments else [title for title, command in CHECKS.items() if not passes(title, command)]
    if failed:
        print(f"Failed checks: {', '.join(failed)}. The tests run all the same.", flush=True)
    code = subprocess.run([sys.executable, "-m", "pytest", *(pytest_arguments or SIDE_BY_SIDE)], cwd=ROOT).returncode
    return code or len(failed)


def passes(title: str, command: list[str]) -> bool:
    """Runs one check, showing its output only if it fails."""
    program, *arguments = command
    found = subprocess.run(
        [Path(sys.executable).parent / program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"{title}: {'passed' if found.returncode == 0 else 'FAILED'}", flush=True)
    if found.returncode != 0:
        print(found.stdout, flush=True)
    return found.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
