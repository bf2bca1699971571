"""A WebSocket client's bytes (RFC 6455), made before they are needed, and no more parsing than a benchmark needs."""

from __future__ import annotations

import base64
import os

import numpy as np
from attrs import frozen

TEXT = 1
"""Opcode of a text message."""
BINARY = 2
"""Opcode of a binary message."""
CLOSE = 8
"""Opcode of a close frame."""
PING = 9
"""Opcode of a ping."""
PONG = 10
"""Opcode of a pong."""

_CONTINUATION = 0
_FINAL = 0x80
_MASKED = 0x80
_SHORT = 126  # lengths below stand in the second byte; 126: two more bytes; 127: eight more
_LONG = 127


@frozen
class Answer:
    """The answer to an upgrade: its HTTP status and its Retry-After in seconds, if it has one."""

    status: int
    retry_after_s: float | None


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """One whole message as a client has to send it, with a mask of its own."""
    mask = os.urandom(4)
    size = len(payload)
    if size < _SHORT:
        head = bytes((_FINAL | opcode, _MASKED | size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, _MASKED | _SHORT)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, _MASKED | _LONG)) + size.to_bytes(8, "big")
    key = np.resize(np.frombuffer(mask, np.uint8), size)
    return head + mask + np.bitwise_xor(np.frombuffer(payload, np.uint8), key).tobytes()


def upgrade_request(host: str, port: int, target: str) -> bytes:
    """The request that opens a WebSocket at `target` (path and query). Compression is not offered."""
    key = base64.b64encode(os.urandom(16)).decode("ascii")
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode("ascii")


def read_answer(data: bytes) -> tuple[Answer, bytes] | None:
    """The answer that `data` begins with, and what follows it; None while its head is not whole.

    Raises ValueError if it is no HTTP answer. The accept key is not checked: a benchmark trusts its server.
    """
    head, whole, rest = data.partition(b"\r\n\r\n")
    if not whole:
        return None
    status_line, *lines = head.split(b"\r\n")
    protocol, _, status = status_line.partition(b" ")
    if not protocol.startswith(b"HTTP/1."):
        raise ValueError(f"{status_line[:80]!r} is not the first line of an HTTP answer")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    retry_after = fields.get(b"retry-after", b"")
    return Answer(int(status[:3]), float(retry_after) if retry_after.isdigit() else None), rest


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole frames of a server that `data` begins with, as opcode and payload, and the bytes that are left.

    A frame that is not the last of its message keeps its bytes in front of the rest, until the message is whole.
    """
    frames: list[tuple[int, bytes]] = []
    parts: list[bytes] = []
    opcode = begin = at = 0
    while len(data) - at >= 2:
        first, size = data[at], data[at + 1]
        body = at + 2
        if size >= _SHORT:
            extended = 2 if size == _SHORT else 8
            if len(data) < body + extended:
                break
            size = int.from_bytes(data[body : body + extended], "big")
            body += extended
        if len(data) < body + size:
            break
        payload = data[body : body + size]
        at = body + size
        kind = first & 0x0F
        if kind >= CLOSE and parts:  # a control frame between the parts of a message
            raise ValueError("a control frame inside a message: the benchmark does not read those")
        if not first & _FINAL:
            opcode = kind or opcode
            parts.append(payload)
            continue
        if kind == _CONTINUATION:
            frames.append((opcode, b"".join((*parts, payload))))
            parts = []
        else:
            frames.append((kind, payload))
        begin = at
    return frames, data[begin:]
