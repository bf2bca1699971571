"""The health of one instance: parts that each say how they are; the worst one counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from attrs import field, frozen

CONTAINER = Path("/sys/fs/cgroup")
"""Where cgroup v2 tells a container's bound and use of memory."""


class Status(IntEnum):
    """How well a part works; ordered from good to bad."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2

    def __str__(self) -> str:
        return self.name.lower()


@frozen
class PartHealth:
    """One part's state, a sentence for people, and figures."""

    status: Status
    message: str
    figures: dict[str, object] = field(factory=dict)


class Health:
    """Asks every part when somebody asks it. Parts are added by those who build them."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], PartHealth]] = {}
        self._started = time.monotonic()

    def add(self, name: str, ask: Callable[[], PartHealth]) -> None:
        """`ask` must answer at once."""
        self._parts[name] = ask

    @property
    def uptime_s(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._started

    def parts(self) -> dict[str, PartHealth]:
        """How every part is now."""
        return {name: ask() for name, ask in self._parts.items()}


def worst(parts: dict[str, PartHealth]) -> Status:
    """The status of the whole."""
    return max((part.status for part in parts.values()), default=Status.HEALTHY)


def memory_health(degraded: float, unhealthy: float) -> PartHealth:
    """How full the machine's memory is (the container's, where it has a bound); thresholds are shares from 0 to 1."""
    used = _memory_used()
    if used is None:
        return PartHealth(Status.HEALTHY, "not measured on this system")
    status = Status.UNHEALTHY if used > unhealthy else Status.DEGRADED if used > degraded else Status.HEALTHY
    return PartHealth(status, f"{used:.0%} of memory in use", {"used": round(used, 3)})


def _reclaimable_cache() -> int:
    """Bytes of files that the kernel keeps because nobody else wants the memory."""
    stat = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
    return int(stat.get("inactive_file", 0))


def _memory_used() -> float | None:
    # Container bound first (cgroup v2), then the machine.
    try:
        limit = (CONTAINER / "memory.max").read_text().strip()
        if limit != "max":
            used = int((CONTAINER / "memory.current").read_text())
            return (used - _reclaimable_cache()) / int(limit)
    except (OSError, ValueError):
        pass
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split()[1:]}
    return 1 - values["MemAvailable"] / values["MemTotal"]
