"""A real browser without a window: Chromium by its DevTools protocol. Its microphone plays a recording, on and on."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from websockets.sync.client import ClientConnection, connect

UNPACKED = Path(__file__).resolve().parents[1] / ".cache/chromium/usr"
"""Where set-up puts it for who may not install packages."""
WAIT_S = 60


class _Files(SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a web server for the files of `folder`, while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Page:
    """A page in the browser."""

    def __init__(self, tools: ClientConnection) -> None:
        self._tools = tools
        self._count = 0

    def evaluate(self, script: str) -> object:
        """What the script, as of a user's click, comes to, a promise awaited. Raises RuntimeError if it throws."""
        arguments = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self._call("Runtime.evaluate", **arguments)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Returns when the script comes to something true; fails after a minute."""
        end = time.monotonic() + WAIT_S
        while not self.evaluate(f"!!({condition})"):
            assert time.monotonic() < end, f"not {condition}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        """Goes there; returns when the page and its scripts are loaded."""
        self._call("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def _call(self, method: str, **parameters: object) -> dict:
        self._count += 1
        self._tools.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._tools.recv(timeout=WAIT_S + 10))
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]


@contextmanager
def browser(folder: Path, microphone: Path | None = None) -> Iterator[Page]:
    """An empty page, while the block runs. `folder`: for the browser's files. `microphone`: a WAV, again and again."""
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    installed = next(filter(None, map(shutil.which, names)), None)
    libraries = [str(path) for path in (UNPACKED / "lib").glob("*-linux-gnu*/**/")]
    command = [
        installed or UNPACKED / "lib/chromium/chromium-headless-shell",
        "--headless",
        "--no-sandbox",  # which root has none of, and the pages are ours
        "--disable-dev-shm-usage",  # small in a container
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",  # what pages say on their console
        "--allow-loopback-in-peer-connection",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        *([f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []),
        "about:blank",
    ]
    log = folder / "chromium.log"
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    with log.open("wb") as output:
        # Debian's program is a script, which starts the browser, which starts others: a group of their own.
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        port = _port(process, log)
        with connect(_address(port), max_size=None, compression=None, proxy=None) as tools:
            yield Page(tools)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _address(port: int) -> str:
    """Where the DevTools of its page are."""
    for _ in range(10 * WAIT_S):
        for each in httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json():
            if each["type"] == "page":
                return each["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("Chromium has no page")


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(10 * WAIT_S):
        said = log.read_text(errors="replace")
        if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", said):
            return int(found[1])
        assert process.poll() is None, said
        time.sleep(0.1)
    raise AssertionError(f"Chromium does not listen: {said}")
