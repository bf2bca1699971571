"""What the bus has not confirmed yet, in order: written when the bus returns, also when it returns empty."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
import trio

from trio_stt.dialects.events import Transcript, Translation
from trio_stt.operations.logs import without_message
from trio_stt.sessions.bus import Bus, Call, Outcome, Published, StoredFinal

MAX_UNCONFIRMED: Final = 20_000
"""Finals and translations that an instance holds for a bus that is away: a quarter of an hour of 100 speakers. Beyond
it the oldest are given up: everybody here has had them, other instances and late joiners will not."""


MAX_AHEAD: Final = 8
"""With more than this waiting before it a final is not waited for: those here have it at once, the bus when it can."""


class _Item:
    """Something on its way to the bus; `follows`: of a final, where the one before it ended.

    `stream`: whose it is to be written; another one's after a resume here.
    """

    def __init__(self, kept: Transcript | Translation, follows: int, stream: StreamJournal) -> None:
        self.kept = kept
        self.follows = follows
        self.stream = stream
        self.number = 0
        self.published: Published | None = None
        self.given_up = False


class StreamJournal:
    """One stream's finals and translations on their way to the bus, in their order, and its epoch.

    Until `begin` nothing is written.
    """

    def __init__(self, journal: Journal, call: Call, stream_id: str, *, epoch: int, fenced: Callable[[], None]) -> None:
        self.call = call
        self.stream_id = stream_id
        self.epoch = epoch
        self._journal = journal
        self._end_sample = 0  # of the last final
        self._fenced = fenced
        self._waiting: deque[_Item] = deque()
        self._added = 0
        self._begun = False
        self._superseded = False  # by a connection to this instance
        self._overtaken: list[StreamJournal] = []  # that this one goes on from
        self._fenced_out = False
        self._writing = False
        self._written = trio.Event()  # one more was written, or could not be
        self._confirmed = trio.Event()
        self._confirmed.set()

    @property
    def confirmed(self) -> bool:
        """Whether the bus has everything of this stream so far. Never again once a newer connection has it."""
        return self._confirmed.is_set() and not self._fenced_out and not self._superseded

    @property
    def unconfirmed(self) -> int:
        """How much the bus may not have."""
        return len(self._waiting)

    async def wait_confirmed(self, within_s: float) -> bool:
        """Returns when everything so far is confirmed, or after that time; whether it is. May be cancelled."""
        with trio.move_on_after(within_s):
            while not self._confirmed.is_set():
                await self._confirmed.wait()
        return self.confirmed

    async def store(self, kept: Transcript | Translation) -> Published:
        """Stores a final or a translation; `DOWN`: later, when those before it are there. Cancelled: later too."""
        if self._superseded and isinstance(kept, Transcript):
            await trio.lowlevel.checkpoint()
            return Published(Outcome.FENCED)
        item = self._add(kept)
        try:
            await trio.lowlevel.checkpoint()
            while not item.published and not item.given_up and item.stream.may_write and item.stream._is_near(item):
                await item.stream._write_one()
        finally:
            if item.published is None:
                self._journal.wake()
        published = item.published or Published(Outcome.DOWN)
        if published.outcome is Outcome.OVERLAPS:  # what comes next follows that final, not this one
            self._end_sample = published.end_sample
        return published

    def _is_near(self, item: _Item) -> bool:
        return item.number - self._waiting[0].number <= MAX_AHEAD

    async def _write_one(self) -> None:
        if self._writing:
            await self._written.wait()
        else:
            await self.write_first()

    def keep(self, kept: Transcript | Translation) -> None:
        """The same without waiting for it: it is stored as soon as possible."""
        self._add(kept)
        self._journal.wake()

    def begin(self, epoch: int, from_sample: int) -> None:
        """The connection has this epoch, and its first final begins at `from_sample` or later: writing begins."""
        self.epoch = epoch
        self._end_sample = from_sample
        self._start_writing()

    def close(self) -> None:
        """The connection has ended: its epoch is not kept alive any more. What waits is still written."""
        self._journal.closed(self)
        self._start_writing()

    def _start_writing(self) -> None:
        self._begun = True
        self._overtaken.clear()
        self._journal.wake()

    async def wait_answered(self) -> None:
        """Before `begin`: returns when no older connection is writing. May be cancelled."""
        for older in self._overtaken:
            while older.writing:
                await older._written.wait()

    @property
    def unconfirmed_finals(self) -> list[StoredFinal]:
        """The finals that the bus may not have, in order."""
        return [
            StoredFinal(item.kept, self.epoch, item.follows)
            for item in self._waiting
            if isinstance(item.kept, Transcript)
        ]

    # ── for the journal ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def may_write(self) -> bool:
        """Whether what waits may be written now."""
        return self._begun and self._journal.in_step

    @property
    def writing(self) -> bool:
        """Whether the first that waits is being written."""
        return self._writing

    async def write_first(self) -> None:
        """Writes the first that waits. Cancelled, it still waits."""
        first = self._waiting[0]
        self._writing = True
        try:
            published = await self._write(first)
            if first.stream is not self:
                self._drop(first)
                first.stream._take_answer(first, published)
            elif published.outcome is not Outcome.DOWN:
                self._answer(first, published)
        finally:
            self._writing = False
            self._written.set()
            self._written = trio.Event()
        if self._waiting:
            self._journal.wake()
        if published.outcome is Outcome.FENCED:
            self._lose()

    def _lose(self) -> None:
        self._fenced_out = True
        self._fenced()

    def _answer(self, item: _Item, published: Published) -> None:
        item.published = published
        if published.outcome is Outcome.REFUSED:
            self.give_up(item)
        else:
            self._drop(item)
            if not self._waiting:
                self._confirmed.set()

    def _take_answer(self, item: _Item, published: Published) -> None:
        """What an older connection was writing is answered: it counts, unless this one may be writing it by now."""
        if published.outcome is not Outcome.DOWN and not self._begun and not item.given_up:
            self._answer(item, published)

    async def claim(self) -> bool:
        """Tells the bus that this epoch is alive; False if it does not answer."""
        if not self._begun:
            return True
        highest = await self._journal.bus.claim_epoch(self.call, self.stream_id, self.epoch)
        if highest is Outcome.DOWN:
            return False
        if highest > self.epoch:
            self._lose()
        return True

    def adopt(self, older: StreamJournal) -> None:
        """What an older connection of the stream still had for the bus is written before what comes, in our epoch.

        Also what it is just writing, unless that is answered before we `begin`. No more finals come from it.
        """
        older._superseded = True
        self._overtaken.append(older)
        for number, item in enumerate(older.items):
            if item.stream is not older:  # it is just writing what another has adopted already
                continue
            if number or not older.writing:
                older._drop(item)
            item.stream = self
            self._enqueue(item)

    def give_up_one(self) -> bool:
        """Gives up one that waits, translations first, then the oldest final; False if there is none to give up."""
        candidates = list(self._waiting)[self._writing : -1]  # the last may have come just now
        if not candidates:
            return False
        self.give_up(next((item for item in candidates if isinstance(item.kept, Translation)), candidates[0]))
        return True

    def give_up(self, item: _Item) -> None:
        """It will not be written. Nothing is confirmed by that."""
        item.given_up = True
        self._drop(item)
        self._journal.given_up += 1

    @property
    def items(self) -> tuple[_Item, ...]:
        """What the bus may not have."""
        return tuple(self._waiting)

    def _drop(self, item: _Item) -> None:
        self._waiting.remove(item)
        self._journal.removed(self)

    def _add(self, kept: Transcript | Translation) -> _Item:
        item = _Item(kept, self._end_sample, self)
        if isinstance(kept, Transcript):
            self._end_sample = kept.end_sample
        self._enqueue(item)
        return item

    def _enqueue(self, item: _Item) -> None:
        self._added += 1
        item.number = self._added
        self._waiting.append(item)
        if self._confirmed.is_set():
            self._confirmed = trio.Event()
        self._journal.added(self)

    async def _write(self, item: _Item) -> Published:
        try:
            return await self._publish(item)
        except Exception as error:  # noqa: BLE001  (a boundary: one caption must not end everybody's journal)
            self._journal.log_fault(error)
            return Published(Outcome.REFUSED)

    async def _publish(self, item: _Item) -> Published:
        bus = self._journal.bus
        if isinstance(item.kept, Translation):
            return Published(await bus.publish_translation(self.call, item.kept))
        return await bus.publish_final(self.call, item.kept, epoch=self.epoch, follows=item.follows)


class Journal:
    """All streams' journals of one instance. Run it in a nursery."""

    def __init__(self, bus: Bus, *, max_unconfirmed: int = MAX_UNCONFIRMED) -> None:
        self.bus = bus
        self.unconfirmed = 0
        """Finals and translations that the bus may not have."""
        self.given_up = 0
        """How many were dropped because too many waited."""
        self._max_unconfirmed = max_unconfirmed
        self._in_step_with = 0  # the generation of the bus that knows our live epochs
        self._live: dict[StreamJournal, None] = {}
        self._waiting: dict[StreamJournal, None] = {}  # streams with something that waits, the longest waiting first
        self._wake = trio.Event()
        self._said_full = False
        self._log = structlog.get_logger()

    @property
    def in_step(self) -> bool:
        """Whether the bus is up and knows our live epochs, so that finals may be written."""
        return self.bus.up and self.bus.generation == self._in_step_with

    def open(
        self, call: Call, stream_id: str, *, fenced: Callable[[], None], epoch: int = 1, from_sample: int = 0
    ) -> StreamJournal:
        """The journal of a connection that begins; close it at its end.

        `fenced` is called when a newer connection turns out to have taken the stream. `from_sample`: where this
        connection's first final may begin.
        """
        stream = self.take_over(call, stream_id, fenced=fenced, epoch=epoch)
        stream.begin(epoch, from_sample)
        return stream

    def take_over(self, call: Call, stream_id: str, *, fenced: Callable[[], None], epoch: int) -> StreamJournal:
        """The same for a connection that is about to go on with a stream: call its `begin` when it has its own epoch.

        `epoch`: the last known. From now on no other connection to this instance writes finals of the stream.
        """
        stream = StreamJournal(self, call, stream_id, epoch=epoch, fenced=fenced)
        for older in {**self._live, **self._waiting}:
            if older.call == call and older.stream_id == stream_id:
                stream.adopt(older)
        self._live[stream] = None
        return stream

    async def run(self) -> None:
        """Writes what waits, whenever the bus is up: live epochs first. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_in_step)
            nursery.start_soon(self._keep_writing)

    async def wait_empty(self, within_s: float) -> bool:
        """Returns when nothing waits, or after that time; whether nothing does. May be cancelled."""
        with trio.move_on_after(within_s):
            while self._waiting:
                await next(iter(self._waiting)).wait_confirmed(within_s)
        return not self._waiting

    def unconfirmed_of(self, call: Call) -> list[Transcript | Translation]:
        """What was said in that call here and the bus may not have, each stream's in order."""
        return [item.kept for stream in self._waiting if stream.call == call for item in stream.items]

    # ── for the streams ──────────────────────────────────────────────────────────────────────────────────────────

    def added(self, stream: StreamJournal) -> None:
        """Something more waits in `stream`."""
        self.unconfirmed += 1
        self._waiting[stream] = None
        while self.unconfirmed > self._max_unconfirmed and self._give_up_one():
            pass

    def removed(self, stream: StreamJournal) -> None:
        """Something less waits in it."""
        self.unconfirmed -= 1
        if not stream.unconfirmed:
            del self._waiting[stream]

    def log_fault(self, error: Exception) -> None:
        """One caption could not be written for a fault of ours."""
        self._log.error("bus_caption_given_up", error=without_message(error))

    def closed(self, stream: StreamJournal) -> None:
        """Its connection has ended."""
        self._live.pop(stream, None)

    def wake(self) -> None:
        """There may be something to write."""
        self._wake.set()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_in_step(self) -> None:
        while True:
            generation = await self.bus.wait_up(self._in_step_with)
            if await self._claim_all():
                self._in_step_with = generation
                self.wake()

    async def _claim_all(self) -> bool:
        for stream in tuple(self._live):
            if not await stream.claim():
                return False
        return True

    async def _keep_writing(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            for stream in tuple(self._waiting):
                while stream.may_write and stream.unconfirmed and not stream.writing:
                    await stream.write_first()
            await trio.lowlevel.checkpoint()

    def _give_up_one(self) -> bool:
        """Of the stream of which most waits, so that one busy call costs no other its captions."""
        if not self._said_full:
            self._said_full = True
            self._log.error("bus_journal_full", unconfirmed=self.unconfirmed)
        return max(self._waiting, key=lambda stream: stream.unconfirmed).give_up_one()
