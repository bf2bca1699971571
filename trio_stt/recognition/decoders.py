"""The threads that decode: as many at once as the instance has cores, whatever the number of streams."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import trio
from attrs import frozen

T = TypeVar("T")


@frozen
class DecoderStatistics:
    """Threads in use and in all, calls waiting for one, and the age in seconds of the oldest call under way.

    `delay_s`: how late recent calls began, in seconds, smoothed.
    """

    busy: int
    threads: int
    waiting: int
    calls: int
    oldest_call_s: float
    delay_s: float


@frozen
class CallUnderWay:
    """A call that has begun and not returned: whose it is, and how long it has taken so far."""

    owner: str
    age_s: float


_DELAY_WEIGHT = 0.05  # of the newest call


MAX_CHUNK_MS = 400
"""Longest chunk: partials come later and later, finals do not."""

SPEAKERS_AT_EASE = 2
"""Speakers a thread serves with the shortest chunks. With more, each call finds the processor's caches cold, and fewer
but longer calls cost less for the same audio."""


def chunk_ms(shortest_ms: int, speaking: int, threads: int) -> int:
    """How much audio a call is given when `speaking` speakers share `threads` threads, in ms."""
    return min(max(MAX_CHUNK_MS, shortest_ms), shortest_ms * max(1, math.ceil(speaking / (SPEAKERS_AT_EASE * threads))))


class Decoders:
    """Runs blocking recogniser calls in worker threads, first come, first served."""

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._calls = 0
        self._under_way: dict[int, tuple[float, str]] = {}
        self._delay_s = 0.0

    async def run(self, call: Callable[[], T], owner: str = "") -> T:
        """Runs `call` in a thread and returns or raises what it did. `owner`: the stream it is for; "": the instance.

        Waiting for a thread may be cancelled; a call that has begun is always waited for, because a thread that was
        left behind would go on using a recogniser that somebody else is given.
        """
        self._calls += 1
        number = self._calls
        asked = time.monotonic()

        def timed() -> T:
            began = time.monotonic()
            self._delay_s += (began - asked - self._delay_s) * _DELAY_WEIGHT
            self._under_way[number] = began, owner
            try:
                return call()
            finally:
                del self._under_way[number]

        return await trio.to_thread.run_sync(timed, limiter=self._limiter, abandon_on_cancel=False)

    def under_way(self) -> list[CallUnderWay]:
        """The calls that have begun and not returned, the oldest first."""
        now = time.monotonic()
        calls = sorted(self._under_way.values())
        return [CallUnderWay(owner, now - began) for began, owner in calls]

    def statistics(self) -> DecoderStatistics:
        """A snapshot, for health and metrics."""
        limiter = self._limiter.statistics()
        oldest = max((call.age_s for call in self.under_way()), default=0.0)
        return DecoderStatistics(
            limiter.borrowed_tokens,
            int(limiter.total_tokens),
            limiter.tasks_waiting,
            self._calls,
            oldest,
            self._delay_s,
        )
