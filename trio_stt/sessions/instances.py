"""What the instances of one service know of each other: each tells the bus about itself, and reads about all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import trio
from attrs import evolve

from trio_stt.operations.health import PartHealth, Status
from trio_stt.sessions.bus import Bus, InstanceRecord, InstanceSeen, Outcome

TELL_EVERY_S: Final = 1.0
"""How often this instance tells about itself and reads about the others; five times in a record's life."""

NEWS_S: Final = 3 * TELL_EVERY_S
"""What another said so long ago need not be so any more."""


class Instances:
    """All instances, as this one knows them. Asking it waits for nothing: what was read last is told."""

    def __init__(self, bus: Bus, describe: Callable[[], InstanceRecord], *, alone: bool) -> None:
        """`describe` tells of this instance as it is now. `alone`: its bus reaches no others."""
        self._bus = bus
        self._describe = describe
        self._alone = alone
        self._others: Sequence[InstanceSeen] = ()
        self._known_at: float | None = None  # Unix seconds; None: nothing was read yet
        self._read_at = 0.0
        self._missed = False  # the last reading failed

    async def run(self) -> None:
        """Keeps telling and reading until cancelled."""
        while True:
            own = self._describe()
            seen = await self._bus.meet_instances(own)
            self._missed = seen is Outcome.DOWN
            if seen is not Outcome.DOWN:
                self._others = [one for one in seen if one.record.name != own.name]
                self._known_at = time.time()
                self._read_at = trio.current_time()
            await trio.sleep(TELL_EVERY_S)

    def seen(self) -> list[InstanceSeen]:
        """Itself as it is, and the others as they were read last; ordered by name."""
        since_s = trio.current_time() - self._read_at
        others = [evolve(one, age_s=one.age_s + since_s) for one in self._others]
        return sorted([InstanceSeen(self._describe(), 0.0), *others], key=lambda one: one.record.name)

    @property
    def behind_elsewhere(self) -> int:
        """Streams that were resumed lately and are behind, on other instances; what is old counts no more."""
        since_s = trio.current_time() - self._read_at
        return sum(one.record.behind for one in self._others if one.age_s + since_s < NEWS_S)

    def figures(self) -> dict[str, object]:
        """The sums, each instance, and when (Unix seconds; None: never) the others were read."""
        seen = self.seen()
        return {
            "count": len(seen),
            "ready": sum(one.record.ready for one in seen),
            "streams": sum(one.record.streams for one in seen),
            "parked": sum(one.record.parked for one in seen),
            "behind": sum(one.record.behind for one in seen),
            "limit": sum(one.record.limit for one in seen),
            "known_at": self._known_at,
            "instances": [_shown(one) for one in seen],
        }

    def health(self) -> PartHealth:
        """Degraded while what is told of the others may be out of date; never for how the others are."""
        figures = self.figures()
        if self._alone:
            return PartHealth(Status.HEALTHY, "none: without REDIS_URL this instance knows of no others", figures)
        if self._bus.up and not self._missed:
            return PartHealth(Status.HEALTHY, f"{figures['ready']} of {figures['count']} ready", figures)
        why = "the bus does not tell" if self._bus.up else "the bus is away"
        if self._known_at is None:
            return PartHealth(Status.DEGRADED, f"{why}: nothing is known of other instances", figures)
        since_s = trio.current_time() - self._read_at
        return PartHealth(Status.DEGRADED, f"{why}: other instances as they were {since_s:.0f} s ago", figures)


def _shown(seen: InstanceSeen) -> dict[str, object]:
    record = seen.record
    return {
        "instance": record.name,
        "version": record.version,
        "readiness": record.readiness,
        "ready": record.ready,
        "streams": record.streams,
        "parked": record.parked,
        "behind": record.behind,
        "limit": record.limit,
        "level": record.level,
        "memory_mb": record.memory_mb,
        "age_seconds": round(seen.age_s, 3),
    }
