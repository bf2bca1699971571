# ruff: noqa: D102  (the protocol says what each method promises)
"""The result bus in memory: alone the bus of a single instance; several ends of one `Memory` are what tests use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import trio
from attrs import define, evolve, field

from trio_stt.dialects.events import Transcript, Translation
from trio_stt.sessions.bus import (
    INSTANCE_S,
    KEPT_ENTRIES,
    KEPT_STREAMS,
    PRESENCE_S,
    Bus,
    BusEvent,
    BusStatistics,
    Call,
    Down,
    Entry,
    Following,
    Here,
    InstanceRecord,
    InstanceSeen,
    Joined,
    Kept,
    Left,
    Outcome,
    Present,
    Published,
    Receive,
    StoredFinal,
    finals_of_stream,
    place_of,
)
from trio_stt.sessions.bus_messages import decode, encode


@define
class _StreamState:
    epoch: int = 0
    end_sample: int = 0


@define
class _Presence:
    present: Present
    expires_at: float
    end: MemoryBus


@define
class _CallState:
    expires_at: float
    entries: OrderedDict[str, bytes] = field(factory=OrderedDict)  # by id; as objects they take four times the memory
    stored: OrderedDict[object, None] = field(factory=OrderedDict)  # segment ids, and (segment id, language)
    streams: OrderedDict[str, _StreamState] = field(factory=OrderedDict)  # the one used longest ago first
    present: dict[str, _Presence] = field(factory=dict)


@define
class _TenantState:
    entries: int = 0
    calls: OrderedDict[Call, _CallState] = field(factory=OrderedDict)  # the one used longest ago first


class Memory:
    """What the ends of a bus in memory share. Calls that nobody keeps are forgotten after `ttl_s`."""

    def __init__(self, *, ttl_s: float, max_entries: int = 20_000, presence_s: float = PRESENCE_S) -> None:
        """`max_entries`: of all calls together; beyond it the tenant that has the most loses its oldest.

        Of its calls, the one that was used longest ago comes first. `presence_s`: how long a client counts as present.
        """
        self.down = False
        self.ends: list[MemoryBus] = []
        self.presence_s = presence_s
        self.instances: dict[str, tuple[InstanceRecord, float]] = {}  # by name, with the time when it was told
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._entries = 0
        self._calls: OrderedDict[Call, _CallState] = OrderedDict()  # the one used longest ago first
        self._tenants: dict[str, _TenantState] = {}
        self._numbers = 0
        self._order = 10**15  # beyond any age

    def __len__(self) -> int:
        return self._entries

    def stop(self, *, forget: bool = False) -> None:
        """The bus goes down, for tests; `forget`: and loses everything."""
        self.down = True
        if forget:
            self._calls.clear()
            self._tenants.clear()
            self._entries = 0
            self.instances.clear()

    def start(self) -> None:
        """It comes back."""
        self.down = False
        for end in tuple(self.ends):
            end.come_up()

    def next_number(self) -> int:
        """A number greater than every one before."""
        self._numbers += 1
        return self._numbers

    def next_order(self, age_s: float) -> int:
        """The order of a connection that is `age_s` seconds old: later than all that are older."""
        self._order = max(10**15 + round(trio.current_time() * 1_000_000), self._order + 1)
        return self._order - round(max(0.0, age_s) * 1_000_000)

    def call(self, call: Call) -> _CallState:
        """What is stored of `call`, kept for `ttl_s` from now."""
        now = trio.current_time()
        while self._calls and next(iter(self._calls.values())).expires_at <= now:
            self._forget(next(iter(self._calls)))
        state = self._calls.setdefault(call, _CallState(now))
        state.expires_at = now + self._ttl_s
        self._calls.move_to_end(call)
        calls = self._tenants.setdefault(call.tenant, _TenantState()).calls
        calls[call] = state
        calls.move_to_end(call)
        return state

    def append(self, call: Call, name: object, payload: bytes) -> None:
        """Stores an entry under that name."""
        state = self.call(call)
        state.entries[f"{self.next_number()}-0"] = payload
        self._count(call.tenant, 1)
        state.stored[name] = None
        if len(state.stored) > 2 * KEPT_ENTRIES:
            state.stored.popitem(last=False)
        if len(state.entries) > KEPT_ENTRIES:
            self._drop_oldest(call)
        while self._entries > self._max_entries:
            richest = max(self._tenants.values(), key=lambda tenant: tenant.entries)
            self._drop_oldest(next(call for call, state in richest.calls.items() if state.entries))

    def _count(self, tenant: str, entries: int) -> None:
        self._entries += entries
        self._tenants[tenant].entries += entries

    def _drop_oldest(self, call: Call) -> None:
        self._calls[call].entries.popitem(last=False)
        self._count(call.tenant, -1)

    def _forget(self, call: Call) -> None:
        self._count(call.tenant, -len(self._calls.pop(call).entries))
        tenant = self._tenants[call.tenant]
        del tenant.calls[call]
        if not tenant.calls:
            del self._tenants[call.tenant]


class MemoryBus(Bus):
    """An end of a bus in memory. See `Bus` for its methods."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        memory.ends.append(self)
        self._followings: dict[Call, Following] = {}
        self._generation = 1
        self._came_up = trio.Event()

    @property
    def up(self) -> bool:
        return not self._memory.down

    @property
    def generation(self) -> int:
        return self._generation

    def statistics(self) -> BusStatistics:
        return BusStatistics(self.up, self._generation, len(self._followings), 0.0)

    async def wait_up(self, after: int) -> int:
        await trio.lowlevel.checkpoint()
        while not self.up or self._generation <= after:
            await self._came_up.wait()
        return self._generation

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    def come_up(self) -> None:
        """The bus is back: hears what was missed."""
        self._generation += 1
        self._came_up.set()
        self._came_up = trio.Event()
        for following in tuple(self._followings.values()):
            self._catch_up(following)

    async def take_epoch(self, call: Call, stream_id: str, known: int) -> int | Down:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Outcome.DOWN
        stream = self._use(call, stream_id)
        stream.epoch = 1 + max(known, stream.epoch)
        return stream.epoch

    async def claim_epoch(self, call: Call, stream_id: str, epoch: int) -> int | Down:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Outcome.DOWN
        stream = self._use(call, stream_id)
        stream.epoch = max(epoch, stream.epoch)
        return stream.epoch

    async def publish_final(self, call: Call, final: Transcript, *, epoch: int, follows: int) -> Published:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Published(Outcome.DOWN)
        state = self._memory.call(call)
        stream = state.streams.get(final.stream_id, _StreamState())
        if epoch < stream.epoch:
            return Published(Outcome.FENCED)
        if final.segment_id in state.stored:
            return Published(Outcome.STORED)
        if final.start_sample < stream.end_sample:
            return Published(Outcome.OVERLAPS, stream.end_sample)
        kept = StoredFinal(final, epoch, follows)
        payload = _encoded(kept)
        if payload is None:
            return Published(Outcome.REFUSED)
        stream = self._use(call, final.stream_id)
        stream.epoch, stream.end_sample = epoch, final.end_sample
        self._memory.append(call, final.segment_id, payload)
        self._tell(call, kept)
        return Published(Outcome.STORED)

    async def publish_translation(self, call: Call, translation: Translation) -> Outcome:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Outcome.DOWN
        state = self._memory.call(call)
        name = (translation.segment_id, translation.language)
        if name in state.stored:
            return Outcome.ALREADY_STORED
        payload = _encoded(translation)
        if payload is None:
            return Outcome.REFUSED
        self._memory.append(call, name, payload)
        self._tell(call, translation)
        return Outcome.STORED

    def publish_partial(self, call: Call, partial: Transcript) -> None:
        self._tell(call, partial)

    async def stream_finals(self, call: Call, stream_id: str) -> tuple[StoredFinal, ...] | Down:
        entries = await self.read(call, None)
        if entries is Outcome.DOWN:
            return Outcome.DOWN
        return finals_of_stream(entries, stream_id)

    async def read(self, call: Call, after: str | None) -> tuple[Entry, ...] | Down:
        await trio.lowlevel.checkpoint()
        return self._entries_after(call, after) if self.up else Outcome.DOWN

    def follow(self, call: Call, receive: Receive, after: str | None = None) -> Following:
        if call in self._followings:
            raise RuntimeError("this call is followed already")
        following = self._followings[call] = Following(call, receive, after, self._forget)
        if self.up:
            self._catch_up(following)
        return following

    async def announce(self, call: Call, present: Present, age_s: float = 0.0) -> int | Down:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Outcome.DOWN
        present = evolve(present, order=self._memory.next_order(age_s))
        known = self._present(call).get(present.client_id)
        if known is None or known.present.connection == present.connection or known.present.order < present.order:
            self._keep_present(call, present)
        self._tell(call, Joined(present))
        return present.order

    async def refresh(self, call: Call, presents: Sequence[Present]) -> Outcome:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Outcome.DOWN
        kept = self._present(call)
        for present in presents:
            if present.client_id not in kept or kept[present.client_id].present.order <= present.order:
                self._keep_present(call, present)
        self._tell(call, Here(tuple(presents)))
        return Outcome.STORED

    def depart(self, call: Call, present: Present) -> None:
        if not self.up:
            return
        kept = self._present(call)
        if present.client_id in kept and kept[present.client_id].present.connection == present.connection:
            del kept[present.client_id]
        self._tell(call, Left(present.client_id, present.connection))

    async def meet_instances(self, record: InstanceRecord) -> tuple[InstanceSeen, ...] | Down:
        await trio.lowlevel.checkpoint()
        if not self.up:
            return Outcome.DOWN
        now = trio.current_time()
        known = self._memory.instances
        known[record.name] = record, now
        for name in [name for name, (_, told_at) in known.items() if now - told_at > INSTANCE_S]:
            del known[name]
        return tuple(InstanceSeen(one, now - told_at) for _, (one, told_at) in sorted(known.items()))

    def _use(self, call: Call, stream_id: str) -> _StreamState:
        streams = self._memory.call(call).streams
        stream = streams.setdefault(stream_id, _StreamState())
        streams.move_to_end(stream_id)
        if len(streams) > KEPT_STREAMS:
            streams.popitem(last=False)
        return stream

    def _present(self, call: Call) -> dict[str, _Presence]:
        """Who is there; those who were not heard of for too long are forgotten."""
        kept, now = self._memory.call(call).present, trio.current_time()
        for client_id in [name for name, presence in kept.items() if presence.expires_at < now]:
            del kept[client_id]
        return kept

    def _keep_present(self, call: Call, present: Present) -> None:
        until = trio.current_time() + self._memory.presence_s
        self._memory.call(call).present[present.client_id] = _Presence(present, until, self)

    def _entries_after(self, call: Call, after: str | None) -> tuple[Entry, ...]:
        entries = self._memory.call(call).entries
        if after is not None and entries and place_of(next(reversed(entries))) < place_of(after):
            after = None  # forgotten, and begun anew
        return tuple(
            Entry(id, cast(Kept, message.event))
            for id, payload in entries.items()
            if after is None or place_of(id) > place_of(after)
            if (message := decode(payload, call)) is not None
        )

    def _tell(self, call: Call, event: BusEvent) -> None:
        if not self.up:
            return
        for end in self._memory.ends:
            end.hear(call, event, own=end is self)

    def hear(self, call: Call, event: BusEvent, *, own: bool) -> None:
        """Takes what this end or another published."""
        following = self._followings.get(call)
        if following is None:
            return
        if isinstance(event, StoredFinal | Translation):
            following.after = next(reversed(self._memory.call(call).entries), following.after)
        if not own:
            following.hand_over([event], False)

    def _catch_up(self, following: Following) -> None:
        entries = self._entries_after(following.call, following.after)
        if entries:
            following.after = entries[-1].id
        following.hand_over([entry.kept for entry in entries], not following.caught_up.is_set())
        present = [one.present for one in self._present(following.call).values() if one.end is not self]
        following.hand_over([Here(tuple(present))], False)
        following.caught_up.set()

    def _forget(self, following: Following) -> None:
        with suppress(KeyError):
            del self._followings[following.call]


def _encoded(kept: Kept) -> bytes | None:
    """As Redis would be given it; None: there are no bytes for it, and Redis would be given nothing."""
    try:
        return encode(kept, "")
    except (ValueError, TypeError, AttributeError):
        return None
