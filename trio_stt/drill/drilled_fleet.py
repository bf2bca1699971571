"""A fleet of one's own to be hurt: started as users start it, on free ports, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import trio

from trio_stt.bench.server_process import OPEN_TO_THE_BENCH
from trio_stt.drill.free_ports import free_ports
from trio_stt.fleet import nginx
from trio_stt.fleet.folder import FleetError, Folder
from trio_stt.fleet.goal import read_progress
from trio_stt.fleet.health import ask_all
from trio_stt.fleet.instances import number_of
from trio_stt.fleet.programs import find_nginx, find_redis
from trio_stt.fleet.supervisor import State, Supervisor

MOST_INSTANCES = 5

_SETTINGS = {"SERVER_HOST": "127.0.0.1", "TRANSLATION": "false", "DRAIN_TIMEOUT_S": "10", "VOSK_SERVER_PORT": "0"}
_UNSET = ("REDIS_URL", "RESUME_SECRET", "DECODE_COST", "MAX_LOAD", "TLS_CERT", "TLS_KEY")


class DrilledFleet:
    """What troubles do to a fleet. Methods may be cancelled; they raise `FleetError` where the fleet does not obey."""

    def __init__(self, folder: Folder, port: int, base_port: int, environment: Mapping[str, str]) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self.host, self.port = "127.0.0.1", port
        self._folder = folder
        self._base_port = base_port
        self._environment = dict(environment)
        self._supervisor = Supervisor(folder)

    async def command(self, *arguments: str) -> None:
        """Runs a command of `trio-stt fleet` and waits for its end. Cancelled, it leaves the command to itself."""
        done = await trio.to_thread.run_sync(self._run, arguments, abandon_on_cancel=True)
        if done.returncode != 0:
            raise FleetError(f"fleet {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")

    def _run(self, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trio_stt", "fleet", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    async def ready(self) -> list[int]:
        """The numbers of the instances that get new clients and say that they are ready."""
        routed = read_progress(self._folder).routed
        answers = await ask_all([self._base_port + number - 1 for number in routed])
        return [number for number in routed if answers.get(self._base_port + number - 1, {}).get("ready")]

    async def limit(self) -> int:
        """How many streams the instances take together."""
        numbers = read_progress(self._folder).routed
        answers = await ask_all([self._base_port + number - 1 for number in numbers])
        return sum(int(answer["capacity"]["limit"]) for answer in answers.values())

    async def pids(self) -> dict[int, int]:
        """The processes of the instances that run."""
        found = await trio.to_thread.run_sync(self._supervisor.processes)
        return {
            number: each.pid
            for each in found
            if (number := number_of(each.name)) is not None and each.state in (State.RUNNING, State.STARTING)
        }

    async def signal(self, number: int, which: signal.Signals) -> bool:
        """Sends a signal to an instance; returns whether it ran."""
        pid = (await self.pids()).get(number)
        if not pid:
            return False
        try:
            os.kill(pid, which)
        except ProcessLookupError:
            return False
        return True

    async def reload_nginx(self) -> None:
        """Has nginx read its configuration again, with new workers."""
        reload = [*nginx.command(find_nginx(), self._folder), "-s", "reload"]
        await trio.run_process(reload, check=True, capture_stdout=True, capture_stderr=True)

    async def stop_redis(self) -> None:
        """Ends the fleet's Redis, with all that it holds; nobody starts it again."""
        await trio.to_thread.run_sync(self._supervisor.stop, "redis")

    async def start_redis(self) -> None:
        """Starts it, empty."""
        await trio.to_thread.run_sync(self._supervisor.start, "redis")


@contextlib.asynccontextmanager
async def drilled_fleet(instances: int, model: Path, logs_to: Path | None) -> AsyncIterator[DrilledFleet]:
    """A fleet with nginx and its own Redis until the block is left; then its logs go to `logs_to`, where that is given.

    Raises `FleetError` if nginx or Redis is missing, or it does not start.
    """
    find_nginx()
    if find_redis() is None:
        raise FleetError("redis-server is missing; the drills need it. Debian and Ubuntu: apt install redis-server.")
    with tempfile.TemporaryDirectory(prefix="drill-") as root:
        base_port = free_ports(MOST_INSTANCES + 1)
        port = base_port + MOST_INSTANCES
        environment = {
            **{name: value for name, value in os.environ.items() if name not in _UNSET},
            **OPEN_TO_THE_BENCH,
            **_SETTINGS,
            "FLEET_DIR": root,
            "SERVER_PORT": str(port),
            "FLEET_BASE_PORT": str(base_port),
            "VOSK_MODEL_PATH": str(model),
        }
        fleet = DrilledFleet(Folder(Path(root)), port, base_port, environment)
        await fleet.command("start", str(instances))
        try:
            yield fleet
        finally:
            with trio.CancelScope(shield=True):
                if logs_to is not None:
                    await trio.to_thread.run_sync(_keep, Path(root) / "logs", logs_to)
                for pid in (await fleet.pids()).values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)  # one that is frozen cannot end
                await fleet.command("stop")


def _keep(logs: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in logs.glob("*.log"):
        (target / file.name).write_bytes(file.read_bytes())
