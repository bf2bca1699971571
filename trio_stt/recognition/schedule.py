"""Whose recogniser call is made next: by due time, in turn between tenants. Sans-IO: the time is told.

A call is due when its last sample would have been spoken, however early it was sent: who sends faster than real time
is served ahead of that only while nobody else's call is due. Tenants whose calls are due share the threads by deficit
round robin on seconds of audio (M. Shreedhar, G. Varghese, "Efficient fair queuing using deficit round robin", 1995):
one with a hundred speakers does not delay one with a single speaker.

What a resumed stream held while it had no server is late already, and due at once. But when an instance has died many
of them come together, so that all of it gets at most every second call, and at most half of the audio, while other
calls are due: who speaks on undisturbed is captioned as before.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import Final, Generic, Protocol, TypeVar

from attrs import define, field, frozen

FINAL_HEAD_START_S = 0.4
"""How much earlier than the others' a call counts that ends an utterance: by a longest chunk. Finals come first, and
still nobody can starve the others by ending utterances all the time."""

QUANTUM_S = 0.4
"""Seconds of audio that a tenant is given each time it has its turn: those of a longest chunk."""


_ROUNDING: Final = 1e-9


@frozen
class Turn:
    """What decides when a call is made: its due time (on the caller's clock), its audio, for whom, whether it ends.

    `catch_up`: its audio was spoken while the stream had no server.
    """

    due: float = -math.inf
    audio_s: float = 0.0
    tenant: str = ""
    ends_utterance: bool = False
    catch_up: bool = False

    @property
    def rank(self) -> float:
        """The due time with the head start; the smaller the earlier."""
        return self.due - FINAL_HEAD_START_S if self.ends_utterance else self.due


class Job(Protocol):
    """What is scheduled."""

    turn: Turn


J = TypeVar("J", bound=Job)


@define
class _Tenant(Generic[J]):
    name: str
    waiting: list[tuple[float, int, J]] = field(factory=list)  # a heap, by rank
    deficit_s: float = 0.0


class Schedule(Generic[J]):
    """Jobs that wait. Not safe for threads: its owner holds a lock."""

    def __init__(self) -> None:
        self._live: _Queue[J] = _Queue()
        self._catch_up: _Queue[J] = _Queue()
        self._owed_s = 0.0  # audio that live jobs are given before catch-up has another

    def __len__(self) -> int:
        return len(self._live) + len(self._catch_up)

    def put(self, job: J) -> None:
        """Adds a job."""
        self._queue_of(job).put(job)

    def withdraw(self, job: J) -> None:
        """Takes out a job that was put and not taken."""
        self._queue_of(job).withdraw(job)

    def take(self, now: float) -> J | None:
        """The job that is next, or None."""
        if len(self._catch_up) and not (self._owed_s > _ROUNDING and self._live.is_due(now)):
            job = self._catch_up.take(now)
            self._owed_s = 0.0 if job is None else job.turn.audio_s
            return job
        job = self._live.take(now)
        if self._owed_s > _ROUNDING and job is not None:
            self._owed_s -= job.turn.audio_s
        return job

    def _queue_of(self, job: J) -> _Queue[J]:
        return self._catch_up if job.turn.catch_up else self._live


class _Queue(Generic[J]):
    """Jobs of one kind: by due time, tenants in turn."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant[J]] = {}
        self._rotation: deque[_Tenant[J]] = deque()
        self._order = itertools.count()
        self._withdrawn: set[int] = set()  # by identity: jobs that stay in their heap until they would be next
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, job: J) -> None:
        """Adds a job."""
        tenant = self._tenants.get(job.turn.tenant)
        if tenant is None:
            tenant = self._tenants[job.turn.tenant] = _Tenant(job.turn.tenant)
            self._rotation.append(tenant)
        heapq.heappush(tenant.waiting, (job.turn.rank, next(self._order), job))
        self._count += 1

    def withdraw(self, job: J) -> None:
        """Takes out a job that was put and not taken."""
        self._withdrawn.add(id(job))
        self._count -= 1

    def is_due(self, now: float) -> bool:
        """Whether the time of any has come."""
        self._forget_withdrawn()
        return any(tenant.waiting[0][0] <= now for tenant in self._rotation)

    def take(self, now: float) -> J | None:
        """The job that is next, or None."""
        self._forget_withdrawn()
        if not self._rotation:
            return None
        if not any(tenant.waiting[0][0] <= now for tenant in self._rotation):
            return self._take_from(min(self._rotation, key=lambda tenant: tenant.waiting[0][0]))
        while True:
            tenant = self._rotation[0]
            rank, _, job = tenant.waiting[0]
            if rank <= now:
                if tenant.deficit_s >= job.turn.audio_s or len(self._rotation) == 1:
                    tenant.deficit_s = max(tenant.deficit_s - job.turn.audio_s, 0.0)
                    return self._take_from(tenant)
                tenant.deficit_s += QUANTUM_S
            self._rotation.rotate(-1)

    def _take_from(self, tenant: _Tenant[J]) -> J:
        job = heapq.heappop(tenant.waiting)[2]
        self._count -= 1
        if not tenant.waiting:
            self._drop(tenant)
        return job

    def _forget_withdrawn(self) -> None:
        if not self._withdrawn:
            return
        for tenant in tuple(self._rotation):
            while tenant.waiting and id(tenant.waiting[0][2]) in self._withdrawn:
                self._withdrawn.remove(id(heapq.heappop(tenant.waiting)[2]))
            if not tenant.waiting:
                self._drop(tenant)

    def _drop(self, tenant: _Tenant[J]) -> None:
        # Who has nothing waiting keeps no credit, as in the paper.
        self._rotation.remove(tenant)
        del self._tenants[tenant.name]
