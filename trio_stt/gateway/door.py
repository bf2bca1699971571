"""What every request for a WebSocket is asked before it is understood: where from, how many already, by what right."""

from __future__ import annotations

from attrs import frozen
from websockets.datastructures import Headers

from trio_stt.dialects.request import Refusal
from trio_stt.gateway.addresses import Addresses
from trio_stt.gateway.auth import EVERYTHING, Authenticator, Grant, token_of
from trio_stt.gateway.origins import Origins


@frozen
class Visitor:
    """Who asks: the address that is counted, and what it may do."""

    address: str
    grant: Grant


class Door:
    """Refuses, cheapest question first: 403 for the page, 429 for the address, 401 for the token."""

    def __init__(self, origins: Origins, addresses: Addresses, authenticator: Authenticator | None) -> None:
        """`authenticator` None: nobody is asked for a token."""
        self._origins = origins
        self._addresses = addresses
        self._authenticator = authenticator

    def look(self, peer: str, headers: Headers) -> Visitor | Refusal:
        """Who comes from the TCP address `peer` with these headers, or why not. Counts nobody yet."""
        address = self._addresses.client(peer, headers.get_all("X-Forwarded-For"))
        refusal = self._origins.refusal(headers.get_all("Origin")) or self._addresses.refusal(address)
        if refusal is not None:
            return refusal
        grant = self._grant(headers)
        return grant if isinstance(grant, Refusal) else Visitor(address, grant)

    def _grant(self, headers: Headers) -> Grant | Refusal:
        if self._authenticator is None:
            return EVERYTHING
        token = token_of(headers.get_all("Authorization"), headers.get_all("Sec-WebSocket-Protocol"))
        return token if isinstance(token, Refusal) else self._authenticator.verify(token)
