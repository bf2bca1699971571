"""What rooms and their participants are called on the server, whose names are shorter and of fewer characters.

Different names stay different: what does not fit is written with the prefix `lk:` and `:` and two hexadecimal digits
for each byte that does not fit, or, where that is too long, as a hash. No escaped name has a ``-``, no plain one the
prefix, and none but that of screen sound ends in `-screen`.
"""

from __future__ import annotations

import hashlib
import re

_PREFIX = "lk:"
_SCREEN = "-screen"
_PLAIN = re.compile(r"[A-Za-z0-9._:@-]{1,100}")
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@")
_LONGEST = 100
"""Of a name's 128 characters; the rest is for what is put behind it."""

LISTENER = f"{_PREFIX}-captions"
"""The agent's own client in a call, which listens to it; no participant is called so."""


def call_name(room_name: str) -> str:
    """The session on the server in which a room's participants speak: its name, where that fits."""
    return _name(room_name)


def speaker_name(identity: str) -> str:
    """The client on the server that speaks for a participant's microphone: its identity, where that fits."""
    return _name(identity)


def screen_name(identity: str) -> str:
    """The client for the sound of the screen that a participant shares."""
    return _name(identity) + _SCREEN


def other_name(identity: str, track_sid: str) -> str:
    """The client for another sound of a participant, such as a second microphone."""
    return f"{_escaped(identity)}-{track_sid}"


def _name(text: str) -> str:
    fits = _PLAIN.fullmatch(text) and not text.startswith(_PREFIX) and not text.endswith(_SCREEN)
    return text if fits else _escaped(text)


def _escaped(text: str) -> str:
    name = _PREFIX + "".join(chr(byte) if byte in _SAFE else f":{byte:02x}" for byte in text.encode())
    return name if len(name) <= _LONGEST else f"{_PREFIX}:{hashlib.sha256(text.encode()).hexdigest()}"
