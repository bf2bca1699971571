"""Where a client really is, and how many WebSockets one address may have."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trio_stt.dialects.request import Refusal
from trio_stt.settings import Network

RETRY_AFTER_S = 10
"""What an address with too many connections is told to wait."""

_IPV6_SUBSCRIBER_BITS = 64  # what one subscriber usually has (RFC 6177)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Addresses:
    """Counts connections by client address; proxies that are trusted say which that is."""

    def __init__(self, *, trusted_proxies: Sequence[Network], max_connections: int) -> None:
        """`max_connections` 0: any number."""
        self._trusted = tuple(trusted_proxies)
        self._max_connections = max_connections
        self._connections: Counter[str] = Counter()

    def is_proxied(self, peer: str, forwarded_for: Sequence[str]) -> bool:
        """Whether a request from `peer` came through a trusted proxy; see `client`."""
        return bool(forwarded_for) and self._is_trusted(_parsed(peer))

    def client(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Who is counted: `peer`, or whom trusted proxies name in ``X-Forwarded-For`` (all such headers, in order).

        Each proxy adds at the end whom it heard from, so the last address that is no trusted proxy's own is believed;
        what stands before it may be made up. Of an IPv6 address the /64.
        """
        address = _parsed(peer)
        named = [part.strip() for line in forwarded_for for part in line.split(",")]
        while named and self._is_trusted(address):
            before = _parsed(named.pop())
            if before is None:
                break
            address = before
        return peer if address is None else _counted(address)

    def refusal(self, client: str) -> Refusal | None:
        """Why that address may not have another connection now, or None."""
        if not self._max_connections or self._connections[client] < self._max_connections:
            return None
        message = (
            f"there are {self._max_connections} connections from this address already; try again in {RETRY_AFTER_S} s"
        )
        return Refusal(429, "too_many_connections", message, retry_after_s=RETRY_AFTER_S)

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Counts one connection until the block is left."""
        self._connections[client] += 1
        try:
            yield
        finally:
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _counted(address: Address) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _IPV6_SUBSCRIBER_BITS), strict=False))
