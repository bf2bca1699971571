"""Downloads a file over HTTP so that it can go on where it stopped: after a broken connection, Ctrl-C or a crash.

What came so far lies in ``NAME.part``; ``NAME.part.json`` says of which version of which URL. Only a server that still
holds the same version (``If-Range`` with its ETag or date) adds to it; else the download begins anew.
"""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
from attrs import asdict, frozen
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trio_stt.models.errors import SourceError
from trio_stt.models.manifest import write_atomically

T = TypeVar("T")

ANSWER_TIMEOUT_S = 3
"""From the start of the name look-up to the answer's first line; a site that is out of reach is known by then."""

STALL_TIMEOUT_S = 20
"""Longest silence in the middle of a download."""

_ATTEMPTS = 4
_FREE_SPACE_LEFT_BYTES = 100_000_000


@frozen
class _Version:
    """Which version of which file a part belongs to."""

    url: str
    validator: str
    """A strong ETag or a date for ``If-Range``; empty: the server gave none, the part cannot be continued."""


class _InterruptedError(SourceError):
    """The connection ended early; going on is worth a try."""


def download(
    url: str, target: Path, console: Console, *, sum_known: bool, max_bytes: int, client: httpx.Client | None = None
) -> None:
    """Brings `url` to the file `target`, showing progress on `console`.

    Without a known sum (`sum_known`) only HTTPS is taken, or this very machine. `client` is for tests. Raises
    `SourceError` saying why it failed; what arrived stays beside `target` and the next call goes on from there.
    """
    with client or httpx.Client(
        follow_redirects=True, timeout=httpx.Timeout(STALL_TIMEOUT_S, connect=ANSWER_TIMEOUT_S)
    ) as http:
        _refuse_plain_http(httpx.URL(url), sum_known)
        part = target.with_name(target.name + ".part")
        for attempt in range(_ATTEMPTS):
            before = _size(part)
            try:
                _go_on(http, url, part, console, sum_known=sum_known, max_bytes=max_bytes)
                break
            except _InterruptedError:
                if attempt == _ATTEMPTS - 1 or _size(part) <= before:
                    raise
        part.replace(target)
        _note_of(part).unlink(missing_ok=True)


def _go_on(http: httpx.Client, url: str, part: Path, console: Console, *, sum_known: bool, max_bytes: int) -> None:
    """One request: adds to `part` what is missing. Returns when `part` is whole."""
    note = _note_of(part)
    headers = {"Accept-Encoding": "identity"}
    have, version = _size(part), _read_note(note)
    if have and version is not None and version.url == url and version.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.validator}
    request = http.build_request("GET", url, headers=headers)
    response = _answer(http, request)
    try:
        for hop in [*response.history, response]:
            _refuse_plain_http(hop.url, sum_known)
        if response.status_code == 416 and have:  # our part is as long as the file, or longer
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            _go_on(http, url, part, console, sum_known=sum_known, max_bytes=max_bytes)
            return
        if response.status_code == 206:
            start, total = _content_range(response)
            if start != have:
                raise SourceError(f"{url} sent bytes from {start}, though {have} were asked for.")
        elif response.status_code == 200:
            have, total = 0, _content_length(response)
        else:
            raise SourceError(f"{url} answered {response.status_code} {response.reason_phrase}.".replace(" .", "."))
        if total is not None and total > max_bytes:
            raise SourceError(f"{url} is {total:,} bytes long; at most {max_bytes:,} are expected.")
        _check_space(part.parent, (total or max_bytes) - have)
        write_atomically(note, json.dumps(asdict(_Version(url, _validator(response)))))
        _receive(response, part, have, total, max_bytes, console)
    finally:
        response.close()


def _receive(
    response: httpx.Response, part: Path, have: int, total: int | None, max_bytes: int, console: Console
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress, part.open("ab" if have else "wb") as file:
        task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=have)
        try:
            for block in response.iter_raw():
                file.write(block)
                have += len(block)
                progress.update(task, completed=have)
                if have > (total or max_bytes):
                    raise SourceError(f"{response.url} sends more than the {total or max_bytes:,} bytes expected.")
        except httpx.HTTPError as error:
            raise _InterruptedError(_broken_off(response, have, total, error)) from error
        finally:
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have != total:
        raise _InterruptedError(_broken_off(response, have, total, None))


def _broken_off(response: httpx.Response, have: int, total: int | None, error: Exception | None) -> str:
    of = f" of {total:,}" if total is not None else ""
    why = f" ({type(error).__name__}: {error})" if error is not None else ""
    return f"{response.url} broke off after {have:,}{of} bytes{why}. Run this again: it goes on from there."


def _answer(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    host = request.url.host
    try:
        return _within(ANSWER_TIMEOUT_S, lambda: http.send(request, stream=True))
    except TimeoutError as error:
        raise SourceError(f"{host} did not answer within {ANSWER_TIMEOUT_S} s.") from error
    except httpx.HTTPError as error:
        raise SourceError(f"{host} is out of reach ({type(error).__name__}: {error}).") from error


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, or `TimeoutError`. In a daemon thread: a name look-up has no time-out of its own."""
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread whole
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True, name="first answer").start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # no error: there is a result


def _refuse_plain_http(url: httpx.URL, sum_known: bool) -> None:
    if url.scheme == "https" or (url.scheme == "http" and (sum_known or _is_this_machine(url.host))):
        return
    raise SourceError(f"{url} is not HTTPS and no SHA-256 is known for it. Use https://, or give --sha256.")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _content_range(response: httpx.Response) -> tuple[int, int | None]:
    matched = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if matched is None:
        raise SourceError(f"{response.url} answered 206 without a proper Content-Range.")
    return int(matched[1]), None if matched[2] == "*" else int(matched[2])


def _content_length(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _validator(response: httpx.Response) -> str:
    etag: str = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(note: Path) -> _Version | None:
    try:
        return _Version(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _FREE_SPACE_LEFT_BYTES:
        raise SourceError(
            f"{folder} has {free / 1e6:.0f} MB free; {needed_bytes / 1e6:.0f} MB are to be downloaded and"
            f" {_FREE_SPACE_LEFT_BYTES / 1e6:.0f} MB are to stay free."
        )
