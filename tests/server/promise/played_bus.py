"""The bus in memory as one instance reaches it: late, with answers lost, cut off; and a witness of what is on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TypeVar

import trio

from tests.server.promise.freezing import Process
from trio_stt.dialects.events import Transcript
from trio_stt.sessions.bus import (
    BusEvent,
    Call,
    Down,
    Following,
    Outcome,
    Present,
    Published,
    Receive,
    StoredFinal,
)
from trio_stt.sessions.memory_bus import Memory, MemoryBus

T = TypeVar("T")

IS_KNOWN_TO_BE_LOST: ContextVar[Callable[[], bool]] = ContextVar("is_known_to_be_lost")
"""Of the connection that is served: whether its instance has read that it is closed."""

Span = tuple[int, int]
DOWN = Outcome.DOWN


class Witness:
    """Knows by itself which epochs were taken and what was stored, and writes down what ought not to have happened."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.stored: list[Span] = []
        """Finals that were stored at some time, or that count as stored because they overlap such."""
        self.segments: set[str] = set()
        """Of those that were stored."""
        self._epochs: dict[str, int] = {}
        self._told: set[str] = set()
        self._refused: set[str] = set()

    def forget(self) -> None:
        """The bus has lost everything."""
        self._epochs.clear()

    def took(self, stream_id: str, epoch: int, *, anew: bool) -> None:
        """For the bus this epoch is now the highest of a stream; `anew`: nobody had it before."""
        known = self._epochs.get(stream_id, 0)
        if epoch < known + anew:
            self.faults.append(f"epoch {epoch} is taken after {known}")
        self._epochs[stream_id] = max(epoch, known)

    def published(self, final: Transcript, epoch: int, published: Published, *, is_new: bool) -> None:
        """The bus has answered to a final; `is_new`: it did not have it before."""
        span = final.start_sample, final.end_sample
        highest = self._epochs.get(final.stream_id, 0)
        match published.outcome:
            case Outcome.STORED:
                self.stored.append(span)
                self.segments.add(final.segment_id)
                if is_new and epoch < highest:
                    self.faults.append(f"{final.segment_id} was stored in epoch {epoch}, when {highest} was taken")
                self._epochs[final.stream_id] = max(epoch, highest)
            case Outcome.OVERLAPS:
                self.stored.append(span)
                if not is_new:
                    self.faults.append(f"{final.segment_id} is stored and was refused")

    def refused(self, final: Transcript) -> None:
        """An instance was answered that a final is fenced."""
        if final.segment_id not in self.segments:
            self._refused.add(final.segment_id)

    def told(self, final: Transcript) -> None:
        """Members of the call are about to be given a final."""
        name = final.segment_id
        if name in self._refused and name not in self._told:
            self.faults.append(f"{name} was told after the bus had refused its epoch")
        self._told.add(name)


class PlayedBus(MemoryBus):
    """One instance's end."""

    def __init__(self, memory: Memory, process: Process, witness: Witness) -> None:
        super().__init__(memory)
        self.delay_s = 0.0
        """Of each request, and of each answer."""
        self.loses_next_answer = False
        """Of those about a stream's epoch or final."""
        self.cut_off = False
        self.dead = False
        self._process = process
        self._witness = witness
        self._unheard: list[tuple[Call, BusEvent, bool]] = []
        self._missed_its_return = False

    @property
    def up(self) -> bool:
        return not (self._memory.down or self.cut_off or self.dead)

    def cut(self) -> None:
        """The way to the bus is broken."""
        self.cut_off = True

    def mend(self) -> None:
        """It is there again."""
        if self.cut_off:
            self.cut_off = False
            if self.up:
                self.come_up()

    def die(self) -> None:
        """The process is no more."""
        self.dead = True
        self._memory.ends.remove(self)

    def come_up(self) -> None:
        if self._process.frozen:
            self._missed_its_return = True
        elif self.up:
            super().come_up()

    def hear(self, call: Call, event: BusEvent, *, own: bool) -> None:
        if self._process.frozen:
            self._unheard.append((call, event, own))
        elif self.up:
            super().hear(call, event, own=own)

    def thawed(self) -> None:
        """What came while the process was frozen is heard."""
        unheard, self._unheard = self._unheard, []
        for call, event, own in unheard:
            self.hear(call, event, own=own)
        if self._missed_its_return:
            self._missed_its_return = False
            self.come_up()

    async def take_epoch(self, call: Call, stream_id: str, known: int) -> int | Down:
        if IS_KNOWN_TO_BE_LOST.get()():
            self._witness.faults.append("an epoch is taken for a connection that is known to be closed")
        await self._on_the_way()
        taken = await super().take_epoch(call, stream_id, known)
        if taken is not DOWN:
            self._witness.took(stream_id, taken, anew=True)
        self._lose_answer()
        return await self._answered(taken)

    async def claim_epoch(self, call: Call, stream_id: str, epoch: int) -> int | Down:
        await self._on_the_way()
        highest = await super().claim_epoch(call, stream_id, epoch)
        if highest is not DOWN:
            self._witness.took(stream_id, highest, anew=False)
        return await self._answered(highest)

    async def publish_final(self, call: Call, final: Transcript, *, epoch: int, follows: int) -> Published:
        await self._on_the_way()
        is_new = final.segment_id not in self._memory.call(call).stored
        published = await super().publish_final(call, final, epoch=epoch, follows=follows)
        self._witness.published(final, epoch, published, is_new=is_new)
        self._lose_answer()
        if await self._answered(published.outcome) is DOWN:
            return Published(DOWN)
        if published.outcome is Outcome.FENCED:
            self._witness.refused(final)
        return published

    async def stream_finals(self, call: Call, stream_id: str) -> tuple[StoredFinal, ...] | Down:
        await self._on_the_way()
        return await self._answered(await super().stream_finals(call, stream_id))

    async def announce(self, call: Call, present: Present, age_s: float = 0.0) -> int | Down:
        await self._on_the_way()
        return await self._answered(await super().announce(call, present, age_s))

    async def refresh(self, call: Call, presents: Sequence[Present]) -> Outcome:
        await self._on_the_way()
        return await self._answered(await super().refresh(call, presents))

    def follow(self, call: Call, receive: Receive, after: str | None = None) -> Following:
        return super().follow(call, receive, after)

    async def _on_the_way(self) -> None:
        await trio.sleep(self.delay_s)

    def _lose_answer(self) -> None:
        if self.loses_next_answer and self.up:
            self.loses_next_answer = False
            self.cut()

    async def _answered(self, answer: T) -> T | Down:
        await trio.sleep(self.delay_s)
        return answer if self.up else DOWN
