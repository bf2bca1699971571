"""Which web pages may connect. A browser names the page's origin (RFC 6454); what is no browser names none."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from trio_stt.dialects.request import Refusal, shown


class Origins:
    """An allow-list. Connections without an ``Origin`` header, which no page can make, always pass."""

    def __init__(self, allowed: Sequence[str], *, only_own_pages: bool) -> None:
        """`allowed`: in lower case; ``*``: all. An empty list means all, or with `only_own_pages` this machine's."""
        self._allowed = frozenset(allowed)
        self._only_own_pages = only_own_pages

    def refusal(self, origins: Sequence[str]) -> Refusal | None:
        """Why a page may not connect, given all ``Origin`` headers of its request, or None."""
        for origin in map(str.lower, origins):
            if not self._allows(origin):
                message = f"pages of {shown(origin)} may not connect; the setting ALLOWED_ORIGINS names those that may"
                return Refusal(403, "origin_not_allowed", message)
        return None

    def _allows(self, origin: str) -> bool:
        if self._allowed:
            return "*" in self._allowed or origin in self._allowed
        return not self._only_own_pages or _is_of_this_machine(origin)


def _is_of_this_machine(origin: str) -> bool:
    if origin == "file://":
        return True
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
