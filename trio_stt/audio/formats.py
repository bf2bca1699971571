"""Encoded samples, as clients send them, to 16-bit samples. G.711 by table: one numpy look-up a message."""

from __future__ import annotations

import numpy as np

from trio_stt.audio.samples import Samples

_CODES = np.arange(256, dtype=np.int32)


def _mulaw_table() -> Samples:
    """ITU-T G.711 µ-law: the inverted code holds sign, 3 bits of exponent, 4 of mantissa; 0x84 is the coder's bias."""
    code = _CODES ^ 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Samples:
    """ITU-T G.711 A-law: every second bit is inverted; exponent 0 is the linear part. A set sign bit is positive."""
    code = _CODES ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_TABLES: dict[str, Samples | None] = {"pcm_s16le": None, "mulaw": _mulaw_table(), "alaw": _alaw_table()}


def sample_bytes(encoding: str) -> int:
    """Bytes that one sample takes in `encoding` (`pcm_s16le`, `mulaw`, `alaw`). Raises ValueError for any other."""
    return 2 if _table(encoding) is None else 1


def decode(payload: bytes, encoding: str) -> Samples:
    """The samples in `payload`, shape (n,); the array may be a read-only view of it.

    Raises ValueError when `payload` ends in half a sample, or for an unknown encoding.
    """
    table = _table(encoding)
    if table is not None:
        return table[np.frombuffer(payload, np.uint8)]
    if len(payload) % 2:
        raise ValueError(f"{len(payload)} bytes of {encoding} end in half a sample: expected an even number")
    return np.frombuffer(payload, "<i2").astype(np.int16, copy=False)


def _table(encoding: str) -> Samples | None:
    if encoding not in _TABLES:
        raise ValueError(f"unknown encoding {encoding!r}: expected one of {', '.join(_TABLES)}")
    return _TABLES[encoding]
