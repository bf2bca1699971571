"""Which agent is in which room: the same tests for the twin in memory and for a real Redis, on Trio and on asyncio."""

import time
from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest
from attrs import evolve

from tests.server.redis_server import RedisServer, redis_server
from trio_stt.rooms import redis_scripts
from trio_stt.rooms.leases import (
    ORPHANED_S,
    AgentRecord,
    AwayError,
    Held,
    Kept,
    Lease,
    LeaseMemory,
    Leases,
    MemoryLeases,
    RoomSeen,
    read_record,
)
from trio_stt.rooms.redis_leases import RedisLeases
from trio_stt.rooms.wanted import WantedRoom

LEASE_S = 0.4
WANTED = WantedRoom("a room", ("de", "pt-BR"), True)
ONE, OTHER = AgentRecord("one-1", "http://one", 1, 10, 3, 60), AgentRecord("other-2", "http://other", 4, 10, 0, 60)


class World:
    """Ends that know the same, and what can befall them."""

    def __init__(self, tasks: anyio.abc.TaskGroup, redis: RedisServer | None) -> None:
        self._tasks = tasks
        self._redis = redis
        self._memory = LeaseMemory(lease_s=LEASE_S, now=lambda: time.monotonic() + self._later_s)
        self.orphaned_s = ORPHANED_S
        self._later_s = 0.0

    async def end(self) -> Leases:
        if self._redis is None:
            self._memory.orphaned_s = self.orphaned_s
            return MemoryLeases(self._memory)
        leases = RedisLeases(self._redis.url, lease_s=LEASE_S, orphaned_s=self.orphaned_s)
        self._tasks.start_soon(leases.run)
        with anyio.fail_after(10):
            await leases.wait_up()
        return leases

    async def until_expired(self) -> None:
        """All that was not renewed has expired."""
        if self._redis is None:
            self._later_s += LEASE_S + 0.01
        else:
            await anyio.sleep(LEASE_S + 0.1)


Test = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis on asyncio", "redis on trio"])
def run(request, redis) -> Callable[[Test], None]:
    """Runs a test in a world of its own."""
    redis.command("FLUSHALL")

    def run(test: Test) -> None:
        async def in_world() -> None:
            async with anyio.create_task_group() as tasks:
                with anyio.fail_after(20):
                    await test(World(tasks, None if request.param == "memory" else redis))
                tasks.cancel_scope.cancel()

        anyio.run(in_world, backend="trio" if request.param.endswith("trio") else "asyncio")

    return run


def new(agent: AgentRecord = ONE, wanted: WantedRoom = WANTED) -> Lease:
    return Lease.new(wanted, agent.agent_id)


def test_one_of_many_that_claim_a_room_has_it(run):
    async def test(world: World) -> None:
        ends = [await world.end() for _ in range(4)]
        claims: list[Lease | Held | None] = []

        async def claim(end: Leases, number: int) -> None:
            claims.append(await end.claim(Lease.new(WANTED, f"agent-{number}")))

        async with anyio.create_task_group() as claiming:
            for number, end in enumerate(ends * 5):
                claiming.start_soon(claim, end, number)
        (lease,) = (claim for claim in claims if isinstance(claim, Lease))
        assert {claim for claim in claims if claim is not lease} == {Held(lease.agent_id, WANTED)}
        for end in ends:
            assert await end.look("a room") == RoomSeen(Held(lease.agent_id, WANTED))
            assert await end.look("another room") == RoomSeen(None)

    run(test)


def test_a_lease_that_is_renewed_lasts_and_one_that_is_not_is_free(run):
    async def test(world: World) -> None:
        one, other = await world.end(), await world.end()
        mine = await one.claim(new())
        for _ in range(4):
            await anyio.sleep(LEASE_S / 2)
            assert await one.renew([mine]) == {"a room": Kept.HELD}
            assert await other.orphans(10) == []
            assert isinstance(await other.claim(new(OTHER)), Held)
        await world.until_expired()
        assert await other.look("a room") == RoomSeen(None)
        assert await other.orphans(10) == ["a room"]
        taken = await other.claim(Lease.new(WantedRoom("a room"), OTHER.agent_id), orphaned=True)
        assert isinstance(taken, Lease)
        assert taken.wanted == WANTED  # as it was wanted
        assert await one.orphans(10) == []

    run(test)


def test_who_finds_its_lease_taken_is_told_and_the_taker_keeps_it(run):
    async def test(world: World) -> None:
        one, other = await world.end(), await world.end()
        mine = await one.claim(new())
        await world.until_expired()
        theirs = await other.claim(new(OTHER))
        assert await one.renew([mine]) == {"a room": Kept.TAKEN}
        await one.release(mine, wanted=False)  # which is nothing any more
        assert await other.renew([theirs]) == {"a room": Kept.HELD}
        assert (await one.look("a room")).held == Held(OTHER.agent_id, WANTED)
        # A second life of the same agent is another holder, too.
        assert await one.renew([evolve(theirs, token="older")]) == {"a room": Kept.TAKEN}

    run(test)


def test_a_lease_that_expired_and_that_nobody_took_is_held_again(run):
    async def test(world: World) -> None:
        one = await world.end()
        mine = await one.claim(new())
        await world.until_expired()
        assert await one.renew([mine]) == {"a room": Kept.HELD}
        assert (await one.look("a room")).held == Held(ONE.agent_id, WANTED)

    run(test)


def test_a_room_that_is_given_back_is_free_at_once_and_one_that_emptied_is_wanted_no_more(run):
    async def test(world: World) -> None:
        one, other = await world.end(), await world.end()
        mine = await one.claim(new())
        await one.release(mine, wanted=True)
        assert await other.orphans(10) == ["a room"]
        theirs = await other.claim(new(OTHER), orphaned=True)
        assert isinstance(theirs, Lease)
        await other.release(theirs, wanted=False)
        assert await one.orphans(10) == []
        assert await one.claim(new(), orphaned=True) is None
        assert isinstance(await one.claim(new()), Lease)

    run(test)


def test_a_cancelled_room_is_left_by_its_holder_and_can_be_wanted_again_at_once(run):
    async def test(world: World) -> None:
        one, other = await world.end(), await world.end()
        mine = await one.claim(new())
        assert await other.cancel("a room")
        assert not await other.cancel("a room")
        assert await other.look("a room") == RoomSeen(None)
        await world.until_expired()
        assert await other.orphans(10) == []
        assert await one.renew([mine]) == {"a room": Kept.CANCELLED}
        await one.claim(new())
        await other.cancel("a room")
        again = await other.claim(new(OTHER))
        assert isinstance(again, Lease)
        assert await other.renew([again]) == {"a room": Kept.HELD}

    run(test)


def test_a_room_that_was_cancelled_while_nobody_was_there_is_no_orphan(run):
    async def test(world: World) -> None:
        one = await world.end()
        await one.claim(new())
        await world.until_expired()
        assert await one.cancel("a room")
        assert await one.orphans(10) == []
        assert not await one.cancel("never wanted")

    run(test)


def test_orphans_are_those_longest_without_an_agent(run):
    async def test(world: World) -> None:
        one = await world.end()
        for name in ("b", "a", "c"):
            await one.release(await one.claim(new(wanted=WantedRoom(name))), wanted=True)
            await anyio.sleep(0.01)
        assert await one.orphans(2) == ["b", "a"]

    run(test)


def test_a_room_that_nobody_could_enter_for_long_is_wanted_no_more(run):
    async def test(world: World) -> None:
        world.orphaned_s = 0.2
        one = await world.end()
        await one.release(await one.claim(new()), wanted=True)
        assert await one.orphans(10) == ["a room"]
        await anyio.sleep(0.3)
        assert await one.orphans(10) == []
        assert not await one.cancel("a room")

    run(test)


def test_agents_are_there_until_they_go_or_are_not_heard_of(run):
    async def test(world: World) -> None:
        one, other = await world.end(), await world.end()
        await one.announce(ONE)
        await other.announce(OTHER)
        await other.announce(evolve(OTHER, rooms=5))
        assert {(each.agent_id, each.rooms) for each in await one.agents()} == {("one-1", 1), ("other-2", 5)}
        await one.claim(new())
        assert await other.look("a room") == RoomSeen(Held("one-1", WANTED), "http://one")
        await one.withdraw("one-1")
        assert [each.agent_id for each in await one.agents()] == ["other-2"]
        await world.until_expired()
        assert await one.agents() == []

    run(test)


def test_names_of_all_kinds_stay_apart(run):
    async def test(world: World) -> None:
        one = await world.end()
        names = ["a b", "a", "{a}", "日本", "*", "1", "nil", "a:b", "%d"]
        for name in names:
            assert isinstance(await one.claim(new(wanted=WantedRoom(name))), Lease)
        for name in names:
            assert (await one.look(name)).held == Held(ONE.agent_id, WantedRoom(name))

    run(test)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "7", '{"agent_id": 1}', ONE.as_json().replace("10", "0"), ONE.as_json().replace("10", "null")],
)
def test_what_another_version_says_of_itself_is_passed_over(text):
    assert read_record(text) is None
    assert read_record(ONE.as_json()) == ONE


# ── Redis lost and back ──────────────────────────────────────────────────────────────────────────────────────────


def run_on_both_loops(test: Callable[[RedisServer], Awaitable[None]]) -> None:
    for backend in ("asyncio", "trio"):
        with redis_server() as redis:
            anyio.run(test, redis, backend=backend)


async def _up(leases: RedisLeases) -> None:
    with anyio.fail_after(10):
        await leases.wait_up()


async def answered(ask: Callable[[], Awaitable[object]]) -> object:
    """The first answer that there is."""
    with anyio.fail_after(10):
        while True:
            try:
                return await ask()
            except AwayError:
                await anyio.sleep(0.05)


def test_while_redis_is_away_nobody_can_be_asked_and_when_it_is_back_empty_who_has_a_room_keeps_it():
    async def test(redis: RedisServer) -> None:
        async with anyio.create_task_group() as tasks:
            one, other = (RedisLeases(redis.url, lease_s=LEASE_S) for _ in range(2))
            with pytest.raises(AwayError):
                await one.agents()
            for each in (one, other):
                tasks.start_soon(each.run)
                await _up(each)
            mine = await one.claim(new())
            redis.stop()
            with anyio.fail_after(10):
                for _ in range(3):
                    with pytest.raises(AwayError):
                        await one.renew([mine])
            await one.withdraw("one-1")  # raises nothing
            redis.start()
            assert await answered(lambda: one.renew([mine])) == {"a room": Kept.HELD}
            assert await answered(lambda: other.claim(new(OTHER))) == Held(ONE.agent_id, WANTED)
            tasks.cancel_scope.cancel()

    run_on_both_loops(test)


def test_of_two_that_went_in_while_redis_was_away_one_leaves():
    async def test(redis: RedisServer) -> None:
        async with anyio.create_task_group() as tasks:
            one, other = (RedisLeases(redis.url, lease_s=LEASE_S) for _ in range(2))
            mine, theirs = new(), new(OTHER)  # which nobody knows
            for each in (one, other):
                tasks.start_soon(each.run)
                await _up(each)
            kept = [await one.renew([mine]), await other.renew([theirs]), await one.renew([mine])]
            assert [each["a room"] for each in kept] == [Kept.HELD, Kept.TAKEN, Kept.HELD]
            tasks.cancel_scope.cancel()

    run_on_both_loops(test)


def test_a_redis_that_answers_nothing_or_refuses_is_away():
    async def test(redis: RedisServer) -> None:
        async with anyio.create_task_group() as tasks:
            leases = RedisLeases(redis.url, lease_s=LEASE_S)
            tasks.start_soon(leases.run)
            await _up(leases)
            redis.freeze()
            with anyio.fail_after(5), pytest.raises(AwayError):
                await leases.agents()
            redis.thaw()
            await _up(leases)
            redis.command("SCRIPT", "FLUSH")
            with pytest.raises(AwayError):
                await leases.agents()
            await _up(leases)
            assert await leases.agents() == []
            redis.command("SET", redis_scripts.ROOM_KEYS[0], "somebody else's")
            with pytest.raises(AwayError):
                await leases.claim(new())
            tasks.cancel_scope.cancel()

    run_on_both_loops(test)
