"""How a server says no to a stream, and why one ended."""

from __future__ import annotations

import json
from math import isfinite

from trio_stt.dialects.events import Close


class ServerUnreachableError(Exception):
    """No WebSocket server answered at the address."""


class StreamRefusedError(Exception):
    """The server answered the request with an HTTP error. The message is the server's own, where it gave one."""

    def __init__(
        self, status: int, code: str | None, message: str, parameter: str | None, retry_after_s: float | None
    ) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.code = code
        self.message = message
        self.parameter = parameter
        self.retry_after_s = retry_after_s


class StreamClosedError(Exception):
    """The connection is closed. `close.code` 1006: without a close frame."""

    def __init__(self, close: Close) -> None:
        super().__init__(f"the server closed the connection: {close.code} {close.reason}".rstrip())
        self.close = close


def read_refusal(status: int, retry_after: str | bytes | None, body: bytes) -> StreamRefusedError:
    """The HTTP error `status` with its ``Retry-After`` header and its body, each of which may be anything."""
    try:
        retry_after_s = None if retry_after is None else float(retry_after)
    except ValueError:
        retry_after_s = None
    if retry_after_s is not None and not (isfinite(retry_after_s) and retry_after_s >= 0):
        retry_after_s = None
    try:
        error = json.loads(body)["error"]
        code, message, parameter = error["code"], error["message"], error.get("parameter")
    except (ValueError, KeyError, TypeError, AttributeError):  # not our server's body: a proxy's, for example
        code, message, parameter = None, "the server refused the stream", None
    return StreamRefusedError(status, code, message, parameter, retry_after_s)
