"""Ports for servers that are told where to listen before they do."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

_RANGE: Final = (20_000, 32_768)
"""Below the ports that Linux gives outgoing connections (`ip_local_port_range`): one of those, made between the look
and the server's start, would take a port of that range away."""

_TRIES: Final = 1000

_dice = random.SystemRandom()


def free_ports(count: int = 1, address: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """The first of `count` free ports in a row of `address`; chance chooses, so that two who ask get different ones.

    Raises OSError if none are found.
    """
    for _ in range(_TRIES):
        first = _dice.randrange(_RANGE[0], _RANGE[1] - count)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket(type=kind)).bind((address, port))
            return first
    raise OSError(f"no {count} free ports in a row on {address}")
