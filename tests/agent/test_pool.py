"""The rooms of an agent: exactly one agent in each, started again, given up, taken over, handed on."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from structlog.testing import capture_logs

from agent import pool as pool_module
from agent.pool import Opened, Pool
from tests.agent.played_rooms import PlayedRoom, PlayedRooms, until
from trio_stt.rooms.leases import AwayError, LeaseMemory, MemoryLeases
from trio_stt.rooms.wanted import WantedRoom

RENEW_S = 0.02
A, B = WantedRoom("a"), WantedRoom("b", ("de",), True)


class Agent:
    """An agent that is played in a pool of its own."""

    def __init__(
        self, name: str, leases: MemoryLeases, *, most_rooms: int = 10, most_tracks: int = 10, slow_s: float = 0
    ):
        self.rooms = PlayedRooms(slow_s=slow_s)
        self.leases = leases
        self.pool = Pool(
            name,
            f"http://{name}",
            leases,
            self.rooms.make,
            most_rooms=most_rooms,
            most_tracks=most_tracks,
            renew_every_s=RENEW_S,
            first_pause_s=0.01,
        )

    @asynccontextmanager
    async def alive(self):
        """It renews and takes over while the block runs; then it is dead, though still in its rooms."""
        life = asyncio.create_task(self.pool.run())
        try:
            yield self
        finally:
            life.cancel()
            await asyncio.wait([life])


class Fickle(MemoryLeases):
    """Leases that can be away."""

    away = False

    def __getattribute__(self, name: str):
        if name in ("claim", "renew", "release", "orphans", "announce", "look", "agents") and self.away:
            return self._refuse
        return super().__getattribute__(name)

    async def _refuse(self, *args: object, **more: object):
        raise AwayError("it is played to be away")


def memory() -> LeaseMemory:
    return LeaseMemory(lease_s=0.2)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


@pytest.fixture(scope="module", autouse=True)
def short_collections():
    """A pool calls the collector, to which all other tests of the process are nothing to look at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quick(monkeypatch, quiet_logs):
    """Agents do not wait for each other for long."""
    monkeypatch.setattr(pool_module, "LOADED_DELAY_S", 0.1)
    monkeypatch.setattr(pool_module, "JITTER_S", 0.02)


def test_of_two_agents_that_are_asked_one_goes_in_and_the_other_knows_who():
    async def test() -> None:
        shared = memory()
        one, other = Agent("one", MemoryLeases(shared)), Agent("other", MemoryLeases(shared))
        async with one.alive(), other.alive():
            opened = await asyncio.gather(*(each.pool.open(A) for each in (one, other) * 5))
            assert sorted(each.result for each in opened) == ["created"] + ["exists"] * 9
            assert len({each.agent_id for each in opened}) == 1
            assert await one.pool.open(WantedRoom("a", ("de",))) == Opened("other_settings", opened[0].agent_id)
            await until(lambda: one.rooms.inside + other.rooms.inside == ["a"])
            await asyncio.sleep(0.5)  # more than a lease
            assert one.rooms.inside + other.rooms.inside == ["a"]

    run(test)


def test_a_room_that_is_cancelled_is_left_before_that_is_answered():
    async def test() -> None:
        agent = Agent("one", MemoryLeases(), slow_s=0.05)
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: agent.rooms.inside == ["a"])
            assert await agent.pool.close("a")
            assert agent.rooms.inside == []
            assert not await agent.pool.close("a")
            assert await agent.leases.orphans(10) == []
            assert (await agent.pool.open(A)).result == "created"

    run(test)


def test_a_room_that_emptied_is_wanted_no_more():
    async def test() -> None:
        agent = Agent("one", MemoryLeases())
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: agent.rooms.inside == ["a"])
            agent.rooms.lives[0].leave("empty")
            await until(lambda: list(agent.pool) == [])
            await asyncio.sleep(5 * RENEW_S)
            assert len(agent.rooms.lives) == 1
            assert not await agent.leases.cancel("a")

    run(test)


@pytest.mark.parametrize("fails", [False, True], ids=["emptied", "failed"])
def test_a_life_that_is_over_is_free_though_it_refers_to_itself(fails):
    async def test() -> None:
        agent = Agent("one", MemoryLeases())
        made = []

        def make(wanted: WantedRoom) -> PlayedRoom:
            life = PlayedRoom(wanted)
            life.figures["itself"] = life
            made.append(weakref.ref(life))
            return life

        agent.pool._make = make
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: made and made[0]().entered)
            gc.disable()
            if fails:
                made[0]().fail(RuntimeError("played"))
            else:
                made[0]().leave()
            await until(lambda: len(made) == 2 if fails else list(agent.pool) == [])
            gc.enable()
            assert made[0]() is None

    run(test)


def test_a_room_that_fails_is_entered_again_until_it_is_cancelled_and_the_error_is_not_shown():
    async def test() -> None:
        agent = Agent("one", MemoryLeases())
        async with agent.alive():
            await agent.pool.open(B)
            for number in range(3):
                await until(lambda number=number: len(agent.rooms.lives) == number + 1)
                await until(lambda: agent.rooms.inside == ["b"])
                agent.rooms.lives[-1].fail(OSError("token eyJ… refused"))
            await until(lambda: len(agent.rooms.lives) == 4)
            assert agent.pool.failures == 3
            assert {life.wanted for life in agent.rooms.lives} == {B}
            await agent.pool.close("b")
            lives = len(agent.rooms.lives)
            await asyncio.sleep(0.2)
            assert len(agent.rooms.lives) == lives

    structlog.reset_defaults()
    with capture_logs() as logs:
        run(test)
    assert [line["error"].split()[0] for line in logs if line["event"] == "room_failed"] == ["OSError"] * 3
    assert "eyJ" not in str(logs)


def test_a_room_that_cannot_be_entered_for_long_is_given_up(monkeypatch):
    monkeypatch.setattr(pool_module, "GIVE_UP_S", 0.5)

    async def test() -> None:
        agent = Agent("one", MemoryLeases())

        def refuse(wanted: WantedRoom):
            life = agent.rooms.make(wanted)
            life.fail(OSError("refused"))
            return life

        agent.pool._make = refuse
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: list(agent.pool) == [])
            assert not await agent.leases.cancel("a")
            assert len(agent.rooms.lives) > 1

    run(test)


def test_a_full_agent_refuses_by_rooms_and_by_tracks():
    async def test() -> None:
        agent = Agent("one", MemoryLeases(), most_rooms=2, most_tracks=5)
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: agent.rooms.inside == ["a"])
            agent.rooms.lives[0].figures["tracks"] = 5
            assert (await agent.pool.open(B)).result == "full"
            agent.rooms.lives[0].figures["tracks"] = 4
            assert (await agent.pool.open(B)).result == "created"
            assert (await agent.pool.open(WantedRoom("c"))).result == "full"
            assert (await agent.pool.open(A)).result == "exists"

    run(test)


def test_the_rooms_of_a_dead_agent_are_taken_over_by_the_others_as_they_were_wanted():
    async def test() -> None:
        shared = memory()
        dead, one, other = (Agent(name, MemoryLeases(shared)) for name in ("dead", "one", "other"))
        async with one.alive(), other.alive():
            async with dead.alive():
                for wanted in (A, B):
                    await dead.pool.open(wanted)
                await until(lambda: dead.rooms.inside == ["a", "b"])
                await asyncio.sleep(0.5)
                assert one.rooms.inside + other.rooms.inside == []
            await until(lambda: sorted(one.rooms.inside + other.rooms.inside) == ["a", "b"])
            assert {life.wanted for each in (one, other) for life in each.rooms.lives} == {A, B}

            # It was not dead, only away: it finds its leases taken, and leaves.
            async with dead.alive():
                await until(lambda: dead.rooms.inside == [])
                await asyncio.sleep(0.3)
                assert sorted(one.rooms.inside + other.rooms.inside) == ["a", "b"]

    run(test)


def test_who_has_less_to_do_takes_more_over_and_who_is_full_nothing():
    async def test() -> None:
        shared = memory()
        idle, busy, full = (Agent(name, MemoryLeases(shared)) for name in ("idle", "busy", "full"))
        full.pool._most_rooms = 1
        async with idle.alive(), busy.alive(), full.alive():
            for number in range(9):
                await busy.pool.open(WantedRoom(f"busy-{number}"))
            await full.pool.open(WantedRoom("full"))
            dead = MemoryLeases(shared)
            async with Agent("dead", dead).alive() as dying:
                await dying.pool.open(A)
            await until(lambda: "a" in idle.rooms.inside + busy.rooms.inside + full.rooms.inside)
            assert idle.rooms.inside == ["a"]

    run(test)


def test_an_agent_that_ends_hands_its_rooms_on_at_once_and_takes_no_more():
    async def test() -> None:
        shared = LeaseMemory(lease_s=60)
        one, other = Agent("one", MemoryLeases(shared), slow_s=0.1), Agent("other", MemoryLeases(shared))
        async with one.alive(), other.alive():
            for wanted in (A, B):
                await one.pool.open(wanted)
            await until(lambda: one.rooms.inside == ["a", "b"])
            draining = asyncio.create_task(one.pool.drain(5))
            await until(lambda: sorted(other.rooms.inside) == ["a", "b"])
            await draining
            assert one.rooms.inside == []
            assert (await one.pool.open(WantedRoom("c"))).result == "draining"
            assert [each.agent_id for each in await other.leases.agents()] == ["other"]
            assert list(one.pool) == []

    run(test)


def test_a_drain_does_not_wait_for_a_room_that_cannot_be_left():
    async def test() -> None:
        agent = Agent("one", MemoryLeases(), slow_s=20)
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: agent.rooms.inside == ["a"])
            async with asyncio.timeout(5):
                await agent.pool.drain(0.1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    run(test)


def test_while_nobody_can_be_asked_rooms_are_kept_and_new_ones_entered():
    async def test() -> None:
        shared = memory()
        one, other = Agent("one", Fickle(shared)), Agent("other", MemoryLeases(shared))
        async with one.alive():
            await one.pool.open(A)
            await until(lambda: one.pool.connected_to_others)
            one.leases.away = True
            await until(lambda: not one.pool.connected_to_others)
            assert (await one.pool.open(B)).result == "created"
            await asyncio.sleep(0.5)  # its lease expires
            assert one.rooms.inside == ["a", "b"]
            one.leases.away = False
            await until(lambda: one.pool.connected_to_others)
            assert one.rooms.inside == ["a", "b"]
            async with other.alive():
                assert (await other.pool.open(A)).agent_id == "one"
                one.leases.away = True
                await until(lambda: other.rooms.inside == ["a", "b"])  # there are two, as long as it lasts
                assert one.rooms.inside == ["a", "b"]
                one.leases.away = False
                await until(lambda: one.rooms.inside == [])
                assert other.rooms.inside == ["a", "b"]

    run(test)


def test_a_room_that_somebody_else_cancelled_is_left_when_its_lease_is_renewed():
    async def test() -> None:
        agent = Agent("one", MemoryLeases())
        async with agent.alive():
            await agent.pool.open(A)
            await until(lambda: agent.rooms.inside == ["a"])
            await agent.leases.cancel("a")
            await until(lambda: agent.rooms.inside == [])

    run(test)


def test_figures_are_those_of_all_lives_and_tracks_those_that_are_heard_now():
    async def test() -> None:
        agent = Agent("one", MemoryLeases())
        async with agent.alive():
            for wanted in (A, B):
                await agent.pool.open(wanted)
            await until(lambda: agent.rooms.inside == ["a", "b"])
            for life in agent.rooms.lives:
                life.figures.update(tracks=2, captions=5, drops=1.5, name="not a figure")
            agent.rooms.lives[0].leave()
            await until(lambda: agent.rooms.inside == ["b"])
            assert (agent.pool.now("tracks"), agent.pool.total("captions"), agent.pool.total("drops")) == (2, 10, 3)
            (record,) = await agent.leases.agents()
            await until(lambda: agent.pool.record.rooms == 1)
            assert record.url == "http://one"

    run(test)
