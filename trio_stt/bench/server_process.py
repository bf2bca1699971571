"""The real server as a child process, as people run it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping

import trio
from attrs import frozen

START_TIMEOUT_S = 120.0
"""A server that is not ready by then never will be; large models take tens of seconds."""

STOP_TIMEOUT_S = 20.0
"""For the drain (DRAIN_TIMEOUT_S, 10) and the end; then it is killed."""

_LAST_LINES = 5

OPEN_TO_THE_BENCH = {
    "AUTH_MODE": "off",
    "TRUSTED_PROXIES": "none",
    "MAX_CONNECTIONS_PER_ADDRESS": "0",
    "TENANT_MAX_STREAMS": "0",
    "TENANT_MAX_LISTENERS": "0",
    "TENANT_MAX_SESSIONS": "0",
    "TENANT_AUDIO_S_A_DAY": "0",
}
"""On loopback, without tokens; all clients have one address and one tenant."""


class ServerFailedError(Exception):
    """The server did not start, or ended. The message has its last log lines."""


@frozen
class RunningServer:
    """A server to measure: its ``ws://`` address, its process, and, if it was started here, how long that took."""

    url: str
    pid: int
    start_s: float | None = None


@contextlib.asynccontextmanager
async def start_server(environment: Mapping[str, str] | None = None) -> AsyncIterator[RunningServer]:
    """Runs `trio-stt serve` on a free port of this machine until the block is left; `environment` is added to ours.

    Raises `ServerFailedError`. May be cancelled: the server is stopped all the same.
    """
    variables = {
        **os.environ,
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": "0",
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "json",
        # What is measured goes beyond what the server would let in, and calibration is no part of it.
        "MAX_LOAD": "100",
        "DECODE_COST": "0.001",
        **OPEN_TO_THE_BENCH,
        **(environment or {}),
    }
    with tempfile.TemporaryFile() as log:
        began = trio.current_time()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_stt", "serve"],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours: the server is stopped by us
        )
        try:
            url = await _wait_until_ready(process, log.fileno())
            yield RunningServer(url.replace("http", "ws", 1), process.pid, trio.current_time() - began)
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process)


async def _wait_until_ready(process: trio.Process, log: int) -> str:
    """The address in the log line that says that the server is ready."""
    give_up_at = trio.current_time() + START_TIMEOUT_S
    while trio.current_time() < give_up_at:
        for line in _lines(log):
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and fields.get("event") == "ready":
                    return str(fields["url"])
        if process.returncode is not None:
            raise ServerFailedError(f"The server ended with exit code {process.returncode}. {_last_lines(log)}")
        await trio.sleep(0.01)
    raise ServerFailedError(f"The server was not ready within {START_TIMEOUT_S:g} s. {_last_lines(log)}")


async def _stop(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
        return
    process.kill()
    await process.wait()


def _lines(log: int) -> list[str]:
    return os.pread(log, 1_000_000, 0).decode(errors="replace").splitlines()


def _last_lines(log: int) -> str:
    return "Its last words: " + " ".join(_lines(log)[-_LAST_LINES:])
