"""How many instances are needed: more at once when places run short, fewer only after a long time of ease."""

from __future__ import annotations

from attrs import define, frozen

CROWDED = 0.8
"""Share of all places in use from which one more instance is started; a start takes seconds, and people come."""

AT_EASE = 0.5
"""One fewer would do if, without it, no more of the remaining places than this were in use."""

EASE_S = 600.0
"""So long without a break before one is ended: a pause between two calls is no reason."""

SETTLE_S = 15.0
"""After a change: until a new instance has loaded its model and shows what it can take."""


@frozen
class Use:
    """Speaking streams of one instance, and how many it would let in by now."""

    streams: int
    limit: int


@define
class Autoscale:
    """Times are passed in, in seconds of any clock."""

    _changed_at: float | None = None
    _ease_since: float | None = None

    def decide(self, now: float, use: list[Use], *, instances: int, least: int, most: int) -> int:
        """How many instances there should be, now that there are so many, of which those in `use` have answered."""
        within = min(max(instances, least), most)
        if within != instances:
            return self._change(now, within)
        limit = sum(each.limit for each in use)
        streams = sum(each.streams for each in use)
        if len(use) < instances or not limit:
            self._ease_since = None
            return instances
        at_ease = instances > least and streams <= AT_EASE * limit * (instances - 1) / instances
        self._ease_since = (self._ease_since if self._ease_since is not None else now) if at_ease else None
        if self._changed_at is not None and now - self._changed_at < SETTLE_S:
            return instances
        if streams >= CROWDED * limit and instances < most:
            return self._change(now, instances + 1)
        if self._ease_since is not None and now - self._ease_since >= EASE_S:
            return self._change(now, instances - 1)
        return instances

    def _change(self, now: float, instances: int) -> int:
        self._changed_at, self._ease_since = now, None
        return instances
