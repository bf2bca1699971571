"""What every bus promises: the same tests for the twin in memory and for a real Redis."""

import gc
import sys
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import structlog
import trio
from coredis.parser import Parser
from structlog.testing import capture_logs

from tests.server.redis_server import RedisServer, redis_server
from trio_stt.dialects.events import Transcript, Translation, Word
from trio_stt.sessions import memory_bus, redis_bus
from trio_stt.sessions.bus import (
    KEPT_ENTRIES,
    PRESENCE_S,
    Call,
    Here,
    InstanceRecord,
    InstanceSeen,
    Joined,
    Left,
    Outcome,
    Present,
    Published,
    StoredFinal,
)
from trio_stt.sessions.bus_messages import encode
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.redis_bus import CATCH_UPS_AT_ONCE, FIRST_RETRY_S, MAX_RETRY_S, PAGE_ENTRIES, RedisBus
from trio_stt.sessions.redis_connection import concerns_all
from trio_stt.sessions.redis_scripts import INSTANCES, Keys

CALL = Call("acme", "call")


def final(number: int, stream_id: str = "s", **changes) -> Transcript:
    """The final of samples `100 * number` to 100 more."""
    values = {
        "session_id": "call",
        "client_id": "ann",
        "stream_id": stream_id,
        "segment_id": f"{stream_id}-{number}",
        "text": f"line {number}",
        "is_final": True,
        "language": "en",
        "start_sample": 100 * number,
        "end_sample": 100 * number + 100,
        "sample_rate": 16000,
        "timestamp": 1.5 + number,
    }
    return Transcript(**{**values, **changes})


def translation(number: int, text: str = "linha", language: str = "pt") -> Translation:
    return Translation("call", "ann", "s", f"s-{number}", text, True, "en", language, 2.0)


class Heard:
    """A follower that keeps what it receives."""

    def __init__(self, bus, call: Call = CALL, after: str | None = None) -> None:
        self.events = []
        self.earlier = []
        self.following = bus.follow(call, self._receive, after)
        self._arrived = trio.Event()

    @property
    def there(self) -> set[str]:
        """The clients that were there when that was last told."""
        tellings = [event for event in self.events if isinstance(event, Here)]
        return {present.client_id for present in tellings[-1].presents} if tellings else set()

    def _receive(self, events, earlier) -> None:
        (self.earlier if earlier else self.events).extend(events)
        if hasattr(self, "_arrived"):
            self._arrived.set()

    @property
    def kept(self) -> list:
        """The finals and translations that came live."""
        return [event.final if isinstance(event, StoredFinal) else event for event in self._of(self.events)]

    @property
    def kept_earlier(self) -> list:
        return [event.final if isinstance(event, StoredFinal) else event for event in self._of(self.earlier)]

    def _of(self, events) -> list:
        return [event for event in events if isinstance(event, StoredFinal | Translation)]

    async def until(self, is_so) -> None:
        with trio.fail_after(10):
            while not is_so(self):
                self._arrived = trio.Event()
                await self._arrived.wait()


async def listening(bus, call: Call = CALL) -> Heard:
    """A follower that has heard what was stored before."""
    heard = Heard(bus, call)
    with trio.fail_after(5):
        await heard.following.caught_up.wait()
    return heard


class World:
    """A bus and what can befall it."""

    def __init__(self, nursery: trio.Nursery, redis: RedisServer | None) -> None:
        self._nursery = nursery
        self._redis = redis
        self._memory = Memory(ttl_s=60)
        self._ends = []

    def keep_present_for(self, presence_s: float) -> None:
        """How long clients count as present, at ends that begin from now on."""
        self._memory.presence_s = self._presence_s = presence_s

    _presence_s = PRESENCE_S

    async def end(self, make=RedisBus):
        if self._redis is None:
            bus = MemoryBus(self._memory)
        else:
            bus = make(self._redis.url, ttl_s=60, presence_s=self._presence_s)
        await self._nursery.start(bus.run)
        with trio.fail_after(10):
            await bus.wait_up(0)
        self._ends.append(bus)
        return bus

    async def stop(self) -> None:
        """The bus dies and forgets all."""
        if self._redis is None:
            self._memory.stop(forget=True)
        else:
            self._redis.stop()

    async def start(self) -> None:
        """It comes back, and every end has noticed."""
        before = [bus.generation for bus in self._ends]
        if self._redis is None:
            self._memory.start()
        else:
            self._redis.start()
        with trio.fail_after(10):
            for bus, generation in zip(self._ends, before, strict=True):
                await bus.wait_up(generation)


@asynccontextmanager
async def open_world(redis: RedisServer | None):
    async with trio.open_nursery() as nursery:
        yield World(nursery, redis)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["memory", "redis"])
async def world(request):
    if request.param == "memory":
        async with open_world(None) as made:
            yield made
    else:
        with redis_server() as redis:
            async with open_world(redis) as made:
                yield made


async def publish(bus, *finals, call: Call = CALL, epoch: int = 1) -> list[Published]:
    return [await bus.publish_final(call, one, epoch=epoch, follows=one.start_sample) for one in finals]


STORED = Published(Outcome.STORED)


async def test_a_final_is_stored_and_heard_elsewhere_whole(world):
    here, there = await world.end(), await world.end()
    heard = await listening(there)
    whole = final(
        1, text='ça "va"\n', words=(Word("ça", 0.25, 0.5, 0.875), Word("va", 0.5, 1.0, 1.0)), chunk_id=7, lag_ms=900
    )
    assert await publish(here, whole) == [STORED]
    await heard.until(lambda heard: heard.kept)
    assert heard.kept == [whole]
    (entry,) = await here.read(CALL, None)
    assert entry.kept == StoredFinal(whole, epoch=1, follows=100)
    assert await there.stream_finals(CALL, "s") == (entry.kept,)
    assert await there.stream_finals(CALL, "t") == ()


async def test_who_publishes_does_not_hear_it_again(world):
    here, there = await world.end(), await world.end()
    mine, theirs = await listening(here), await listening(there)
    await publish(here, final(1))
    here.publish_partial(CALL, final(2, is_final=False))
    await publish(there, final(1, "t"))
    await mine.until(lambda heard: heard.kept)
    assert mine.kept == [final(1, "t")]
    await theirs.until(lambda heard: final(2, is_final=False) in heard.events)
    assert theirs.kept == [final(1)]


async def test_a_final_is_stored_once_however_often_it_is_published(world):
    here, there = await world.end(), await world.end()
    heard = await listening(there)
    assert await publish(here, final(1), final(1), final(2), final(1)) == [STORED] * 4
    await heard.until(lambda heard: len(heard.kept) >= 2)
    assert heard.kept == [final(1), final(2)]
    assert len(await here.read(CALL, None)) == 2


async def test_a_final_that_overlaps_is_refused_and_told_where_the_last_one_ended(world):
    bus = await world.end()
    crossing = final(0, segment_id="other", end_sample=250)
    assert await publish(bus, final(1), crossing) == [STORED, Published(Outcome.OVERLAPS, 200)]
    within = final(1, segment_id="again")
    assert await publish(bus, within, final(2)) == [Published(Outcome.OVERLAPS, 200), STORED]
    assert [entry.kept.final for entry in await bus.read(CALL, None)] == [final(1), final(2)]
    other_stream = final(0, "t")
    assert await publish(bus, other_stream) == [STORED]


async def test_a_value_without_bytes_is_refused_and_not_stored(world):
    bus = await world.end()
    nowhere = final(1, words=(Word("a", float("nan"), 1.0, 1.0),))
    assert await publish(bus, nowhere) == [Published(Outcome.REFUSED)]
    assert await bus.read(CALL, None) == ()
    assert await publish(bus, final(1)) == [STORED]


async def test_a_lower_epoch_is_fenced_and_stores_nothing(world):
    here, there = await world.end(), await world.end()
    assert await publish(here, final(1)) == [STORED]
    assert await there.take_epoch(CALL, "s", 1) == 2
    assert await publish(here, final(2)) == [Published(Outcome.FENCED)]
    assert await publish(there, final(2, segment_id="new"), epoch=2) == [STORED]
    assert await here.take_epoch(CALL, "s", 7) == 8
    assert await publish(there, final(3, segment_id="late"), epoch=2) == [Published(Outcome.FENCED)]
    assert [entry.kept.final.segment_id for entry in await here.read(CALL, None)] == ["s-1", "new"]


async def test_a_final_takes_its_epoch_along_and_a_live_epoch_is_claimed(world):
    here, there = await world.end(), await world.end()
    assert await publish(here, final(1), epoch=5) == [STORED]
    assert await there.claim_epoch(CALL, "s", 3) == 5
    assert await there.claim_epoch(CALL, "s", 6) == 6
    assert await publish(here, final(2), epoch=5) == [Published(Outcome.FENCED)]


async def test_two_that_take_an_epoch_at_once_get_different_ones(world):
    ends = [await world.end() for _ in range(3)]
    taken = []

    async def take(bus):
        taken.append(await bus.take_epoch(CALL, "s", 1))

    async with trio.open_nursery() as nursery:
        for bus in ends:
            nursery.start_soon(take, bus)
    assert sorted(taken) == [2, 3, 4]


async def test_a_translation_is_stored_once_for_each_segment_and_language(world):
    here, there = await world.end(), await world.end()
    heard = await listening(here)
    await publish(here, final(1))
    assert await here.publish_translation(CALL, translation(1)) is Outcome.STORED
    assert await there.publish_translation(CALL, translation(1, "outra")) is Outcome.ALREADY_STORED
    assert await there.publish_translation(CALL, translation(1, "Zeile", "de")) is Outcome.STORED
    await heard.until(lambda heard: heard.kept)
    assert heard.kept == [translation(1, "Zeile", "de")]
    stored = [entry.kept for entry in await there.read(CALL, None)]
    assert stored == [StoredFinal(final(1), 1, 100), translation(1), translation(1, "Zeile", "de")]


async def test_late_subscribers_read_from_an_id_and_go_on_without_gap_or_double(world):
    here, there = await world.end(), await world.end()
    await publish(here, *(final(number) for number in range(5)))
    entries = await there.read(CALL, None)
    assert [entry.kept.final.segment_id for entry in await there.read(CALL, entries[2].id)] == ["s-3", "s-4"]
    heard = Heard(there, after=entries[2].id)
    await publish(here, *(final(number) for number in range(5, 30)))
    await heard.until(lambda heard: len(heard.kept_earlier + heard.kept) >= 27)
    assert heard.kept_earlier + heard.kept == [final(number) for number in range(3, 30)]


async def test_a_follower_that_begins_while_others_publish_misses_and_doubles_nothing(world):
    here, there = await world.end(), await world.end()

    async def speak():
        for number in range(200):
            await publish(here, final(number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        heard = None
        for _ in range(20):
            await trio.sleep(0.002)
            if heard is not None:
                heard.following.close()
            heard = Heard(there)
        await heard.until(lambda heard: len(heard.kept_earlier + heard.kept) >= 200)
    assert heard.kept_earlier + heard.kept == [final(number) for number in range(200)]


async def test_after_closing_nothing_is_heard(world):
    here, there = await world.end(), await world.end()
    gone = await listening(there)
    gone.following.close()
    gone.following.close()
    await publish(here, final(1))
    heard = Heard(there)
    await heard.until(lambda heard: heard.earlier)
    assert gone.kept == []


async def test_partials_and_left_are_told_but_not_stored(world):
    here, there = await world.end(), await world.end()
    heard = await listening(there)
    partial = final(1, is_final=False)
    ann = Present("ann", "c1", partials=True)
    here.publish_partial(CALL, partial)
    here.depart(CALL, ann)
    await heard.until(lambda heard: Left("ann", "c1") in heard.events)
    assert partial in heard.events
    assert await there.read(CALL, None) == ()


async def test_only_so_much_is_kept(world):
    bus = await world.end()
    count = KEPT_ENTRIES + 300
    async with trio.open_nursery() as nursery:
        for stream in range(20):
            nursery.start_soon(publish, bus, *(final(number, f"s{stream}") for number in range(count // 20)))
    kept = len(await bus.read(CALL, None))
    assert KEPT_ENTRIES <= kept < KEPT_ENTRIES + 150


async def test_epochs_and_ends_of_the_streams_used_last_are_kept(world, monkeypatch):
    for module in (memory_bus, redis_bus):
        monkeypatch.setattr(module, "KEPT_STREAMS", 5)
    bus = await world.end()
    await publish(bus, final(1, "old"), final(1, "spoken"), final(1, "taken"), epoch=3)
    for number in range(10):
        await publish(bus, final(1, f"s{number}"))
        assert await bus.take_epoch(CALL, "taken", 1) == 4 + number
        await publish(bus, final(2 + number, "spoken"), epoch=3)
    assert await publish(bus, final(20, "spoken"), epoch=2) == [Published(Outcome.FENCED)]
    assert await publish(bus, final(3, "spoken", segment_id="again"), epoch=3) == [Published(Outcome.OVERLAPS, 1200)]
    assert await bus.claim_epoch(CALL, "s9", 0) == 1
    assert await bus.claim_epoch(CALL, "old", 0) == 0


async def test_half_a_character_is_stored_and_heard_as_text(world):
    here, there = await world.end(), await world.end()
    heard = await listening(there)
    broken = final(1, stream_id="s\udc00", segment_id="s-\ud800", client_id="\udfff", text="so \ud83d there")
    assert await publish(here, broken, broken, final(1, "t")) == [STORED] * 3
    assert await here.take_epoch(CALL, "s\udc00", 1) == 2
    assert await there.take_epoch(CALL, "s\udc01", 1) == 2
    here.publish_partial(CALL, attrs.evolve(broken, is_final=False))
    assert isinstance(await here.announce(CALL, Present("\ud800", "c", partials=True)), int)
    await heard.until(lambda heard: any(isinstance(event, Joined) for event in heard.events))
    assert [one.text[:3] for one in heard.kept] == ["so ", "lin"]
    assert len(await there.read(CALL, None)) == 2


async def test_a_call_with_half_a_character_in_its_name_is_one_of_its_own(world):
    bus = await world.end()
    calls = [Call("acme", "\ud800"), Call("acme", "\ud801"), Call("acme", "?")]
    for call in calls:
        assert await publish(bus, final(1), call=call) == [STORED]
    assert [len(await bus.read(call, None)) for call in calls] == [1, 1, 1]


async def test_a_receiver_that_fails_keeps_nobody_else_from_hearing(world):
    here, there = await world.end(), await world.end()
    other_call = Call("acme", "other")

    def fail(events, earlier):
        raise RuntimeError("said in confidence")

    structlog.reset_defaults()
    with capture_logs() as lines:
        following = there.follow(CALL, fail)
        with trio.fail_after(5):
            await following.caught_up.wait()
        heard = await listening(there, other_call)
        await publish(here, final(1))
        await publish(here, final(1), call=other_call)
        await heard.until(lambda heard: heard.kept)
    assert there.up
    assert there.generation == 1
    failures = [line for line in lines if line["event"] == "bus_receiver_failed"]
    assert failures
    assert failures[0]["error"].startswith("RuntimeError at test_bus.py:")
    assert "confidence" not in str(lines)


# ── tenants and sessions ─────────────────────────────────────────────────────────────────────────────────────────

LOOK_ALIKES = [
    Call("", "call"),
    Call("acme", "call"),
    Call("acme", "call:x"),
    Call("acme:call", "x"),
    Call("acme}", "call"),
    Call("{acme", "call"),
    Call("acme%3A", "call"),
    Call("acme", "%63all"),
    Call("*", "call"),
    Call("acme", "*"),
    Call("ACME", "call"),
    Call("acme ", "call"),
    Call("acme\r\n", "call"),
    Call("açme", "call"),
    Call("acme", "call}:entries"),
]


async def test_calls_of_different_tenants_never_meet_whatever_their_names(world):
    here, there = await world.end(), await world.end()
    heard = {call: await listening(there, call) for call in LOOK_ALIKES}
    for number, call in enumerate(LOOK_ALIKES):
        mine = final(1, text=f"text {number}", session_id=call.session_id)
        assert await publish(here, mine, call=call) == [STORED]
        assert await here.take_epoch(call, "s", 0) == 2
        here.publish_partial(call, attrs.evolve(mine, is_final=False))
        assert isinstance(await here.announce(call, Present(f"client {number}", "c", partials=True)), int)
    for number, call in enumerate(LOOK_ALIKES):
        await heard[call].until(lambda heard: any(isinstance(event, Joined) for event in heard.events))
        texts = {one.text for one in heard[call].kept + heard[call].kept_earlier}
        texts |= {event.text for event in heard[call].events if isinstance(event, Transcript)}
        assert texts == {f"text {number}"}
        clients = {event.present.client_id for event in heard[call].events if isinstance(event, Joined)}
        assert clients == {f"client {number}"}
        assert len(await there.read(call, None)) == 1


async def test_the_call_of_what_is_heard_is_the_one_that_was_followed(world):
    here, there = await world.end(), await world.end()
    heard = await listening(there)
    await publish(here, final(1, session_id="call"))
    await heard.until(lambda heard: heard.kept)
    assert heard.kept[0].session_id == CALL.session_id


# ── presence ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_comes_and_who_is_there_already_is_told(world):
    here, there = await world.end(), await world.end()
    early = await listening(there)
    ann = Present("ann", "c1", partials=False, languages=("pt", "de"))
    order = await here.announce(CALL, ann)
    await early.until(lambda heard: Joined(attrs.evolve(ann, order=order)) in heard.events)
    third = await world.end()
    late = Heard(third)
    await late.until(lambda heard: Here((attrs.evolve(ann, order=order),)) in heard.events)


async def test_of_two_connections_of_a_client_the_later_counts(world):
    here, there, third = [await world.end() for _ in range(3)]
    old, new = Present("ann", "old", partials=True), Present("ann", "new", partials=True)
    first = await here.announce(CALL, old)
    second = await there.announce(CALL, new)
    assert second > first
    assert await here.refresh(CALL, [attrs.evolve(old, order=first)]) is Outcome.STORED
    here.depart(CALL, old)
    await here.read(CALL, None)  # what was told before has been done
    heard = Heard(third)
    await heard.until(lambda heard: Here((attrs.evolve(new, order=second),)) in heard.events)


async def test_the_later_connection_counts_also_if_it_is_told_first(world):
    here, there, third = [await world.end() for _ in range(3)]
    early = await listening(third)
    old, new = Present("ann", "old", partials=True), Present("ann", "new", partials=True)
    later = await there.announce(CALL, new, age_s=30)
    sooner = await here.announce(CALL, old, age_s=60)
    assert later > sooner > 0
    await early.until(lambda heard: Joined(attrs.evolve(old, order=sooner)) in heard.events)
    late = Heard(await world.end())
    await late.until(lambda heard: Here((attrs.evolve(new, order=later),)) in heard.events)
    assert await there.announce(CALL, attrs.evolve(new, partials=False), age_s=31) > sooner  # the answer was lost
    newest = await here.announce(CALL, Present("ann", "newest", partials=True))
    assert newest > later
    last = Heard(await world.end())
    await last.until(lambda heard: Here((Present("ann", "newest", partials=True, order=newest),)) in heard.events)


async def test_orders_go_up_however_many_come_at_once(world):
    bus = await world.end()
    orders = [await bus.announce(CALL, Present("ann", f"c{number}", partials=True)) for number in range(100)]
    assert orders == sorted(set(orders))


async def test_who_was_not_heard_of_for_long_is_not_there(world):
    world.keep_present_for(0.2)
    here, there = await world.end(), await world.end()
    await here.announce(CALL, Present("ann", "c", partials=True))
    gone = False
    with trio.fail_after(10):
        while not gone:
            await trio.sleep(0.01)
            heard = Heard(there)
            await heard.until(lambda heard: any(isinstance(event, Here) for event in heard.events))
            gone = not heard.there
            heard.following.close()


async def test_an_end_is_not_told_of_its_own_clients_also_after_an_outage(world):
    here, there = await world.end(), await world.end()
    heard = await listening(here)
    await world.stop()
    await world.start()
    ann, bob = Present("ann", "a", partials=True, order=7), Present("bob", "b", partials=True, order=8)
    assert await here.refresh(CALL, [ann]) is Outcome.STORED
    assert await there.refresh(CALL, [bob]) is Outcome.STORED
    await heard.until(lambda heard: "bob" in heard.there)
    heard.following.close()
    again = Heard(here)
    await again.until(lambda heard: heard.there == {"bob"})
    of_the_other = Heard(there)
    await of_the_other.until(lambda heard: heard.there == {"ann"})


# ── instances ────────────────────────────────────────────────────────────────────────────────────────────────────


ONE = InstanceRecord("one", "1.0", "ready", True, 3, 20, "full", 1, 2, 400)
TWO = InstanceRecord('two "2" ü', "1.1", "draining", False, 5, 5, "refuse_new", 0, 0, None)


def records(seen: tuple[InstanceSeen, ...]) -> list[InstanceRecord]:
    return [one.record for one in seen]


async def test_instances_hear_of_each_other_and_of_themselves(world):
    here, there = await world.end(), await world.end()
    assert records(await there.meet_instances(TWO)) == [TWO]
    (mine, other) = await here.meet_instances(ONE)
    assert (mine.record, other.record) == (ONE, TWO)
    assert 0 <= mine.age_s < 1
    changed = attrs.evolve(ONE, streams=4)
    assert records(await here.meet_instances(changed)) == [changed, TWO]
    assert records(await there.meet_instances(TWO)) == [changed, TWO]


async def test_an_instance_that_was_not_heard_of_for_long_is_none_any_more(world, monkeypatch):
    for module in (memory_bus, redis_bus):
        monkeypatch.setattr(module, "INSTANCE_S", 0.3)
    here, there = await world.end(), await world.end()
    await there.meet_instances(TWO)
    ages = []
    with trio.fail_after(10):
        while len(seen := await here.meet_instances(ONE)) > 1:
            ages.append(seen[1].age_s)
            await trio.sleep(0.02)
    assert records(seen) == [ONE]
    assert ages == sorted(ages)
    assert 0.1 < ages[-1] <= 0.3


async def test_instances_find_each_other_again_on_a_bus_that_forgot_them(world):
    here, there = await world.end(), await world.end()
    await here.meet_instances(ONE)
    await world.stop()
    await world.start()
    assert records(await there.meet_instances(TWO)) == [TWO]
    assert records(await here.meet_instances(ONE)) == [ONE, TWO]


# ── a bus that goes away ─────────────────────────────────────────────────────────────────────────────────────────


async def test_with_the_bus_down_everything_ends_down_and_quickly_and_goes_on_when_it_returns(world):
    here, there = await world.end(), await world.end()
    heard = await listening(there)
    await publish(here, final(1))
    await heard.until(lambda heard: heard.kept)
    await world.stop()
    ann = Present("ann", "c1", partials=True)
    with trio.fail_after(3):
        assert await publish(here, final(2)) == [Published(Outcome.DOWN)]
        assert not here.up
        assert await here.publish_translation(CALL, translation(1)) is Outcome.DOWN
        assert await here.take_epoch(CALL, "s", 1) is Outcome.DOWN
        assert await here.claim_epoch(CALL, "s", 1) is Outcome.DOWN
        assert await here.stream_finals(CALL, "s") is Outcome.DOWN
        assert await here.read(CALL, None) is Outcome.DOWN
        assert await here.announce(CALL, ann) is Outcome.DOWN
        assert await here.refresh(CALL, [ann]) is Outcome.DOWN
        assert await here.meet_instances(InstanceRecord("one")) is Outcome.DOWN
        here.publish_partial(CALL, final(2, is_final=False))
        here.depart(CALL, ann)
    late = Heard(here)  # begun while the bus is down
    assert not late.following.caught_up.is_set()
    await world.start()
    assert await publish(here, final(2)) == [STORED]
    await heard.until(lambda heard: len(heard.kept) >= 2)
    assert heard.kept == [final(1), final(2)]
    await publish(there, final(1, "t"))
    await late.until(lambda heard: final(1, "t") in heard.kept_earlier + heard.kept)
    late.following.close()


async def test_an_epoch_that_the_bus_forgot_is_claimed_and_fences_again(world):
    here, there = await world.end(), await world.end()
    assert await there.take_epoch(CALL, "s", 1) == 2
    await world.stop()
    await world.start()
    assert await there.claim_epoch(CALL, "s", 2) == 2
    assert await publish(here, final(1), epoch=1) == [Published(Outcome.FENCED)]
    assert await publish(there, final(1), epoch=2) == [STORED]
    assert len(await here.read(CALL, None)) == 1


async def test_what_was_stored_during_a_loss_of_one_end_only_is_caught_up():
    with redis_server() as redis:
        async with open_world(redis) as world:
            here, there = await world.end(), await world.end()
            heard = await listening(there)
            await publish(here, final(1))
            await heard.until(lambda heard: heard.kept)
            generation = there.generation
            there._lose(there._connection, "a test")
            await publish(here, final(2), final(3))
            with trio.fail_after(5):
                await there.wait_up(generation)
            await publish(here, final(4))
            await heard.until(lambda heard: len(heard.kept) >= 4)
            assert heard.kept == [final(number) for number in (1, 2, 3, 4)]


# ── Redis itself ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def redis():
    with redis_server() as server:
        yield server


@pytest.fixture
async def redis_world(redis):
    async with open_world(redis) as made:
        yield made


async def test_a_redis_that_hangs_is_down_within_its_time_and_comes_back(redis, redis_world):
    here, there = await redis_world.end(), await redis_world.end()
    heard = await listening(there)
    redis.freeze()
    try:
        began = trio.current_time()
        assert await publish(here, final(1)) == [Published(Outcome.DOWN)]
        assert trio.current_time() - began < 5
        assert not here.up
        assert await publish(here, final(1)) == [Published(Outcome.DOWN)]
        generation = there.generation
        with trio.fail_after(10):
            while there.up:  # it finds out by itself
                await trio.sleep(0.01)
    finally:
        redis.thaw()
    with trio.fail_after(10):
        await there.wait_up(generation)
        await here.wait_up(1)
    assert await publish(here, final(1), final(2)) == [STORED, STORED]
    await heard.until(lambda heard: len(heard.kept) >= 2)
    assert heard.kept == [final(1), final(2)]


async def test_a_redis_that_refuses_to_store_is_down(redis, redis_world):
    bus = await redis_world.end()
    redis.command("CONFIG", "SET", "maxmemory", "1")
    assert await publish(bus, final(1)) == [Published(Outcome.DOWN)]
    await trio.sleep(0.5)
    assert not bus.up
    redis.command("CONFIG", "SET", "maxmemory", "0")
    with trio.fail_after(10):
        await bus.wait_up(1)
    assert await publish(bus, final(1)) == [STORED]


async def test_lost_scripts_are_loaded_again(redis, redis_world):
    bus = await redis_world.end()
    redis.command("SCRIPT", "FLUSH")
    assert await publish(bus, final(1)) == [Published(Outcome.DOWN)]
    with trio.fail_after(10):
        await bus.wait_up(1)
    assert await publish(bus, final(1)) == [STORED]


async def test_what_others_put_into_our_keys_and_channels_is_left_out(redis, redis_world):
    here, there = await redis_world.end(), await redis_world.end()
    keys = Keys.of(CALL)
    redis.command("XADD", keys.entries, "*", "m", "rubbish")
    heard = await listening(there)
    for message in (
        b"",
        b"-",
        b"- {}",
        b"1-0 [1,2]",
        b"- \xff\xfe",
        b'- {"kind":"later","origin":"x"}',
        b"- " + encode(StoredFinal(final(2), 1, 0), "x"),
        b'- {"kind":"left","origin":"x","client_id":"\\ud800","connection":"c"}',
        b'- {"kind":"final","origin":"x","epoch":1e999,"follows":0,"is":{}}',
        b'- {"kind":"left","origin":"x","client_id":"ann","connection":NaN}',
        b"soon " + encode(Joined(Present("ann", "c", partials=True)), "x"),
    ):
        redis.command("PUBLISH", keys.channel, message)
    await publish(here, final(1))
    await heard.until(lambda heard: heard.kept)
    assert heard.kept == [final(1)]
    assert not any(isinstance(event, Left) for event in heard.events)
    assert [entry.kept.final for entry in await here.read(CALL, None)] == [final(1)]


async def test_everything_that_is_kept_expires(redis, redis_world):
    bus = await redis_world.end()
    await publish(bus, final(1))
    order = await bus.announce(CALL, Present("ann", "c", partials=True))
    await bus.publish_translation(CALL, translation(1))
    await bus.take_epoch(CALL, "s", 1)
    keys = Keys.of(CALL)
    for key in (keys.entries, keys.segments, keys.streams, keys.present):
        assert 0 < int(redis.command("PTTL", key).strip().removeprefix(":")) <= 60_000
    redis.command("PEXPIRE", keys.entries, "1000")
    await bus.refresh(CALL, [Present("ann", "c", partials=True, order=order)])
    assert int(redis.command("PTTL", keys.entries).strip().removeprefix(":")) > 50_000
    names = redis.command("KEYS", "*").split()
    assert all(name.startswith(("trio-stt:{acme:call}:", "trio-stt:probe:", "$", "*")) for name in names)


async def test_no_redis_at_all_is_just_down():
    async with trio.open_nursery() as nursery:
        bus = RedisBus("redis://127.0.0.1:1/0", ttl_s=60)
        await nursery.start(bus.run)
        assert await publish(bus, final(1)) == [Published(Outcome.DOWN)]
        following = bus.follow(CALL, lambda events, earlier: None)
        following.close()
        nursery.cancel_scope.cancel()


async def test_cancelled_while_it_connects_it_leaves_nothing_open(redis, monkeypatch):
    unclosed = []
    monkeypatch.setattr(sys, "unraisablehook", unclosed.append)
    ups = 0
    for number in range(200):
        with trio.move_on_after(number * 0.0001):
            bus = RedisBus(redis.url, ttl_s=60)
            bus.follow(CALL, lambda events, earlier: None)
            await bus.run()
        ups += bus.up
    del bus
    gc.collect()
    assert ups == 0
    assert unclosed == []


async def test_cancelled_requests_leave_the_connection_usable(redis_world):
    bus = await redis_world.end()
    for number in range(50):
        with trio.move_on_after(0.0001 * (number % 7)):
            await publish(bus, final(number))
    assert bus.generation == 1
    await publish(bus, *(final(number) for number in range(50)))
    assert {entry.kept.final.segment_id for entry in await bus.read(CALL, None)} <= {f"s-{n}" for n in range(50)}
    assert await publish(bus, final(50)) == [STORED]


async def test_names_of_what_is_kept_are_kept_too_and_no_more(redis, redis_world):
    bus = await redis_world.end()
    count = 2 * KEPT_ENTRIES + 100
    async with trio.open_nursery() as nursery:
        for stream in range(20):
            nursery.start_soon(publish, bus, *(final(number, f"s{stream}") for number in range(count // 20)))
    keys = Keys.of(CALL)
    assert redis.command("ZCARD", keys.segments) == f":{2 * KEPT_ENTRIES}\r\n"
    entries = await bus.read(CALL, None)
    again = [await publish(bus, entry.kept.final) for entry in entries[::50]]
    assert again == [[STORED]] * len(again)
    assert await bus.read(CALL, None) == entries


async def test_who_is_gone_is_removed_from_redis(redis, redis_world):
    here, there = await redis_world.end(), await redis_world.end()
    ann, bob = Present("ann", "a", partials=True), Present("bob", "b", partials=True)
    ann, bob = [attrs.evolve(one, order=await here.announce(CALL, one)) for one in (ann, bob)]
    keys = Keys.of(CALL)
    redis.command("HSET", keys.present, "ann", f"1000 {ann.order} a {{}}")  # it expired in 1970
    redis.command("HSET", keys.present, "eve", "rubbish")
    heard = Heard(there)
    await heard.until(lambda heard: heard.there == {"bob"})
    await here.refresh(CALL, [bob])
    assert redis.command("HKEYS", keys.present) == "*1\r\n$3\r\nbob\r\n"


# ── what Redis refuses ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def logged(quiet):
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


OTHER = Call("acme", "other")


async def test_a_call_whose_keys_are_not_ours_is_refused_and_the_others_go_on(redis, redis_world, logged):
    here, there = await redis_world.end(), await redis_world.end()
    keys = Keys.of(CALL)
    for key in attrs.astuple(keys)[:-1]:
        redis.command("SET", key, "planted")
    heard, other = await listening(there), await listening(there, OTHER)
    for _ in range(3):
        assert await publish(here, final(1)) == [Published(Outcome.REFUSED)]
        assert await publish(here, final(1), call=OTHER) == [STORED]
    assert await here.publish_translation(CALL, translation(1)) is Outcome.REFUSED
    assert await here.claim_epoch(CALL, "s", 3) == 3
    assert await here.take_epoch(CALL, "s", 1) is Outcome.DOWN
    assert await here.read(CALL, None) is Outcome.DOWN
    assert await here.read(CALL, "1-0") is Outcome.DOWN
    assert await here.stream_finals(CALL, "s") is Outcome.DOWN
    ann = Present("ann", "c", partials=True)
    assert await here.announce(CALL, ann) is Outcome.DOWN
    assert await here.refresh(CALL, [ann]) is Outcome.DOWN
    here.depart(CALL, ann)
    here.publish_partial(CALL, final(2, is_final=False))
    await heard.until(lambda heard: final(2, is_final=False) in heard.events)
    await other.until(lambda heard: heard.kept)
    assert (here.generation, there.generation) == (1, 1)
    refusals = [line for line in logged if line["event"] == "bus_call_refused"]
    assert [(line["session_id"], line["error"]) for line in refusals] == [("call", "WrongTypeError")] * 2  # each end
    redis.command("DEL", *attrs.astuple(keys)[:-1])
    assert await publish(here, final(1)) == [STORED]
    await heard.until(lambda heard: heard.kept)


async def test_what_our_user_may_not_do_in_one_call_is_refused(redis, redis_world):
    bus = await redis_world.end()
    redis.command("ACL", "SETUSER", "default", "resetkeys", "~trio-stt:probe:*", "~trio-stt:{acme:other}:*")
    assert await publish(bus, final(1)) == [Published(Outcome.REFUSED)]
    assert await publish(bus, final(1), call=OTHER) == [STORED]
    assert bus.generation == 1


async def test_a_value_that_cannot_be_written_is_refused(redis_world, logged):
    here, there = await redis_world.end(), await redis_world.end()
    heard = await listening(there)
    nowhere = final(1, words=(Word("a", float("nan"), 1.0, 1.0),))
    assert await publish(here, nowhere) == [Published(Outcome.REFUSED)]
    here.publish_partial(CALL, attrs.evolve(nowhere, is_final=False))
    assert await publish(here, final(1)) == [STORED]
    await heard.until(lambda heard: heard.kept)
    assert [event for event in heard.events if isinstance(event, Transcript)] == []
    assert [line["command"] for line in logged if line["event"] == "bus_call_refused"] == ["encode"]


async def test_a_redis_that_became_a_replica_is_down(redis, redis_world):
    bus = await redis_world.end()
    redis.command("REPLICAOF", "127.0.0.1", "1")
    assert await publish(bus, final(1)) == [Published(Outcome.DOWN)]
    redis.command("REPLICAOF", "NO", "ONE")
    with trio.fail_after(10):
        await bus.wait_up(1)
    assert await publish(bus, final(1)) == [STORED]


@pytest.mark.parametrize(
    ("answer", "is_of_all"),
    [
        ("READONLY You can't write against a read only replica. script: 1, on @user_script:3.", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("ERR Error running script (call to f_1): @user_script:3: @user_script: 3: -OOM command not allowed", True),
        ("ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write", True),
        ("NOAUTH Authentication required.", True),
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("NOSCRIPT No matching script.", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("MOVED 3999 127.0.0.1:6381", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("BUSY Redis is busy running a script.", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value script: 1, on @user_script:3.", False),
        ("ERR Error running script (call to f_1): @user_script:3: WRONGTYPE Operation against a key", False),
        ("NOPERM No permissions to access a key", False),
        ("ERR hash value is not an integer script: 1, on @user_script:3.", False),
    ],
)
async def test_refusals_of_everything_are_told_from_those_of_one_call(answer, is_of_all):
    assert concerns_all(Parser().parse_error(answer)) is is_of_all


# ── losing and finding Redis ─────────────────────────────────────────────────────────────────────────────────────


class Hurried(RedisBus):
    """Says how long it would wait, and waits shortly."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.waits = []

    async def _pause(self, seconds) -> None:
        self.waits.append(seconds)
        await trio.sleep(0.001)

    async def until_waited(self, times: int) -> list[float]:
        with trio.fail_after(20):
            while len(self.waits) < times:
                await trio.sleep(0.001)
        return self.waits[:times]


def doubling(times: int) -> list[float]:
    return [min(FIRST_RETRY_S * 2**number, MAX_RETRY_S) for number in range(times)]


def are(waits: list[float], expected: list[float]) -> bool:
    """Whether they are those with up to a quarter more."""
    return all(least <= wait <= 1.25 * least for wait, least in zip(waits, expected, strict=True))


async def test_it_tries_again_after_waits_that_double_up_to_the_longest():
    async with trio.open_nursery() as nursery:
        bus = Hurried("redis://127.0.0.1:1/0", ttl_s=60)
        await nursery.start(bus.run)
        assert are(await bus.until_waited(7), doubling(7))
        nursery.cancel_scope.cancel()
    assert doubling(7) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


async def lose_connections(bus: Hurried, times: int) -> list[float]:
    for number in range(times):
        with trio.fail_after(10):
            await bus.wait_up(number)
        bus._lose(bus._connection, "a test")
        await bus.until_waited(number + 1)
    return bus.waits


async def test_a_connection_that_does_not_last_does_not_shorten_the_waits(redis_world):
    bus = await redis_world.end(Hurried)
    assert are(await lose_connections(bus, 6), doubling(6))


async def test_one_that_lasted_does(redis_world, monkeypatch):
    monkeypatch.setattr(redis_bus, "LASTING_S", 0)
    bus = await redis_world.end(Hurried)
    assert are(await lose_connections(bus, 6), [FIRST_RETRY_S] * 6)


async def test_it_says_once_why_it_is_down_and_when_it_is_up_again(redis, redis_world, logged):
    bus = await redis_world.end(Hurried)
    redis.stop()
    await bus.until_waited(5)
    redis.start()
    with trio.fail_after(10):
        await bus.wait_up(1)
    events = [line["event"] for line in logged]
    assert events == ["bus_up", "bus_down", "bus_up"]


@pytest.mark.parametrize("channel", ["_write_buffer_in", "_write_buffer_out"])
async def test_a_connection_whose_channels_closed_is_lost(redis_world, channel):
    bus = await redis_world.end()
    getattr(bus._connection, channel).close()
    bus.publish_partial(CALL, final(1, is_final=False))
    assert await publish(bus, final(1)) == [Published(Outcome.DOWN)]
    with trio.fail_after(10):
        await bus.wait_up(1)
    assert await publish(bus, final(1)) == [STORED]


async def test_what_is_no_record_of_an_instance_is_left_out(redis, redis_world):
    bus = await redis_world.end()
    await bus.meet_instances(ONE)
    now_ms = redis.command("HGET", INSTANCES, "one").split()[1]
    for number, rubbish in enumerate(("rubbish", "{}", '{"name": 7}', '{"name": "x", "limit": "many"}', "[]", "NaN")):
        redis.command("HSET", INSTANCES, f"rubbish {number}", f"{now_ms} {rubbish}")
    redis.command("HSET", INSTANCES, "later", now_ms + ' {"name": "later", "unheard": {"of": 1}}')
    redis.command("HSET", INSTANCES, "not even that", "rubbish")
    redis.command("HSET", INSTANCES, "of the future", '99999999999999 {"name": "of the future"}')
    assert records(await bus.meet_instances(ONE)) == [InstanceRecord("later"), ONE]
    assert bus.generation == 1


async def test_instances_that_redis_does_not_let_meet_have_a_bus_all_the_same(redis, redis_world):
    bus = await redis_world.end()
    redis.command("SET", INSTANCES, "somebody else's")
    assert await bus.meet_instances(ONE) is Outcome.DOWN
    assert await publish(bus, final(1)) == [STORED]
    assert bus.generation == 1


async def test_nobody_elses_message_to_ourselves_matters(redis, redis_world):
    bus = await redis_world.end()
    redis.command("PUBLISH", bus._beat_channel, "rubbish")
    assert await publish(bus, final(1)) == [STORED]
    assert bus.generation == 1


class Counting(RedisBus):
    """Counts how many of its pages are read at once, and comes back when it may."""

    reading = most = 0

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.may_return = trio.Event()

    async def _pause(self, seconds) -> None:
        await self.may_return.wait()

    async def _read_page(self, *arguments):
        self.reading += 1
        self.most = max(self.most, self.reading)
        await trio.sleep(0.005)  # so that all would read at once who could
        try:
            return await super()._read_page(*arguments)
        finally:
            self.reading -= 1


async def test_after_a_loss_few_calls_are_caught_up_at_once_and_in_pieces(redis_world):
    here, there = await redis_world.end(), await redis_world.end(Counting)
    counts = {Call("acme", f"call {number}"): 20 for number in range(20)} | {CALL: 450}
    heard = {call: await listening(there, call) for call in counts}
    pieces = []
    receive = heard[CALL].following._receive
    heard[CALL].following._receive = lambda events, earlier: (pieces.append(len(events)), receive(events, earlier))
    there.most = 0
    there._lose(there._connection, "a test")
    async with trio.open_nursery() as nursery:
        for call, count in counts.items():
            nursery.start_soon(partial(publish, here, *map(final, range(count)), call=call))
    there.may_return.set()
    for call, count in counts.items():
        await heard[call].until(lambda heard, count=count: len(heard.kept) >= count)
        assert [one.segment_id for one in heard[call].kept] == [f"s-{number}" for number in range(count)]
    assert 1 < there.most <= CATCH_UPS_AT_ONCE
    assert [count for count in pieces if count > 1] == [PAGE_ENTRIES] * 4 + [50]  # one: who is there


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_where_memory_is_full_the_tenant_that_has_the_most_loses_its_oldest():
    memory = Memory(ttl_s=60, max_entries=100)
    bus = MemoryBus(memory)
    modest, loud, loud_too = Call("modest", "a"), Call("loud", "a"), Call("loud", "b")
    await publish(bus, *map(final, range(10)), call=modest)  # used least recently of all
    await publish(bus, *map(final, range(20)), call=loud)
    await publish(bus, *map(final, range(200)), call=loud_too)
    assert len(memory) == 100
    assert len(await bus.read(modest, None)) == 10
    assert await bus.read(loud, None) == ()
    assert [entry.kept.final for entry in await bus.read(loud_too, None)] == [
        final(number, session_id="b") for number in range(110, 200)
    ]
    assert await publish(bus, final(5), call=loud) == [STORED]  # as before: it is not stored again
    assert await bus.read(loud, None) == ()


async def test_what_memory_forgot_counts_no_more(autojump_clock):
    memory = Memory(ttl_s=60, max_entries=100)
    bus = MemoryBus(memory)
    for number in range(10):
        await publish(bus, *map(final, range(10)), call=Call(f"tenant {number}", "a"))
        await trio.sleep(10)
    assert len(memory) == 60
    await trio.sleep(60)
    await publish(bus, final(1))
    assert len(memory) == 1
