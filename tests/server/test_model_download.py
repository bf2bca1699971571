"""Downloads and installations over HTTP from a server on this machine that misbehaves as told."""

import contextlib
import hashlib
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from trio_stt.models.download import download
from trio_stt.models.errors import SourceError

QUIET = Console(quiet=True)
CONTENT = os.urandom(3_000_000)


class Site(http.server.ThreadingHTTPServer):
    """Serves `content` at every path, with ranges, and notes what was asked."""

    daemon_threads = True
    content = CONTENT
    etag = '"one"'
    status = 200
    break_after: int | None = None
    """Bytes after which the connection is cut, once."""
    pause_s = 0.0
    """Between blocks of 64 KiB."""
    location: str | None = None
    tells_length = False
    """Whether a 416 says how long the file is."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/model.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site = self.server
        site.asked.append(self.headers.get("Range"))
        if site.location is not None or site.status != 200:
            self.send_response(302 if site.location else site.status)
            if site.location:
                self.send_header("Location", site.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == site.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(site.content):
                self.send_response(416)
                if site.tells_length:
                    self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(site.content) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        end = len(site.content) if site.break_after is None else start + site.break_after
        site.break_after = None
        with contextlib.suppress(ConnectionError):
            for at in range(start, end, 65536):
                self.wfile.write(site.content[at : min(at + 65536, end)])
                time.sleep(site.pause_s)
        self.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def bring(site: Site, target: Path, max_bytes: int = 10_000_000) -> None:
    download(site.url, target, QUIET, sum_known=True, max_bytes=max_bytes)


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def test_a_download_arrives_whole_and_leaves_nothing_else(site: Site, tmp_path: Path) -> None:
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["m.zip"]


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.break_after = 1_000_000
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1000000-"]


def test_a_part_from_an_earlier_run_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.break_after = 1_000_000
    with pytest.raises(SourceError, match="broke off"):
        download_once(site, tmp_path / "m.zip")
    assert part_of(tmp_path / "m.zip").stat().st_size == 1_000_000
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=1000000-"


def download_once(site: Site, target: Path) -> None:
    """A download whose further attempts fail at once: the site is gone after the first."""
    requests = 0

    class Once(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal requests
            requests += 1
            if requests > 1:
                raise httpx.ReadError("broke off")
            return super().handle_request(request)

    with contextlib.closing(httpx.Client(transport=Once())) as client:
        download(site.url, target, QUIET, sum_known=True, max_bytes=10_000_000, client=client)


@pytest.mark.parametrize("etag", ['"two"', "", 'W/"one"'])
def test_a_part_of_another_version_is_not_mixed_with_this_one(site: Site, tmp_path: Path, etag: str) -> None:
    site.break_after = 1_000_000
    with pytest.raises(SourceError):
        download_once(site, tmp_path / "m.zip")
    site.content, site.etag = os.urandom(2_000_000), etag
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == site.content


def test_a_server_without_ranges_is_read_from_the_start(site: Site, tmp_path: Path) -> None:
    site.etag = ""
    site.break_after = 1_000_000
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert site.asked == [None, None]


def test_a_part_that_is_whole_already_is_taken(site: Site, tmp_path: Path) -> None:
    site.break_after = len(CONTENT) - 1
    with pytest.raises(SourceError):
        download_once(site, tmp_path / "m.zip")
    part_of(tmp_path / "m.zip").write_bytes(CONTENT)
    site.tells_length = True
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert site.asked[-1] == f"bytes={len(CONTENT)}-"


def test_a_part_as_long_as_the_file_begins_anew(site: Site, tmp_path: Path) -> None:
    site.break_after = 1_000_000
    with pytest.raises(SourceError):
        download_once(site, tmp_path / "m.zip")
    part_of(tmp_path / "m.zip").write_bytes(bytes(len(CONTENT)))
    bring(site, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_an_error_answer_is_told_with_its_number_and_nothing_is_kept(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    with pytest.raises(SourceError, match=str(status)):
        bring(site, tmp_path / "m.zip")
    assert os.listdir(tmp_path) == []


def test_more_than_is_expected_is_refused_before_it_is_read(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="at most 1,000,000"):
        bring(site, tmp_path / "m.zip", max_bytes=1_000_000)
    assert not (tmp_path / "m.zip").exists()


def test_plain_http_without_a_known_sum_is_refused_unless_it_is_this_machine(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not HTTPS"):
        download("http://models.invalid/m.zip", tmp_path / "m.zip", QUIET, sum_known=False, max_bytes=10**7)
    download(site.url, tmp_path / "m.zip", QUIET, sum_known=False, max_bytes=10**7)


def test_a_redirect_to_another_scheme_is_refused(site: Site, tmp_path: Path) -> None:
    site.location = "ftp://127.0.0.1/model.zip"
    with pytest.raises(SourceError):
        bring(site, tmp_path / "m.zip")


def test_a_host_that_does_not_exist_is_known_within_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"models\.invalid"):
        download("https://models.invalid/m.zip", tmp_path / "m.zip", QUIET, sum_known=True, max_bytes=10**7)
    assert time.monotonic() - began < 5


def test_a_host_that_swallows_everything_is_given_up_within_seconds(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/m.zip"
        began = time.monotonic()
        with pytest.raises(SourceError, match="did not answer within 3 s"):
            download(url, tmp_path / "m.zip", QUIET, sum_known=True, max_bytes=10**7)
        assert time.monotonic() - began < 5


@pytest.fixture
def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for name in ("am/final.mdl", "graph/HCLr.fst", "graph/Gr.fst"):
            packed.writestr(f"m/{name}", os.urandom(4_000_000))
        for name in ("conf/mfcc.conf", "graph/disambig_tid.int"):
            packed.writestr(f"m/{name}", "7\n")
    return made.getvalue()


def start(store: Path, *arguments: str, before: str = "", **environment: str) -> "subprocess.Popen[str]":
    """`trio-stt models` in a process of its own, after the Python statements `before`."""
    program = f"{before}\nfrom trio_stt.models.commands import commands\ncommands()"
    command = [sys.executable, "-c", program, "--models-dir", str(store), *arguments]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def run(store: Path, *arguments: str, before: str = "", **environment: str) -> tuple[int, str]:
    """Exit code and messages."""
    process = start(store, *arguments, before=before, **environment)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


def install_xx(site: Site, *options: str) -> tuple[str, ...]:
    return "install", "xx", "--from", site.url, "--compile", "no", *options


def visible(store: Path) -> list[str]:
    return sorted(entry.name for entry in store.iterdir() if not entry.name.startswith("."))


def wait_for_bytes(store: Path, count: int) -> None:
    part = store / ".downloads/xx/model.zip.part"
    until = time.monotonic() + 10
    while not part.exists() or part.stat().st_size < count:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_install_leaves_the_part_alone_and_the_next_goes_on(
    site: Site, tmp_path: Path, archive: bytes, end: signal.Signals
) -> None:
    site.content, site.pause_s = archive, 0.02
    process = start(tmp_path, *install_xx(site))
    wait_for_bytes(tmp_path, 1_000_000)
    process.send_signal(end)
    process.communicate(timeout=10)
    assert process.returncode != 0
    assert visible(tmp_path) == []
    assert sorted(os.listdir(tmp_path / ".downloads/xx")) == ["model.zip.part", "model.zip.part.json"]
    site.pause_s = 0
    assert run(tmp_path, *install_xx(site))[0] == 0
    assert int(str(site.asked[-1]).removeprefix("bytes=").rstrip("-")) >= 1_000_000
    assert run(tmp_path, "verify", "xx")[0] == 0
    assert not (tmp_path / ".downloads/xx").exists()


@pytest.mark.parametrize("step", ["unpack_model", "check_structure", "_record_sum"])
def test_a_process_killed_at_any_step_leaves_no_model_or_a_whole_one(
    site: Site, tmp_path: Path, archive: bytes, step: str
) -> None:
    site.content = archive
    kill = f"import os, trio_stt.models.install as i; i.{step} = lambda *a: os.kill(os.getpid(), 9)"
    assert run(tmp_path, *install_xx(site), before=kill)[0] == -9
    if step == "_record_sum":
        assert run(tmp_path, "verify", "xx")[0] == 0
    else:
        assert visible(tmp_path) == []
    assert run(tmp_path, *install_xx(site))[0] == 0
    assert run(tmp_path, "verify", "xx")[0] == 0
    assert len(site.asked) == 1  # the archive was there already
    assert not list(tmp_path.glob(".new-*"))


def test_two_installations_of_one_model_download_it_once(site: Site, tmp_path: Path, archive: bytes) -> None:
    site.content, site.pause_s = archive, 0.01
    first = start(tmp_path, *install_xx(site))
    wait_for_bytes(tmp_path, 1)
    code, said = run(tmp_path, *install_xx(site))
    assert first.wait(10) == 0
    assert first.stderr is not None
    first.stderr.close()
    assert code == 0
    assert "waiting for it" in said
    assert "installed already" in said
    assert len(site.asked) == 1


def test_a_download_with_the_wrong_sum_is_thrown_away(site: Site, tmp_path: Path, archive: bytes) -> None:
    site.content = archive
    code, said = run(tmp_path, *install_xx(site, "--sha256", "0" * 64))
    assert code == 1
    assert "expected is 00000000" in said
    assert visible(tmp_path) == []
    assert not (tmp_path / ".downloads/xx/model.zip").exists()
    assert run(tmp_path, *install_xx(site, "--sha256", hashlib.sha256(archive).hexdigest()))[0] == 0


def test_off_line_the_failure_is_quick_and_lists_every_source_and_what_to_do(tmp_path: Path) -> None:
    began = time.monotonic()
    code, said = run(tmp_path, "install", "en", HTTPS_PROXY="http://127.0.0.1:9", PATH="/nonexistent")
    assert time.monotonic() - began < 10
    assert code == 1
    assert "The author's site: alphacephei.com is out of reach" in said
    assert "Maven is not installed" in said
    assert "apt install maven" in said
    assert "vosk-model-small-en-us-0.15.zip" in said
    assert "--from FILE" in said
    assert "Traceback" not in said
