"""What goes between the agent and the synthesiser's process.

There: a JSON object a line, ``{"id": 1, "text": …, "voice": …}`` or ``{"cancel": 1}``, with ids that grow; the end
of the stream ends the process. Back: frames of a JSON object and samples, each after its length in bytes, four of them,
big-endian. The first says ``{"status": "ready"}`` or ``failed``, and why; each request is answered once, as it came:
``spoken`` with samples, ``cancelled``, or ``failed``.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Final

SAMPLE_RATE: Final = 24_000
"""Kokoro's own. Samples are signed 16-bit, little-endian, mono."""

LENGTHS: Final = struct.Struct(">II")
"""Of the object and of the samples that follow it."""

MOST_SAMPLES_BYTES: Final = 60 * SAMPLE_RATE * 2
MOST_OBJECT_BYTES: Final = 16 * 1024


def line(content: dict[str, Any]) -> bytes:
    """An object for the synthesiser."""
    return json.dumps(content).encode() + b"\n"


def write_frame(stream: BinaryIO, content: dict[str, Any], samples: bytes = b"") -> None:
    """A frame from the synthesiser. Raises `OSError` when nobody reads any more."""
    head = json.dumps(content).encode()
    stream.write(LENGTHS.pack(len(head), len(samples)) + head + samples)
    stream.flush()
