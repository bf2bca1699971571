"""A real nginx of one's own, with the fleet's configuration, in front of instances that are played."""

import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import h11
import trio

from trio_stt.drill.free_ports import free_ports
from trio_stt.fleet import nginx, nginx_workers
from trio_stt.fleet.folder import Folder
from trio_stt.fleet.programs import find_nginx
from trio_stt.settings import Settings, load

KEY = "k1:" + "x" * 32


def settings_for(**values: str) -> Settings:
    return load({"AUTH_KEYS": KEY, "SERVER_PORT": str(free_ports()), **values}, Path("no such file"))


class Played:
    """An instance that gives every request the same answer; `got` has the requests."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, *, silent: bool = False) -> None:
        self.status = status
        self.headers = headers or {}
        self.silent = silent
        self.got: list[tuple[str, dict[str, str]]] = []
        self.port = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            while not isinstance(event := connection.next_event(), h11.Request):
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                else:
                    return
            headers = {name.decode(): value.decode() for name, value in event.headers}
            self.got.append((event.target.decode(), headers))
            if self.silent:
                await trio.sleep_forever()
            if self.status == 101:
                answer = h11.InformationalResponse(
                    status_code=101, headers=[("Upgrade", "websocket"), ("Connection", "upgrade")]
                )
                await stream.send_all(connection.send(answer) or b"")
                while data := await stream.receive_some():
                    await stream.send_all(data)
                return
            body = f"instance {self.port}".encode()
            sent = [("Content-Length", str(len(body))), ("Connection", "close"), *self.headers.items()]
            for part in (h11.Response(status_code=self.status, headers=sent), h11.Data(body), h11.EndOfMessage()):
                await stream.send_all(connection.send(part) or b"")


@asynccontextmanager
async def played(*instances: Played) -> AsyncIterator[list[int]]:
    """Serves these instances; yields their ports."""
    async with trio.open_nursery() as nursery:
        for each in instances:
            listeners = await nursery.start(partial(trio.serve_tcp, each.serve, 0, host="127.0.0.1"))
            each.port = listeners[0].socket.getsockname()[1]
        yield [each.port for each in instances]
        nursery.cancel_scope.cancel()


def _is_up(settings: Settings, folder: Folder) -> bool:
    """Whether it listens and has its workers, who come later."""
    try:
        socket.create_connection(("127.0.0.1", settings.server_port), 1).close()
    except OSError:
        return False
    return bool(nginx_workers.accepting(folder)) or not nginx_workers.are_shown()


@contextmanager
def nginx_before(ports: list[int], settings: Settings, root: Path) -> Iterator[Folder]:
    """nginx with these instances behind it, listening where the settings say."""
    folder = Folder(root)
    folder.make()
    nginx.prepare(settings, folder, cores=1, ports=ports)
    with subprocess.Popen(nginx.command(find_nginx(), folder)) as process:
        try:
            until = time.monotonic() + 10
            while not _is_up(settings, folder):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            yield folder
        finally:
            process.terminate()
