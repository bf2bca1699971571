"""What every bus promises: the same tests for the twin in memory and for a real Redis."""

from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from tests.server.redis_server import RedisServer, redis_server
from trio_stt.dialects.events import Transcript, Translation, Word
from trio_stt.sessions.bus import (
    KEPT_ENTRIES,
    Call,
    Here,
    Joined,
    Left,
    Outcome,
    Present,
    Published,
    StoredFinal,
)
from trio_stt.sessions.bus_messages import encode
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.redis_bus import RedisBus
from trio_stt.sessions.redis_scripts import Keys

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

    async def end(self):
        bus = MemoryBus(self._memory) if self._redis is None else RedisBus(self._redis.url, ttl_s=60)
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
        here.publish_partial(CALL, final(2, is_final=False))
        here.depart(CALL, ann)
    late = Heard(here)  # begun while the bus is down
    assert not late.following.caught_up.is_set()
    await world.start()
    assert await publish(here, final(2)) == [STORED]
    await heard.until(lambda heard: len(heard.kept) >= 2)
    assert heard.kept == [final(1), final(2)]
    await publish(there, final(1, "t"))
    await late.until(lambda heard: final(1, "t") in heard.kept)
    late.following.close()


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
        b"soon " + encode(Joined(Present("ann", "c", partials=True)), "x"),
    ):
        redis.command("PUBLISH", keys.channel, message)
    await publish(here, final(1))
    await heard.until(lambda heard: heard.kept)
    assert heard.kept == [final(1)]
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


async def test_cancelled_requests_leave_the_connection_usable(redis_world):
    bus = await redis_world.end()
    for number in range(50):
        with trio.move_on_after(0.0001 * (number % 7)):
            await publish(bus, final(number))
    assert bus.generation == 1
    await publish(bus, *(final(number) for number in range(50)))
    assert {entry.kept.final.segment_id for entry in await bus.read(CALL, None)} <= {f"s-{n}" for n in range(50)}
    assert await publish(bus, final(50)) == [STORED]
