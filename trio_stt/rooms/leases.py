"""Which agent is in which room: what all agents and servers together know, and the twin of it in memory.

A room that is *wanted* is to have exactly one agent. That one holds its *lease*, which it renews as long as it is in
the room. Whoever else wants to take it is refused until it has expired: the rooms of an agent that died are free after
`LEASE_S`. Each claim has a token of its own: an agent that was away for so long that another took its room finds
another's token there, and leaves.
"""

from __future__ import annotations

import enum
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import evolve, frozen

from trio_stt.dialects.request import Refusal
from trio_stt.rooms.wanted import WantedRoom, read_wanted

LEASE_S = 5.0
"""How long a lease, and what an agent says of itself, holds after it was last heard of."""

RENEW_EVERY_S = 1.5
"""Two may be lost."""

ORPHANED_S = 600.0
"""A wanted room that no agent was in for so long is wanted no more."""

CANCELLED_S = 3600.0
"""How long it is remembered that a room was cancelled, for an agent that is in it and cannot be told."""


class AwayError(Exception):
    """Nobody can be asked now: Redis is away."""


@frozen
class AgentRecord:
    """What an agent says of itself. `url`: where servers reach it, without a slash at its end; `tracks`: heard now."""

    agent_id: str
    url: str
    rooms: int = 0
    most_rooms: int = 1
    tracks: int = 0
    most_tracks: int = 1

    @property
    def load(self) -> float:
        """The larger of the two shares that are taken; from 1 on it is full."""
        return max(self.rooms / self.most_rooms, self.tracks / self.most_tracks)

    def as_json(self) -> str:
        """It as `read_record` reads it."""
        names = ("agent_id", "url", "rooms", "most_rooms", "tracks", "most_tracks")
        return json.dumps({name: getattr(self, name) for name in names})


def read_record(text: str | bytes) -> AgentRecord | None:
    """What `AgentRecord.as_json` wrote; None: something else, perhaps of another version."""
    try:
        fields = json.loads(text)
        counts = {name: int(fields[name]) for name in ("rooms", "most_rooms", "tracks", "most_tracks")}
        if counts["most_rooms"] < 1 or counts["most_tracks"] < 1:
            return None
        return AgentRecord(str(fields["agent_id"]), str(fields["url"]), **counts)
    except (ValueError, TypeError, KeyError):
        return None


@frozen
class Lease:
    """An agent's right to be in a room. `token`: this claim's own."""

    wanted: WantedRoom
    agent_id: str
    token: str

    @classmethod
    def new(cls, wanted: WantedRoom, agent_id: str) -> Lease:
        """One with a token that no other has."""
        return cls(wanted, agent_id, secrets.token_hex(8))

    @property
    def holder(self) -> str:
        """Agent and token, as they are stored: ids have no spaces."""
        return f"{self.agent_id} {self.token}"


@frozen
class Held:
    """Somebody is in a room: who, and for what it was wanted."""

    agent_id: str
    wanted: WantedRoom


@frozen
class RoomSeen:
    """What is known of a room. `held` None: nobody is in it; `url`: of who is, "" if that is not known."""

    held: Held | None
    url: str = ""


class Kept(enum.Enum):
    """What became of a lease."""

    HELD = "held"  # for another `LEASE_S`
    TAKEN = "taken"  # another agent has the room now
    CANCELLED = "cancelled"  # the room is wanted no more


class Leases(Protocol):
    """What agents and servers know together. Each method raises `AwayError` if it cannot be known now, but `withdraw`.

    If a method is cancelled, it may have been done or not.
    """

    async def claim(self, lease: Lease, *, orphaned: bool = False) -> Lease | Held | None:
        """The lease, if its room was free: from now on the room is wanted as it says. Else who holds it.

        `orphaned`: only if the room is wanted already, and then as it was: the lease that is returned says how; None:
        it is wanted no more.
        """
        ...

    async def renew(self, leases: Sequence[Lease]) -> Mapping[str, Kept]:
        """What became of each, by room, which is to be told at least every `LEASE_S`.

        What nobody knows any more, because Redis lost everything, is claimed again, and so is what has expired and
        nobody else holds.
        """
        ...

    async def release(self, lease: Lease, *, wanted: bool) -> None:
        """Gives it back at once; nothing, if it is another's by now. `wanted`: for the next agent to take."""
        ...

    async def orphans(self, most: int) -> Sequence[str]:
        """Rooms that are wanted and in which nobody is, longest so first."""
        ...

    async def cancel(self, room_name: str) -> bool:
        """The room is wanted no more, which its holder finds when it renews. Whether it was wanted."""
        ...

    async def look(self, room_name: str) -> RoomSeen:
        """Who is in a room that is wanted."""
        ...

    async def announce(self, record: AgentRecord) -> None:
        """An agent is there for another `LEASE_S`."""
        ...

    async def withdraw(self, agent_id: str) -> None:
        """It is not any more. Does nothing if that cannot be said now."""
        ...

    async def agents(self) -> Sequence[AgentRecord]:
        """Those that are there."""
        ...


class LeaseMemory:
    """What ends of the twin in memory know together."""

    def __init__(
        self,
        *,
        lease_s: float = LEASE_S,
        orphaned_s: float = ORPHANED_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now`: seconds."""
        self.lease_s = lease_s
        self.orphaned_s = orphaned_s
        self.now = now
        self.wanted: dict[str, WantedRoom] = {}
        self.until: dict[str, float] = {}
        self.holders: dict[str, str] = {}
        self.records: dict[str, tuple[float, AgentRecord]] = {}


class MemoryLeases(Leases):
    """For one agent without Redis, and for tests: several ends over one memory. Never away."""

    def __init__(self, memory: LeaseMemory | None = None) -> None:
        self._memory = memory or LeaseMemory()

    async def claim(self, lease: Lease, *, orphaned: bool = False) -> Lease | Held | None:
        """See `Leases`."""
        known, room = self._memory, lease.wanted.room_name
        if (held := self._held(room)) is not None:
            return held
        if orphaned:
            if room not in known.wanted:
                return None
            lease = evolve(lease, wanted=known.wanted[room])
        self._hold(lease)
        return lease

    async def renew(self, leases: Sequence[Lease]) -> Mapping[str, Kept]:
        """See `Leases`."""
        return {lease.wanted.room_name: self._renew(lease) for lease in leases}

    def _renew(self, lease: Lease) -> Kept:
        known, room = self._memory, lease.wanted.room_name
        holder, is_wanted = known.holders.get(room), room in known.wanted
        if holder is not None and holder != lease.holder and is_wanted and known.until[room] > known.now():
            return Kept.TAKEN
        if holder is not None and not is_wanted:
            self._forget(room)
            return Kept.CANCELLED
        self._hold(lease)
        return Kept.HELD

    async def release(self, lease: Lease, *, wanted: bool) -> None:
        """See `Leases`."""
        known, room = self._memory, lease.wanted.room_name
        if known.holders.get(room) != lease.holder:
            return
        if wanted and room in known.wanted:
            del known.holders[room]
            known.until[room] = known.now()
        else:
            self._forget(room)

    async def orphans(self, most: int) -> Sequence[str]:
        """See `Leases`."""
        known = self._memory
        now = known.now()
        due = sorted((until, room) for room, until in known.until.items() if until <= now)
        for until, room in due:
            if room not in known.wanted or until < now - known.orphaned_s:
                self._forget(room)
        return [room for _, room in due if room in known.wanted][:most]

    async def cancel(self, room_name: str) -> bool:
        """See `Leases`."""
        was_wanted = self._memory.wanted.pop(room_name, None) is not None
        if room_name in self._memory.holders:
            self._memory.until[room_name] = self._memory.now() + CANCELLED_S
        else:
            self._forget(room_name)
        return was_wanted

    async def look(self, room_name: str) -> RoomSeen:
        """See `Leases`."""
        held = self._held(room_name)
        record = None if held is None else self._memory.records.get(held.agent_id)
        return RoomSeen(held, record[1].url if record else "")

    async def announce(self, record: AgentRecord) -> None:
        """See `Leases`."""
        self._memory.records[record.agent_id] = (self._memory.now() + self._memory.lease_s, record)

    async def withdraw(self, agent_id: str) -> None:
        """See `Leases`."""
        self._memory.records.pop(agent_id, None)

    async def agents(self) -> Sequence[AgentRecord]:
        """See `Leases`."""
        now = self._memory.now()
        return [record for until, record in self._memory.records.values() if until > now]

    def _held(self, room: str) -> Held | None:
        known = self._memory
        if room in known.holders and room in known.wanted and known.until.get(room, -math.inf) > known.now():
            return Held(known.holders[room].partition(" ")[0], known.wanted[room])
        return None

    def _hold(self, lease: Lease) -> None:
        known, room = self._memory, lease.wanted.room_name
        known.wanted[room], known.holders[room] = lease.wanted, lease.holder
        known.until[room] = known.now() + known.lease_s

    def _forget(self, room: str) -> None:
        for part in (self._memory.wanted, self._memory.until, self._memory.holders):
            part.pop(room, None)


def read_stored(room_name: str, stored: str | bytes) -> WantedRoom:
    """What `WantedRoom.as_json` wrote; of another version's text the name alone."""
    read: Any = read_wanted(stored.encode() if isinstance(stored, str) else stored)
    return WantedRoom(room_name) if isinstance(read, Refusal) else read
