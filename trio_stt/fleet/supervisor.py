"""supervisord as the fleet's process manager: it starts processes, restarts them, keeps their logs; we tell it which.

Each process has a program file of its own, so that one may come or go without the others (supervisor restarts a whole
group when its ``numprocs`` changes).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

from attrs import frozen

from trio_stt.fleet.folder import FleetError, Folder

STEADY_S = 10
"""A process that ends sooner after its start is started again with growing pauses."""

TRIES = 3
"""So many pauses, of 1, 2 and 3 s; what then does not run is `State.FATAL`, and started again more rarely, by us."""

STOP_BEYOND_DRAIN_S = 8
"""What an instance may take to end beyond its drain, before it is killed."""

_LOG_BYTES, _OLD_LOGS = "20MB", 3

_ALREADY = {60, 70}
"""Faults of supervisor's that say that it is already so: ALREADY_STARTED, NOT_RUNNING."""

_UNKNOWN = 10  # BAD_NAME


class State(Enum):
    """supervisor's states of a process."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"


@frozen
class Process:
    """One process: `pid` is 0 and `up_s` is 0 unless it runs."""

    name: str
    state: State
    pid: int
    up_s: float


@frozen
class Program:
    """What supervisor is to run. Higher `priority` is started later. `stop_s`: from SIGTERM until it is killed."""

    name: str
    command: tuple[str, ...]
    priority: int
    stop_s: float


def own_command(*arguments: str) -> tuple[str, ...]:
    """A command of `trio-stt fleet`."""
    return (sys.executable, "-m", "trio_stt", "fleet", *arguments)


def main_file(folder: Folder, *, directory: str) -> str:
    """supervisord.conf; `directory` is where all processes run and find `.env`."""
    return f"""\
[unix_http_server]
file={_path(folder.supervisor_socket)}
chmod=0600

[supervisord]
logfile={_path(folder.logs / "supervisord.log")}
logfile_maxbytes={_LOG_BYTES}
logfile_backups={_OLD_LOGS}
pidfile={_path(folder.root / "supervisord.pid")}
directory={_path(directory)}
nocleanup=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files=programs/*.conf
"""


def program_file(program: Program, folder: Folder) -> str:
    """Its file."""
    return f"""\
[program:{program.name}]
command={_command(program.command)}
priority={program.priority}
autostart=true
autorestart=true
startsecs={STEADY_S}
startretries={TRIES}
stopsignal=TERM
stopwaitsecs={round(program.stop_s)}
killasgroup=true
redirect_stderr=true
stdout_logfile={_path(folder.logs / f"{program.name}.log")}
stdout_logfile_maxbytes={_LOG_BYTES}
stdout_logfile_backups={_OLD_LOGS}
"""


class Supervisor:
    """The running supervisord. All methods block, for milliseconds, and raise `FleetError` where it does not answer."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def launch(self, programs: Sequence[Program], *, directory: str) -> None:
        """Starts it, as a daemon, with these programs. Returns when it answers. Raises `FleetError`."""
        for file in self._folder.programs.glob("*.conf"):
            file.unlink()
        for program in programs:
            self._write(program)
        configuration = self._folder.supervisor_configuration
        configuration.write_text(main_file(self._folder, directory=directory))
        started = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", configuration],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if started.returncode != 0:
            raise FleetError(f"supervisord does not start: {(started.stderr or started.stdout).strip()}")
        until = time.monotonic() + 10
        while not self.runs:
            if time.monotonic() > until:
                raise FleetError(f"supervisord does not answer; see {self._folder.logs / 'supervisord.log'}")
            time.sleep(0.05)

    @property
    def runs(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._call("getState"))
        except FleetError:
            return False

    def processes(self) -> list[Process]:
        """All that it knows."""
        found: list[dict[str, Any]] = self._call("getAllProcessInfo")
        return [
            Process(
                each["name"],
                State(each["statename"]),
                each["pid"],
                each["now"] - each["start"] if each["statename"] in ("STARTING", "RUNNING") else 0,
            )
            for each in found
        ]

    def add(self, program: Program) -> None:
        """Starts a new process, from now on kept running. It does not matter if it is there."""
        self._write(program)
        self._call("reloadConfig")
        self._call("addProcessGroup", program.name, but={90})  # ALREADY_ADDED

    def start(self, name: str) -> None:
        """Starts a process that was stopped or given up."""
        self._call("startProcess", name, False, but=_ALREADY)

    def stop(self, name: str) -> None:
        """Sends it SIGTERM, if it is there; does not wait."""
        self._call("stopProcess", name, False, but=_ALREADY | {_UNKNOWN})

    def remove(self, name: str) -> None:
        """Forgets a process that has stopped."""
        self._call("removeProcessGroup", name, but={_UNKNOWN})
        (self._folder.programs / f"{name}.conf").unlink(missing_ok=True)

    def shut_down(self) -> None:
        """Ends it, after all its processes. Does not wait."""
        self._call("shutdown")

    def _write(self, program: Program) -> None:
        (self._folder.programs / f"{program.name}.conf").write_text(program_file(program, self._folder))

    def _call(self, method: str, *arguments: Any, but: set[int] | frozenset[int] = frozenset()) -> Any:
        from supervisor.xmlrpc import SupervisorTransport  # not where Windows would import it

        transport = SupervisorTransport(serverurl=f"unix://{self._folder.supervisor_socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(cast(Any, proxy).supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in but:
                return None
            raise FleetError(
                f"supervisord refused {method} {' '.join(map(str, arguments))}: {fault.faultString}"
            ) from fault
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            raise FleetError(f"supervisord does not answer: {error}") from error
        finally:
            transport.close()


def _command(words: Sequence[str]) -> str:
    """As supervisor's files want it, where % begins a variable."""
    return _plain(shlex.join(words)).replace("%", "%%")


def _path(path: Path | str) -> str:
    if "%" in str(path):  # supervisor expands some of its values twice
        raise FleetError(f"supervisor would misread {path}: choose a folder without % in its path.")
    return _plain(str(path))


def _plain(value: str) -> str:
    if ";" in value or "\n" in value:
        raise FleetError(f"supervisor would misread {value!r}: choose a folder without ; in its path.")
    return value
