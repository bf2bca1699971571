"""A real redis-server of one's own: on a free port of 127.0.0.1, without persistence."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trio_stt.drill.free_ports import free_ports

UNPACKED = Path(__file__).resolve().parents[2] / ".cache/redis/usr"
"""Where set-up puts it for who may not install packages; Debian's server is one file with several names."""


class RedisServer:
    """Starts at once. `stop` loses everything that it held; `start` begins empty on the same port."""

    def __init__(self, *arguments: str, tls: bool = False) -> None:
        """`arguments`: of its command line; `tls`: its port speaks TLS, for which they name the files."""
        self.port = free_ports()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        self._arguments = (*ports, *arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        unpacked_libraries = ":".join(map(str, (UNPACKED / "lib").glob("*-linux-gnu*")))
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--save", "", *self._arguments],
            executable=shutil.which("redis-server") or UNPACKED / "bin/redis-check-rdb",
            env={**os.environ, "LD_LIBRARY_PATH": unpacked_libraries},
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)

    def stop(self) -> None:
        """Kills it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def command(self, *words: str | bytes) -> str:
        """What Redis answers, as it stands on the wire; asked over a connection of its own."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(request + b"*1\r\n$4\r\nQUIT\r\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer.decode(errors="replace").removesuffix("+OK\r\n")


@contextmanager
def redis_server(*arguments: str, tls: bool = False) -> Iterator[RedisServer]:
    server = RedisServer(*arguments, tls=tls)
    try:
        yield server
    finally:
        server.stop()
