"""nginx's worker processes, as the system shows them: a reload is done when no worker of before accepts any more.

Linux only: elsewhere none are found.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from trio_stt.fleet.folder import Folder

_LEAVING = b"shutting down"
"""What nginx adds to the title of a worker just before it closes its listening sockets."""


def accepting(folder: Folder) -> set[int]:
    """The workers that take new connections now. Blocks, for milliseconds."""
    master = _master(folder)
    return {pid for pid in _nginx_processes() if _parent(pid) == master and _LEAVING not in _title(pid)} - {master}


def are_shown() -> bool:
    """Whether this system shows processes, so that `accepting` finds workers where there are some."""
    return Path("/proc/self/cmdline").exists()


def end_orphans(folder: Folder) -> None:
    """Has the workers of a master that was killed give up its port; they serve those whom they have. Blocks."""
    killed = _master(folder)
    for pid in _nginx_processes() if killed else ():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == killed:
                os.kill(pid, signal.SIGQUIT)


def _master(folder: Folder) -> int:
    """As nginx wrote it down; 0 where none runs or was killed."""
    try:
        return int((folder.nginx / "nginx.pid").read_text())
    except (OSError, ValueError):
        return 0


def _nginx_processes() -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text() == "nginx\n":
                yield int(entry.name)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _title(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return _LEAVING  # it has gone
