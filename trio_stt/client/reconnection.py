"""When a client that lost its connection tries again, and where (docs/resume.md, "When to try again")."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import inf, isfinite
from random import Random

RESUMABLE_CLOSES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4008})
"""Close codes after which another connection may do better. RFC 6455 reserves 1005, 1006 and 1015 for closes without a
frame, or without a code, and 1014 is a gateway's; the rest are the server's (docs/wire.md)."""

FIRST_BACK_OFF_S = 0.1
"""Longest wait before the first try: the clients of an instance that died spread over it."""

LONGEST_BACK_OFF_S = 10.0

FIRST_LIMIT_S = 1.0
"""How long an upgrade, and then a ``ready``, may take; it doubles with each that takes longer."""

LONGEST_LIMIT_S = 10.0


class Verdict(Enum):
    """What a client does after an answer or a close that it did not ask for."""

    RESUME = "resume"
    NEW_BEARER = "new bearer"
    NEW_STREAM = "new stream"
    REPLACED = "replaced"
    END = "end"


def verdict_on_close(code: int, failure_code: str | None) -> Verdict:
    """What follows on a close with `code`; `failure_code` is that of the last error before it. Not for 1000."""
    if code in RESUMABLE_CLOSES:
        return Verdict.RESUME
    if code == 1008 and failure_code == "token_expired":
        return Verdict.NEW_BEARER
    if code == 1008 and failure_code == "resume_refused":
        return Verdict.NEW_STREAM
    return Verdict.REPLACED if code == 4001 else Verdict.END


def verdict_on_status(status: int, code: str | None, parameter: str | None) -> Verdict:
    """What follows on the HTTP answer `status`, with the `code` and `parameter` of its body."""
    if status == 429 or status >= 500:
        return Verdict.RESUME
    if status == 401:
        return Verdict.NEW_BEARER
    if status == 400 and code == "not_available" and parameter == "resume":
        return Verdict.NEW_STREAM
    return Verdict.END


class Reconnection:
    """Picks server and moment of each try: servers in turn, full jitter, and no server before its ``Retry-After``."""

    def __init__(self, servers: Sequence[str], random: Random) -> None:
        self._servers = tuple(servers)
        self._not_before = [-inf] * len(servers)
        self._turn = 0
        self._random = random
        self._tries = 0
        self._slow_tries = 0

    @property
    def limit_s(self) -> float:
        """How long the next upgrade or ``ready`` may take."""
        return min(FIRST_LIMIT_S * 2.0**self._slow_tries, LONGEST_LIMIT_S)

    def next_try(self, now: float) -> float:
        """When to try again, at `now`, after a try or a connection that failed.

        The longest wait doubles each time that all servers were tried in vain.
        """
        rounds = min(self._tries // len(self._servers), 16)
        longest_s = min(FIRST_BACK_OFF_S * 2.0**rounds, LONGEST_BACK_OFF_S)
        self._tries += 1
        return max(now, min(self._not_before)) + self._random.uniform(0, longest_s)

    def spread(self, now: float, within_s: float) -> float:
        """A random moment from `now` on, `within_s` seconds at most."""
        return now + self._random.uniform(0, within_s)

    def pick(self, now: float) -> int:
        """The number of the server to try now: the next in turn that may be asked."""
        order = [(self._turn + step) % len(self._servers) for step in range(len(self._servers))]
        return next((number for number in order if self._not_before[number] <= now), order[0])

    def address(self, server: int) -> str:
        """The address of the server with this number."""
        return self._servers[server]

    def turn_away(self, server: int, until: float | None = None) -> None:
        """`server` failed, or wants not to be asked before `until`: the others come first."""
        self._turn = (server + 1) % len(self._servers)
        if until is not None and isfinite(until):
            self._not_before[server] = until

    def too_slow(self) -> None:
        """A try took longer than `limit_s`."""
        self._slow_tries = min(self._slow_tries + 1, 16)

    def ready(self) -> None:
        """A ``ready`` came."""
        self._slow_tries = 0

    def steady(self) -> None:
        """The connection proved good: the next loss is a new one."""
        self._tries = 0
