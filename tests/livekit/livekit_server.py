"""A real livekit-server of one's own, on free ports of 127.0.0.1."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from tests.livekit_tokens import API_KEY, API_SECRET
from trio_stt.drill.free_ports import free_ports

BUILT = Path(__file__).resolve().parents[2] / ".cache/livekit/livekit-server"
"""Where set-up puts what it has built."""


class LiveKitServer:
    """Starts at once. `kill` ends it without a word; `start` begins anew on the same ports, with no rooms."""

    def __init__(self) -> None:
        self.port, self._udp_port = free_ports(), free_ports(kind=socket.SOCK_DGRAM)
        self.url = f"ws://127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = shutil.which("livekit-server") or BUILT
        assert Path(program).exists(), "no livekit-server: run ./scripts/setup.sh --test"
        # What it wants to write goes through its own pipe: a full one must not stop it.
        self.process = subprocess.Popen(
            [program, "--config-body", self._configuration()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT")},
        )
        until = time.monotonic() + 60
        while True:
            try:
                if httpx.get(self.http, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, "livekit-server ended"
            assert time.monotonic() < until, "livekit-server does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _configuration(self) -> str:
        return yaml.safe_dump(
            {
                "port": self.port,
                "bind_addresses": ["127.0.0.1"],
                "keys": {API_KEY: API_SECRET},
                "logging": {"level": "error"},
                "rtc": {
                    "node_ip": "127.0.0.1",
                    "use_external_ip": False,
                    "enable_loopback_candidate": True,
                    "ips": {"includes": ["127.0.0.1/32"]},
                    "udp_port": self._udp_port,
                    "tcp_port": 0,
                    "stun_servers": ["127.0.0.1:3478"],
                },
            }
        )


@contextmanager
def livekit_server() -> Iterator[LiveKitServer]:
    server = LiveKitServer()
    try:
        yield server
    finally:
        server.kill()
