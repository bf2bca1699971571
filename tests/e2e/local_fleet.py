"""A fleet of one's own: on free ports, in a folder of the test's, with the real model, nginx and Redis."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trio_stt.client.connection import ServerUnreachableError, StreamClosedError, StreamRefusedError, open_stream
from trio_stt.dialects.events import Ready, StreamRequest
from trio_stt.drill.free_ports import free_ports
from trio_stt.fleet.folder import Folder
from trio_stt.fleet.goal import read_progress
from trio_stt.fleet.supervisor import Process, State, Supervisor

ROOT = Path(__file__).resolve().parents[2]


class LocalFleet:
    """What `trio-stt fleet` makes; the commands are run as users run them."""

    def __init__(self, root: Path, model: Path, **environment: str) -> None:
        self.port = free_ports(1)
        self.base_port = free_ports(5)
        self.folder = Folder(root)
        self.supervisor = Supervisor(self.folder)
        self.url = f"ws://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "FLEET_DIR": str(root),
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": str(self.port),
            "FLEET_BASE_PORT": str(self.base_port),
            "AUTH_MODE": "off",
            "VOSK_MODEL_PATH": str(model),
            "DRAIN_TIMEOUT_S": "5",
            **environment,
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trio_stt", "fleet", *arguments],
            cwd=ROOT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def do(self, *arguments: str) -> str:
        """What a command that must succeed says."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def process(self, name: str) -> Process:
        return next(each for each in self.supervisor.processes() if each.name == name)

    def routed(self) -> list[int]:
        """Ports that get new clients: nginx follows the conductor's word; without one, what its file says."""
        if self.folder.progress.exists():
            return [self.base_port + number - 1 for number in read_progress(self.folder).routed]
        lines = self.folder.upstreams.read_text().splitlines()
        return [int(line.split(":")[1].split()[0]) for line in lines if "server" in line]

    async def until_routed(self, count: int, within_s: float = 60) -> None:
        with trio.fail_after(within_s):
            while len(self.routed()) != count:
                await trio.sleep(0.02)

    async def until_steady(self) -> None:
        """All processes have run long enough that one which ends is started again at once."""
        with trio.fail_after(60):
            while any(each.state is not State.RUNNING for each in self.supervisor.processes()):
                await trio.sleep(0.1)

    def left_behind(self) -> list[str]:
        """Processes that have this fleet's folder in their environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"FLEET_DIR={self.folder.root}\0".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def wait_until_gone(self, within_s: float = 20) -> None:
        until = time.monotonic() + within_s
        while left := self.left_behind():
            assert time.monotonic() < until, left
            time.sleep(0.05)


class Visitors:
    """Listeners that come all the time, one after the other, and go at once."""

    def __init__(self) -> None:
        self.came = 0
        self.refused: list[str] = []
        self.instances: set[str] = set()


@asynccontextmanager
async def visitors(url: str) -> AsyncIterator[Visitors]:
    """They come while the block runs."""
    seen = Visitors()

    async def come() -> None:
        while True:
            try:
                with trio.fail_after(5):
                    async with open_stream(url, StreamRequest(f"v{seen.came}", "lobby", speak=False)) as stream:
                        ready = await anext(stream)
                        assert isinstance(ready, Ready)
                        seen.instances.add(ready.instance)
            except (StreamRefusedError, StreamClosedError, ServerUnreachableError, trio.TooSlowError) as error:
                seen.refused.append(repr(error))
            seen.came += 1
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        yield seen
        nursery.cancel_scope.cancel()
