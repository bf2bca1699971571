"""The real server as a process of its own, with the real model."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """`trio-stt serve` (or the module `program`) and what it logs."""

    def __init__(self, program: tuple[str, ...], **environment: str) -> None:
        settings = {
            "SERVER_PORT": "0",
            "LOG_FORMAT": "json",
            "SERVER_HOST": "127.0.0.1",
            "AUTH_MODE": "off",
            **environment,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            env={**os.environ, **settings},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, event: str, timeout_s: float = 60) -> dict:
        """The next log line of that event."""
        while (line := self._lines.get(timeout=timeout_s)) is not None:
            if line.startswith("{") and json.loads(line)["event"] == event:
                return json.loads(line)
        raise AssertionError(f"the server ended before {event}: {self.log}")

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.pid, number)

    def ended(self, timeout_s: float = 60) -> int:
        """Its exit code, when it has ended."""
        return self._process.wait(timeout_s)

    def stop_reading(self) -> None:
        """Closes our end of its log's pipe: what it writes fails from now on."""
        assert self._process.stderr is not None
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, self._process.stderr.fileno())
        os.close(nothing)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def server_process(program: tuple[str, ...] = ("trio_stt", "serve"), **environment: str) -> Iterator[ServerProcess]:
    process = ServerProcess(program, **environment)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What servers find out about models stays out of the user's cache, and is found out once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[str]:
    """ws:// address of a real server with the real model, shared by a module's tests."""
    with server_process(VOSK_MODEL_PATH=str(model)) as process:
        yield process.wait_for("ready")["url"].replace("http:", "ws:")
        process.signal()
        assert process.ended() == 0
