"""The result bus: what the instances of one service tell each other about a call, and what is kept of it for a while.

`Bus` is one instance's end of it: `trio_stt.sessions.redis_bus` or its twin in memory, `trio_stt.sessions.memory_bus`.
Both pass the same tests. What is expected to go wrong is a value of `Outcome`; an exception is a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Literal, Protocol

import structlog
import trio
from attrs import field, frozen, validators

from trio_stt.dialects.events import Transcript, Translation
from trio_stt.operations.logs import without_message

KEPT_ENTRIES: Final = 1000
"""Finals and translations of one call that are kept: five times the most `history`, for resumes and five languages."""

KEPT_STREAMS: Final = 10 * KEPT_ENTRIES
"""Streams of one call whose epoch and end are kept: those used last. What is kept of finals is of far fewer."""

PRESENCE_S: Final = 15.0
"""A client of another instance that was not heard of for so long has left: its instance died."""

INSTANCE_S: Final = 5.0
"""An instance that was not heard of for so long is none any more: it ended, died, or is cut off."""


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Call:
    """Whose call, and which: nothing of one call ever reaches another."""

    tenant: str
    session_id: str


class Outcome(Enum):
    """How an operation on the bus ended."""

    STORED = "stored"
    """It is there; also if it was there before (the same `segment_id`)."""
    ALREADY_STORED = "already_stored"
    """A translation of that segment into that language was there before, perhaps another one."""
    FENCED = "fenced"
    """A newer connection of that stream has taken a higher epoch: nothing was stored."""
    OVERLAPS = "overlaps"
    """The final starts before the end of the last one that is stored of its stream: nothing was stored."""
    REFUSED = "refused"
    """The bus works, but does not take this: it cannot be written, or something of this call is amiss there. Asking
    again is of no use."""
    DOWN = "down"
    """The bus did not answer in time: it may be stored or not. Asking again is safe."""


Down = Literal[Outcome.DOWN]


@frozen
class Published:
    """How publishing a final ended; `end_sample` is that of the last stored final if it `OVERLAPS`."""

    outcome: Outcome
    end_sample: int = 0


@frozen
class StoredFinal:
    """A final on the bus: the epoch that it was stored in, and the `end_sample` of the final before it (`follows`)."""

    final: Transcript
    epoch: int
    follows: int


@frozen
class Present:
    """A client in a call, as other instances see it. `connection` tells its connections apart.

    `order`: given by the bus, of two connections of a client the later has the higher; 0: none yet. `partials`: whether
    it reads partials; `languages`: those it wants translations into.
    """

    client_id: str
    connection: str
    partials: bool
    languages: tuple[str, ...] = ()
    order: int = 0


_text = validators.instance_of(str)
_number = validators.instance_of(int)


@frozen
class InstanceRecord:
    """What an instance tells of itself to the others; of those whom it serves it tells how many there are.

    `readiness`: `starting`, `ready` or `draining`; `ready`: whether it lets new speakers in; `limit`: how many speakers
    there would be if as many came as are let in now; `level`: of service; `parked`: streams whose clients are away and
    may come back; `behind`: streams that were resumed lately and whose audio waits for long. Raises TypeError for a
    value of another type.
    """

    name: str = field(validator=_text)
    version: str = field(default="", validator=_text)
    readiness: str = field(default="", validator=_text)
    ready: bool = field(default=False, validator=validators.instance_of(bool))
    streams: int = field(default=0, validator=_number)
    limit: int = field(default=0, validator=_number)
    level: str = field(default="", validator=_text)
    parked: int = field(default=0, validator=_number)
    behind: int = field(default=0, validator=_number)
    memory_mb: int | None = field(default=None, validator=validators.optional(_number))


@frozen
class InstanceSeen:
    """What an instance told of itself, `age_s` seconds ago."""

    record: InstanceRecord
    age_s: float


@frozen
class Joined:
    """A client came, on another instance."""

    present: Present


@frozen
class Here:
    """These clients are still there, on another instance."""

    presents: tuple[Present, ...]


@frozen
class Left:
    """That connection of a client has ended, on another instance."""

    client_id: str
    connection: str


Kept = StoredFinal | Translation
"""What is stored."""

BusEvent = Kept | Transcript | Joined | Here | Left
"""What comes from the bus; a bare `Transcript` is a partial."""


@frozen
class Entry:
    """Something stored, with its place in its call: what came later has a greater place, in the order of `place_of`."""

    id: str
    kept: Kept


def place_of(id: str) -> tuple[int, int]:
    """What entries' ids are ordered by."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)


def finals_of_stream(entries: Sequence[Entry], stream_id: str) -> tuple[StoredFinal, ...]:
    """The finals of one stream among the entries of its call."""
    return tuple(
        entry.kept
        for entry in entries
        if isinstance(entry.kept, StoredFinal) and entry.kept.final.stream_id == stream_id
    )


Receive = Callable[[Sequence[BusEvent], bool], None]
"""Is given events in their order, and whether they were stored before the following began. Must return at once."""


def _hear_nothing(events: Sequence[BusEvent], earlier: bool) -> None:
    """After `close`."""


class Following:
    """What is heard of one call, until `close`."""

    def __init__(self, call: Call, receive: Receive, after: str | None, on_close: Callable[[Following], None]) -> None:
        self.call = call
        self._receive = receive
        self.after = after
        """The last entry that was heard; None: none yet."""
        self.caught_up = trio.Event()
        """Set once what had been stored before was received."""
        self.closed = False
        self._on_close = on_close

    def hand_over(self, events: Sequence[BusEvent], earlier: bool) -> None:
        """Has them received, if it is not closed. What that raises is logged: others wait for what comes next."""
        if self.closed:
            return
        try:
            self._receive(events, earlier)
        except Exception as error:  # noqa: BLE001  (a boundary: one call's fault is not another's)
            log = structlog.get_logger()
            log.error("bus_receiver_failed", error=without_message(error))

    def close(self) -> None:
        """Nothing is received any more. Does nothing the second time."""
        if not self.closed:
            self.closed = True
            self._receive = _hear_nothing  # else this and who receives would keep each other
            self._on_close(self)


@frozen
class BusStatistics:
    """Of one end: `connected`: how often it came up; `delay_s`: of the last message it sent to itself, NaN before."""

    up: bool
    connected: int
    following: int
    delay_s: float


# ── the protocol ─────────────────────────────────────────────────────────────────────────────────────────────────


class Bus(Protocol):
    """One instance's end of the bus. Nothing waits longer than a bounded time for a bus that does not answer.

    Operations may be cancelled: then, as after `DOWN`, it is not known whether they took effect, and they can be
    repeated.
    """

    @property
    def up(self) -> bool:
        """Whether the bus is believed to answer. While it is not, every operation ends `DOWN` at once."""

    @property
    def generation(self) -> int:
        """How often the bus came up. What was stored in an earlier generation may be gone."""

    def statistics(self) -> BusStatistics:
        """A snapshot, for health and metrics."""

    async def wait_up(self, after: int) -> int:
        """Returns the generation once the bus is up in one later than `after`. May be cancelled."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the bus connected until cancelled. Starts at once, whether or not the bus is there."""

    async def take_epoch(self, call: Call, stream_id: str, known: int) -> int | Down:
        """Takes that stream: 1 + the highest of `known` and the bus's epoch. Lower ones are fenced from now on.

        `DOWN` also if this call's are refused.
        """

    async def claim_epoch(self, call: Call, stream_id: str, epoch: int) -> int | Down:
        """Tells the bus, which may have forgotten, that `epoch` is alive; returns the highest, perhaps another's.

        If this call's are refused, `epoch` itself: then nobody can have a higher one from there.
        """

    async def publish_final(self, call: Call, final: Transcript, *, epoch: int, follows: int) -> Published:
        """Stores a final and tells the other instances, in one step.

        `STORED`, `FENCED`, `OVERLAPS`, `REFUSED` or `DOWN`.
        """

    async def publish_translation(self, call: Call, translation: Translation) -> Outcome:
        """Stores a final translation and tells the others: `STORED`, `ALREADY_STORED`, `REFUSED` or `DOWN`."""

    def publish_partial(self, call: Call, partial: Transcript) -> None:
        """Tells the others, stores nothing. Returns at once; with the bus down it is dropped."""

    async def stream_finals(self, call: Call, stream_id: str) -> tuple[StoredFinal, ...] | Down:
        """The stored finals of a stream, in order."""

    async def read(self, call: Call, after: str | None) -> tuple[Entry, ...] | Down:
        """What is stored of a call after that id (None: all), in order."""

    def follow(self, call: Call, receive: Receive, after: str | None = None) -> Following:
        """What others publish in a call from now on, after what is stored (after the id `after`). Returns at once.

        Nothing stored is missed or received twice, also after an outage. What this end itself published is received
        only if it was stored before. A call is followed once at a time. What `receive` raises is logged.
        """

    async def announce(self, call: Call, present: Present, age_s: float = 0.0) -> int | Down:
        """Tells the others that a client came, `age_s` seconds ago; returns its `order`.

        Of two connections of a client the one that came later has the higher, whichever is told first.
        """

    async def refresh(self, call: Call, presents: Sequence[Present]) -> Outcome:
        """Tells the others that clients are still there; keeps what is stored of the call. `STORED` or `DOWN`."""

    def depart(self, call: Call, present: Present) -> None:
        """Tells the others that a client's connection ended. Returns at once; with the bus down it is dropped."""

    async def meet_instances(self, record: InstanceRecord) -> tuple[InstanceSeen, ...] | Down:
        """Tells the others about this instance; returns what each has told lately, this one too, ordered by name.

        `DOWN` also if Redis refuses just that.
        """
