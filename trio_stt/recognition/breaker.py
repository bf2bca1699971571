"""A circuit breaker for one (engine, model): stops calling what keeps failing, and finds out when it works again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum

import trio
from attrs import frozen

FAILURE_RATIO = 0.5
"""Share of failed calls, among the last ones, at which the breaker opens."""

MAX_WAIT_FACTOR = 2**6
"""The waits double up to this many times the first one."""


class BreakerState(Enum):
    """`CLOSED`: calls pass. `OPEN`: none does. `HALF_OPEN`: one probe is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@frozen
class BreakerStatistics:
    """What the breaker saw: its state, the calls it remembers and the failures among them, and how often it opened."""

    state: BreakerState
    calls: int
    failures: int
    opened: int
    retry_after_s: float


def breaker_name(engine: str, model: str) -> str:
    """What the breaker of that engine with that model is called in health, statistics and logs."""
    return f"{engine}:{model}"


class Breaker:
    """Closed → open at half of the last `min_calls` failing → half-open after a wait → closed by a good probe.

    Live traffic is never the probe: `keep_probing` runs its own. Cancelled calls are not recorded at all.
    """

    def __init__(
        self,
        name: str,
        *,
        min_calls: int,
        wait_s: float,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[BreakerState], None] = lambda state: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """`wait_s`: seconds before the first probe; doubles with each failed one; up to a quarter more by `jitter`."""
        self.name = name
        self.state = BreakerState.CLOSED
        self._recent: deque[bool] = deque(maxlen=min_calls)
        self._wait_s = wait_s
        self._jitter = jitter
        self._on_change = on_change
        self._on_failure = on_failure
        self._opened = 0
        self._failed_probes = 0
        self._probe_at = 0.0
        self._closed = trio.Event()
        self._closed.set()
        self._open = trio.Event()

    @property
    def admits(self) -> bool:
        """Whether calls pass now."""
        return self.state is BreakerState.CLOSED

    def record(self, *, ok: bool) -> None:
        """Notes the outcome of one call that passed; opens the breaker when half of the last ones failed."""
        if not ok:
            self._on_failure()
        if self.state is not BreakerState.CLOSED:
            return
        self._recent.append(ok)
        failures = self._recent.count(False)
        if len(self._recent) == self._recent.maxlen and failures >= FAILURE_RATIO * len(self._recent):
            self.trip()

    def trip(self) -> None:
        """Opens the breaker now, if it is closed."""
        if not self.admits:
            return
        self._opened += 1
        self._schedule_probe()
        self._closed = trio.Event()
        self._become(BreakerState.OPEN)
        self._open.set()

    def reset(self) -> None:
        """Closes the breaker now and forgets the past."""
        self._recent.clear()
        self._failed_probes = 0
        if self.admits:
            return
        self._open = trio.Event()
        self._become(BreakerState.CLOSED)
        self._closed.set()

    async def wait_closed(self) -> None:
        """Returns when calls pass; may be cancelled."""
        while not self.admits:
            await self._closed.wait()

    async def keep_probing(self, probe: Callable[[], Awaitable[bool]]) -> None:
        """Runs for ever: whenever the breaker is open, waits and then asks `probe` whether calls would work again."""
        while True:
            await self._open.wait()
            await trio.sleep_until(self._probe_at)
            if self.state is not BreakerState.OPEN:  # somebody reset it meanwhile
                continue
            self._become(BreakerState.HALF_OPEN)
            if await probe():
                self.reset()
            elif not self.admits:
                self._failed_probes += 1
                self._schedule_probe()
                self._become(BreakerState.OPEN)

    def statistics(self) -> BreakerStatistics:
        """A snapshot, for health and metrics."""
        wait = 0.0 if self.admits else max(0.0, self._probe_at - trio.current_time())
        return BreakerStatistics(self.state, len(self._recent), self._recent.count(False), self._opened, wait)

    def _schedule_probe(self) -> None:
        wait = self._wait_s * min(2**self._failed_probes, MAX_WAIT_FACTOR)
        self._probe_at = trio.current_time() + wait * (1 + self._jitter() / 4)

    def _become(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state)
