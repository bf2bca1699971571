"""What each instance knows of all: the sums, and what it says when the bus does not answer."""

import re

import attrs
import pytest
import trio

from trio_stt.operations.health import Status
from trio_stt.sessions.bus import InstanceRecord
from trio_stt.sessions.instances import NEWS_S, TELL_EVERY_S, Instances
from trio_stt.sessions.memory_bus import Memory, MemoryBus


class One:
    """An instance whose record a test changes."""

    def __init__(self, memory, name, **values):
        self.record = InstanceRecord(name, "1.0", "ready", True, **{"streams": 2, "limit": 10, **values})
        self.known = Instances(MemoryBus(memory), lambda: self.record, alone=False)

    def change(self, **values):
        self.record = attrs.evolve(self.record, **values)

    @property
    def names(self):
        return [one["instance"] for one in self.known.figures()["instances"]]


@pytest.fixture
def memory():
    return Memory(ttl_s=60)


async def test_each_tells_the_sums_over_all(memory, nursery, autojump_clock):
    ann, bob = One(memory, "ann", parked=1, behind=2), One(memory, "bob", streams=5, limit=5)
    for one in (ann, bob):
        nursery.start_soon(one.known.run)
    await trio.sleep(2.5 * TELL_EVERY_S)
    bob.change(readiness="draining", ready=False)
    ann.change(streams=3)
    await trio.sleep(2.5 * TELL_EVERY_S)
    for one in (ann, bob):
        figures = one.known.figures()
        sums = {name: figures[name] for name in ("count", "ready", "streams", "parked", "behind", "limit")}
        assert sums == {"count": 2, "ready": 1, "streams": 8, "parked": 1, "behind": 2, "limit": 15}
        assert one.names == ["ann", "bob"]
        assert one.known.health().status is Status.HEALTHY
    ages = [one["age_seconds"] for one in ann.known.figures()["instances"]]
    assert ages[0] == 0
    assert 0 <= ages[1] <= 2.5 * TELL_EVERY_S


async def test_one_that_ends_is_known_no_more(memory, nursery, autojump_clock):
    ann, bob = One(memory, "ann"), One(memory, "bob")
    nursery.start_soon(ann.known.run)
    with trio.move_on_after(3):
        await bob.known.run()
    assert ann.names == ["ann", "bob"]
    await trio.sleep(10)
    assert ann.names == ["ann"]


async def test_who_is_behind_elsewhere_is_known_for_a_while(memory, nursery, autojump_clock):
    ann, bob = One(memory, "ann", behind=1), One(memory, "bob", behind=4)
    for one in (ann, bob):
        nursery.start_soon(one.known.run)
    await trio.sleep(2.5 * TELL_EVERY_S)
    assert (ann.known.behind_elsewhere, bob.known.behind_elsewhere) == (4, 1)
    bob.change(behind=0)
    await trio.sleep(2.5 * TELL_EVERY_S)
    assert ann.known.behind_elsewhere == 0
    memory.stop()
    assert bob.known.behind_elsewhere == 1
    await trio.sleep(NEWS_S + TELL_EVERY_S)
    assert bob.known.behind_elsewhere == 0


async def test_while_the_bus_is_away_it_tells_what_it_knew_and_of_itself_what_is(memory, nursery, autojump_clock):
    ann, bob = One(memory, "ann"), One(memory, "bob")
    for one in (ann, bob):
        nursery.start_soon(one.known.run)
    await trio.sleep(2.5 * TELL_EVERY_S)
    known_at = ann.known.figures()["known_at"]
    memory.stop(forget=True)
    await trio.sleep(60)
    ann.change(streams=7)
    health = ann.known.health()
    assert health.status is Status.DEGRADED
    assert "the bus is away" in health.message
    assert re.search(r"6[01] s ago", health.message)
    assert (health.figures["streams"], health.figures["count"]) == (9, 2)
    assert health.figures["known_at"] - known_at <= 2.5 * TELL_EVERY_S
    assert health.figures["instances"][1]["age_seconds"] >= 60
    memory.start()
    await trio.sleep(2.5 * TELL_EVERY_S)
    assert ann.known.health().status is Status.HEALTHY
    assert ann.names == ["ann", "bob"]


async def test_who_never_found_the_bus_knows_itself(memory, nursery, autojump_clock):
    memory.stop()
    ann = One(memory, "ann")
    nursery.start_soon(ann.known.run)
    await trio.sleep(5)
    health = ann.known.health()
    assert (health.status, health.figures["count"], health.figures["known_at"]) == (Status.DEGRADED, 1, None)


async def test_who_is_alone_is_healthy(memory):
    alone = Instances(MemoryBus(memory), lambda: InstanceRecord("ann", ready=True), alone=True)
    health = alone.health()
    assert (health.status, health.figures["count"], health.figures["ready"]) == (Status.HEALTHY, 1, 1)
