"""Streams whose clients are away and may come back: what they were let in for waits, without a place among the others.

They hold memory, so there may be only so many. Of too many, the one that has waited longest ends at once, of the tenant
that has the most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import define

from trio_stt.dialects.events import StreamRequest


@define(eq=False)
class _Parked:
    request: StreamRequest
    end: Callable[[], None]
    expected: bool = True  # no connection has been let in for it

    def is_of(self, request: StreamRequest) -> bool:
        mine, others = self.request, request
        return (mine.tenant, mine.session_id, mine.client_id) == (others.tenant, others.session_id, others.client_id)


class Parking:
    """The parked streams of one instance."""

    def __init__(self, *, most: Callable[[], int], most_of_tenant: Callable[[str], int]) -> None:
        """How many there may be now, of all tenants together and of one (0: as many)."""
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._parked: dict[_Parked, None] = {}  # the one that has waited longest first

    def __len__(self) -> int:
        return len(self._parked)

    def expects(self, request: StreamRequest) -> bool:
        """Whether a stream of that client waits, and no connection of its was let in for it yet."""
        return self._find(request) is not None

    @contextmanager
    def park(self, request: StreamRequest, end: Callable[[], None]) -> Iterator[None]:
        """Counts a stream that waits, until the block is left. `end`: finishes it; it returns at once.

        If there are too many then, one of them is ended, and counts no more.
        """
        parked = _Parked(request, end)
        self._parked[parked] = None
        self._end_surplus(request.tenant)
        try:
            yield
        finally:
            self._parked.pop(parked, None)

    @contextmanager
    def come_back(self, request: StreamRequest) -> Iterator[None]:
        """A connection of that client was let in: until the block is left, no other is expected for its stream."""
        parked = self._find(request)
        if parked is None:
            yield
            return
        parked.expected = False
        try:
            yield
        finally:
            parked.expected = True

    def _find(self, request: StreamRequest) -> _Parked | None:
        if not request.speak:
            return None
        return next((parked for parked in self._parked if parked.expected and parked.is_of(request)), None)

    def _end_surplus(self, tenant: str) -> None:
        counts = Counter(parked.request.tenant for parked in self._parked)
        most = self._most_of_tenant(tenant)
        if most and counts[tenant] > most:
            self._end_oldest_of(tenant)
        elif len(self._parked) > self._most():
            self._end_oldest_of(max(counts, key=lambda name: counts[name]))

    def _end_oldest_of(self, tenant: str) -> None:
        oldest = next(parked for parked in self._parked if parked.request.tenant == tenant)
        del self._parked[oldest]
        oldest.end()
