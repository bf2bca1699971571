"""The fleet from without: what `scale-deploy.sh` does. All of it blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import trio

from trio_stt.fleet import nginx
from trio_stt.fleet.environment import check, check_size, cores_of_this_machine, port_of
from trio_stt.fleet.folder import FleetError, Folder
from trio_stt.fleet.goal import Goal, read_goal, read_progress, write_goal
from trio_stt.fleet.health import ask_all
from trio_stt.fleet.instances import CONDUCTOR, name_of, number_of, standing_programs
from trio_stt.fleet.nginx_workers import end_orphans
from trio_stt.fleet.programs import NO_REDIS, find_nginx, find_redis
from trio_stt.fleet.status import summary, table
from trio_stt.fleet.supervisor import STOP_BEYOND_DRAIN_S, State, Supervisor
from trio_stt.settings import Settings

LOOK_EVERY_S = 0.1

START_WITHIN_S = 180.0
"""For all instances to be ready, also where they load large models one beside the other."""

Say = Callable[[str], None]


class LocalFleet:
    """The fleet in FLEET_DIR, whether it runs or not. Of the settings only that one counts after `start`."""

    def __init__(self, settings: Settings, say: Say) -> None:
        """`say` is told what happens, a line at a time."""
        self._settings = settings
        self._say = say
        self._folder = Folder.of(settings)
        self._supervisor = Supervisor(self._folder)

    def start(self, least: int, most: int | None) -> None:
        """Returns when all instances are ready. Raises `FleetError`, with nothing left behind."""
        goal = Goal(1, least, most or least, restarts=0, base_port=self._settings.fleet_base_port)
        check_size(goal.least, goal.most)
        check(self._settings, goal.most)
        program = find_nginx()
        if find_redis() is None and not self._settings.redis_url:
            self._say(NO_REDIS)
        self._folder.make()
        with self._alone():
            if self._supervisor.runs:
                raise FleetError("The fleet runs already: 'scale N' changes its size, 'restart' begins anew.")
            self._check_ports(least)
            self._folder.clear()
            self._folder.make()
            try:
                ports = [port_of(self._settings, number) for number in range(1, least + 1)]
                nginx.prepare(self._settings, self._folder, cores=cores_of_this_machine(), ports=ports)
                nginx.check(program, self._folder)
                write_goal(self._folder, goal)
                self._supervisor.launch(standing_programs(self._settings), directory=os.getcwd())
            except BaseException:
                self._folder.clear()
                raise
        try:
            self._wait_for(goal)
            self._wait_for_nginx()
        except FleetError:
            self.stop()
            raise

    def scale(self, least: int, most: int | None) -> None:
        """Returns when the fleet has that size. Raises `FleetError`."""
        with self._alone():
            goal = self._goal()
            goal = attrs.evolve(goal, serial=goal.serial + 1, least=least, most=most or least)
            check_size(goal.least, goal.most)
            write_goal(self._folder, goal)
        self._wait_for(goal)

    def restart(self) -> None:
        """Returns when each instance was restarted. Raises `FleetError` if one did not come back."""
        with self._alone():
            goal = self._goal()
            goal = attrs.evolve(goal, serial=goal.serial + 1, restarts=goal.restarts + 1)
            write_goal(self._folder, goal)
        # Some may have been given up before: what was wrong with them may be mended by now.
        self._wait_for(goal, may_be_given_up=True)

    def stop(self) -> None:
        """Drains all instances at once, ends everything, and clears the folder. Raises `FleetError` if it cannot."""
        with self._alone():
            if not self._supervisor.runs:
                end_orphans(self._folder)
                self._folder.clear()
                raise FleetError("The fleet does not run: 'start N' starts it.")
            self._stop()
        self._say("stopped")

    def _stop(self) -> None:
        self._supervisor.stop(CONDUCTOR)
        self._wait_stopped({CONDUCTOR}, within_s=15)
        instances = {each.name for each in self._supervisor.processes() if number_of(each.name) is not None}
        self._say(f"draining {len(instances)} instances")
        for name in instances:
            self._supervisor.stop(name)
        # supervisor would end them one after the other.
        self._wait_stopped(instances, within_s=self._settings.drain_timeout_s + STOP_BEYOND_DRAIN_S + 5)
        self._supervisor.shut_down()
        until = time.monotonic() + 30
        while self._supervisor.runs or self._folder.supervisor_socket.exists():
            if time.monotonic() > until:
                raise FleetError(f"supervisord does not end; see {self._folder.logs / 'supervisord.log'}.")
            time.sleep(LOOK_EVERY_S)
        self._folder.clear()

    def show_status(self, show: Callable[[object], None]) -> None:
        """Raises `FleetError` if the fleet does not run."""
        goal = self._goal()
        processes = self._supervisor.processes()
        ports = {
            each.name: goal.base_port + number - 1 for each in processes if (number := number_of(each.name)) is not None
        }
        answers = trio.run(ask_all, list(ports.values()))
        health = {name: answers[port] for name, port in ports.items() if port in answers}
        progress = read_progress(self._folder)
        show(table(processes, health, progress, ports))
        show(summary(goal, progress))

    def log_files(self, name: str | None) -> list[Path]:
        """The logs of one process, or of all. Raises `FleetError` if there are none."""
        files = sorted(self._folder.logs.glob(f"{name or '*'}.log"))
        if not files:
            raise FleetError(f"There is no log {name or ''} in {self._folder.logs}".replace("  ", " "))
        return files

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other commands from changing the fleet at the same time. Raises `FleetError` if one does."""
        try:
            folder = os.open(self._folder.root, os.O_RDONLY)
        except FileNotFoundError:
            raise FleetError("The fleet does not run: 'start N' starts it.") from None
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FleetError("Another command is changing the fleet at this moment.") from error
            yield
        finally:
            os.close(folder)

    def _goal(self) -> Goal:
        if not self._supervisor.runs:
            raise FleetError("The fleet does not run: 'start N' starts it.")
        return read_goal(self._folder)

    def _check_ports(self, instances: int) -> None:
        """Raises `FleetError` for a port that somebody else listens on."""
        settings = self._settings
        wanted = [(settings.server_host, settings.server_port, "SERVER_PORT")]
        wanted += [("127.0.0.1", port_of(settings, number), "FLEET_BASE_PORT") for number in range(1, instances + 1)]
        if settings.vosk_server_port:
            wanted.append((settings.server_host, settings.vosk_server_port, "VOSK_SERVER_PORT"))
        for host, port, name in wanted:
            try:
                socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
            except OSError as error:
                raise FleetError(
                    f"{host}:{port} cannot be listened on ({error.strerror or error}): is another server running? "
                    f"{name} chooses another."
                ) from error

    def _wait_for(self, goal: Goal, *, may_be_given_up: bool = False) -> None:
        doing = ""
        until = time.monotonic() + START_WITHIN_S
        while (progress := read_progress(self._folder)).reached != goal.serial:
            if progress.doing != doing:
                doing = progress.doing
                until = time.monotonic() + START_WITHIN_S  # each step has its time
                if doing:
                    self._say(doing)
            if progress.problem and progress.restarts == goal.restarts:
                raise FleetError(f"{progress.problem}; see {self._folder.logs}")
            if read_goal(self._folder).serial != goal.serial:
                raise FleetError("Another command has come in between.")
            if not may_be_given_up:
                self._check_none_given_up()
            if time.monotonic() > until:
                raise FleetError(f"This takes too long: see 'status', and the logs in {self._folder.logs}.")
            time.sleep(LOOK_EVERY_S)
        if progress.problem:
            raise FleetError(f"{progress.problem}; see {self._folder.logs}")
        self._say(f"ready: {', '.join(map(name_of, progress.routed))}")

    def _check_none_given_up(self) -> None:
        """Raises `FleetError` for a process that ends again and again, with its last words."""
        for each in self._supervisor.processes():
            if each.state is State.FATAL:
                log = self._folder.logs / f"{each.name}.log"
                last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
                said = " ".join(last) or "it said nothing"
                raise FleetError(f"{each.name} does not run: {said} (see {log} and supervisord.log beside it)")

    def _wait_for_nginx(self) -> None:
        """Raises `FleetError` if nobody listens on the fleet's port."""
        host, port = self._settings.server_host, self._settings.server_port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (nothing is bound)
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((host, port), 1).close()
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise FleetError(f"nginx does not listen: see {self._folder.logs / 'nginx.log'}") from error
                time.sleep(LOOK_EVERY_S)
        scheme = "https" if self._settings.tls_cert else "http"
        self._say(f"serving on {scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    def _wait_stopped(self, names: set[str], *, within_s: float) -> None:
        until = time.monotonic() + within_s
        while any(
            each.state in (State.RUNNING, State.STARTING, State.STOPPING, State.BACKOFF)
            for each in self._supervisor.processes()
            if each.name in names
        ):
            if time.monotonic() > until:
                raise FleetError(f"{', '.join(sorted(names))} do not end; see 'status'.")
            time.sleep(LOOK_EVERY_S)
