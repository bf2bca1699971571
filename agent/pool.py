"""The rooms that this agent is in: opened and closed, started again when they fail, handed on when it ends."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final, Protocol

import structlog
from attrs import define, frozen

from trio_stt.operations.logs import without_message
from trio_stt.rooms.leases import RENEW_EVERY_S, AgentRecord, AwayError, Held, Kept, Lease, Leases
from trio_stt.rooms.wanted import WantedRoom

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""Before a room that failed is entered again: from the first to the longest, doubling, with a quarter of jitter."""

STEADY_S: Final = 60.0
"""A room that lasted so long is entered again after the first pause."""

GIVE_UP_S: Final = 600.0
"""A room that could not be entered for so long is wanted no more."""

LEAVE_S: Final = 5.0
"""The longest that is waited for a room to be left, where somebody waits for the answer."""

LOADED_DELAY_S: Final = 1.0
"""How much later than one without rooms a full agent takes over what another left: it does not, if there are others."""

JITTER_S: Final = 0.3
"""Agents that are equally loaded do not all ask at once."""

ORPHANS_AT_ONCE: Final = 20


class RoomWorker(Protocol):
    """An agent's life in one room, once: `agent.room_agent.RoomAgent`, or one that a test plays."""

    async def run(self) -> str:
        """Goes in, stays, and returns why it left: then the room is wanted no more. Raises what went wrong.

        May be cancelled; then it leaves first.
        """
        ...

    def status(self) -> Mapping[str, object]:
        """Figures of this life, such as ``tracks`` that are heard now."""
        ...


@frozen
class Opened:
    """What became of a request for a room. `agent_id`: who is in it, None: nobody."""

    result: str  # created, exists, other_settings, full, draining
    agent_id: str | None = None


@define(eq=False)
class _Room:
    """A room that this agent holds. `worker` None: between two lives."""

    lease: Lease
    worker: RoomWorker | None = None
    task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.lease.wanted.room_name


class Pool:
    """Holds the rooms. Call `run` in a task; until then nobody is told of them, and nothing is taken over."""

    def __init__(
        self,
        agent_id: str,
        url: str,
        leases: Leases,
        make: Callable[[WantedRoom], RoomWorker],
        *,
        most_rooms: int,
        most_tracks: int,
        renew_every_s: float = RENEW_EVERY_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """`url`: where servers reach this agent; `make`: a new life in a room, which does nothing until it is run."""
        self.agent_id = agent_id
        self.draining = False
        self.failures = 0
        """How often a room failed."""
        self._url = url
        self._leases = leases
        self._make = make
        self._most_rooms = most_rooms
        self._most_tracks = most_tracks
        self._renew_every_s = renew_every_s
        self._first_pause_s = first_pause_s
        self._rooms: dict[str, _Room] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._ended: defaultdict[str, float] = defaultdict(float)  # figures of lives that are over
        self._opening = asyncio.Lock()  # one claim at a time: two requests for one room are not both the first
        self._changed = asyncio.Event()
        self._away = False
        self._log = structlog.get_logger()

    # ── what is known ────────────────────────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[str]:
        """The names of the rooms that it holds."""
        return iter(list(self._rooms))

    def worker(self, room_name: str) -> RoomWorker | None:
        """The life in that room, None: it is not in there now."""
        room = self._rooms.get(room_name)
        return None if room is None else room.worker

    @property
    def connected_to_others(self) -> bool:
        """Whether leases could be renewed when that was last tried."""
        return not self._away

    @property
    def record(self) -> AgentRecord:
        """What it says of itself."""
        tracks = round(self.now("tracks"))
        return AgentRecord(self.agent_id, self._url, len(self._rooms), self._most_rooms, tracks, self._most_tracks)

    @property
    def full(self) -> bool:
        """Whether it goes into no more rooms."""
        return self.record.load >= 1

    def now(self, figure: str) -> float:
        """The sum of a figure over the rooms that it is in."""
        return sum(_number(room.worker, figure) for room in self._rooms.values() if room.worker is not None)

    def total(self, figure: str) -> float:
        """The same, with all earlier lives."""
        return self._ended[figure] + self.now(figure)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, wanted: WantedRoom) -> Opened:
        """Goes into a room if nobody is there. Does not wait until it is in.

        When nobody can be asked whether another agent is there, it goes in; when they can be asked again and another
        has the room's lease, it leaves. May be cancelled; then it may go in or not.
        """
        async with self._opening:
            if (room := self._rooms.get(wanted.room_name)) is not None:
                return _opened_by(Held(self.agent_id, room.lease.wanted), wanted)
            if self.draining or self.full:
                return Opened("draining" if self.draining else "full")
            lease = Lease.new(wanted, self.agent_id)
            try:
                claimed = await self._leases.claim(lease)
            except AwayError:
                claimed = lease
            if isinstance(claimed, Held):
                return _opened_by(claimed, wanted)
            self._enter(lease)
            return Opened("created", self.agent_id)

    async def close(self, room_name: str) -> bool:
        """Leaves a room, which is wanted no more; False: it is not there. Waits `LEAVE_S` at most. May be cancelled."""
        async with self._opening:
            room = self._rooms.get(room_name)
            if room is None:
                return False
            self._log.info("room_cancelled", room_name=room_name)
            leaving = self._leave(room)
            with suppress(AwayError):
                await self._leases.release(room.lease, wanted=False)
        await asyncio.wait([leaving], timeout=LEAVE_S)
        return True

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Renews its leases, says that it is there, and takes over rooms that others left; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_renewing())
            tasks.create_task(self._keep_taking_over())

    async def _keep_renewing(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._renew()
                if not self.draining:
                    await self._leases.announce(self.record)
                self._say_away(None)
            except AwayError as error:
                self._say_away(error)
            with suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it forgets that it was cancelled when the event comes just then.
                async with asyncio.timeout(self._renew_every_s):
                    await self._changed.wait()

    async def _keep_taking_over(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            with suppress(AwayError):
                await self._take_over()

    async def drain(self, within_s: float) -> None:
        """Hands its rooms on to other agents at once, then leaves them; takes `within_s` at most, and no new ones."""
        self.draining = True
        self._log.info("agent_draining", rooms=len(self._rooms))
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._leases.withdraw(self.agent_id)
                async with self._opening:  # who is still at it is waited for, and is one of these then
                    rooms = list(self._rooms.values())
                    leaving = [self._leave(room) for room in rooms]
                for room in rooms:
                    with suppress(AwayError):  # then they are free when the leases have expired
                        await self._leases.release(room.lease, wanted=True)
                if leaving:
                    await asyncio.wait(leaving)

    async def _renew(self) -> None:
        leases = [room.lease for room in self._rooms.values()]
        for name, kept in (await self._leases.renew(leases)).items():
            room = self._rooms.get(name)
            if kept is Kept.HELD or room is None or room.lease not in leases:
                continue
            # Two were in this room, or it was cancelled and nobody could tell us.
            self._log.warning("room_lost", room_name=name, why=kept.value)
            self._leave(room)

    async def _take_over(self) -> None:
        """Enters rooms that are wanted and without an agent: the later, the fuller it is."""
        if self.draining or self.full:
            return
        orphans = await self._leases.orphans(ORPHANS_AT_ONCE)
        if not orphans:
            return
        await asyncio.sleep(self.record.load * LOADED_DELAY_S + random.random() * JITTER_S)
        for name in orphans:
            async with self._opening:
                if self.draining or self.full:
                    return
                if name in self._rooms:
                    continue
                lease = await self._leases.claim(Lease.new(WantedRoom(name), self.agent_id), orphaned=True)
                if isinstance(lease, Lease):
                    self._log.info("room_taken_over", room_name=name)
                    self._enter(lease)
            await asyncio.sleep(self.record.load * LOADED_DELAY_S / 10)

    def _say_away(self, error: AwayError | None) -> None:
        if (error is not None) is not self._away:
            self._away = error is not None
            if error is not None:
                self._log.warning("leases_not_renewed", error=str(error), rooms=len(self._rooms))
            else:
                self._log.info("leases_renewed", rooms=len(self._rooms))

    def _enter(self, lease: Lease) -> None:
        room = self._rooms[lease.wanted.room_name] = _Room(lease)
        room.task = asyncio.create_task(self._live(room))
        self._changed.set()

    def _leave(self, room: _Room) -> asyncio.Task[None]:
        """Lets go of a room and begins to leave it: the task that has left when it is done."""
        del self._rooms[room.name]
        self._changed.set()
        task = room.task
        assert task is not None, "a room has its task as soon as it is there"  # noqa: S101
        task.cancel()
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def _live(self, room: _Room) -> None:
        """Enters a room, again and again while it fails, until it says why it left, or is cancelled."""
        clock = asyncio.get_running_loop().time
        pause_s, failing_since = self._first_pause_s, clock()
        while True:
            began = clock()
            try:
                reason = await self._live_once(room)
                break
            except Exception as error:  # noqa: BLE001  (a boundary: this room fails, the others go on)
                self.failures += 1
                if clock() - began >= STEADY_S:
                    pause_s, failing_since = self._first_pause_s, clock()
                self._log.warning("room_failed", room_name=room.name, error=without_message(error), pause_s=pause_s)
            finally:
                # The SDK's room, participants, tracks and tasks refer to each other and hold what is native: only full
                # runs of the collector, which are rare, would find them. This one skips what was there at the start.
                gc.collect()
            if clock() - failing_since >= GIVE_UP_S:
                reason = "given up"
                break
            await asyncio.sleep(pause_s * (1 + random.random() / 4))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._log.info("room_left", room_name=room.name, why=reason)
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
            self._changed.set()
            with suppress(AwayError):
                await self._leases.release(room.lease, wanted=False)

    async def _live_once(self, room: _Room) -> str:
        room.worker = self._make(room.lease.wanted)
        try:
            return await room.worker.run()
        finally:
            worker, room.worker = room.worker, None
            for figure, value in worker.status().items():
                if isinstance(value, int | float):
                    self._ended[figure] += value


def _opened_by(held: Held, wanted: WantedRoom) -> Opened:
    return Opened("exists" if held.wanted == wanted else "other_settings", held.agent_id)


def _number(worker: RoomWorker, figure: str) -> float:
    value = worker.status().get(figure, 0)
    return value if isinstance(value, int | float) else 0
