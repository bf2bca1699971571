"""What waits for the bus, and how it gets there."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.sessions.calls import Client, Instance, caption, say, translated
from trio_stt.dialects.events import Translation
from trio_stt.sessions.bus import Call, Outcome, Published, StoredFinal
from trio_stt.sessions.journal import Journal
from trio_stt.sessions.memory_bus import Memory, MemoryBus

CALL = Call("", "call")


class WatchedBus(MemoryBus):
    """Notes what is asked of it, in order."""

    def __init__(self, memory):
        super().__init__(memory)
        self.asked = []

    async def claim_epoch(self, call, stream_id, epoch):
        self.asked.append(("claim", stream_id, epoch))
        return await super().claim_epoch(call, stream_id, epoch)

    async def publish_final(self, call, final, *, epoch, follows):
        self.asked.append(("final", final.stream_id, final.text))
        return await super().publish_final(call, final, epoch=epoch, follows=follows)


class Desk:
    """A journal on a watched bus, with two speakers."""

    def __init__(self, **options):
        self.memory = Memory(ttl_s=600)
        self.bus = WatchedBus(self.memory)
        self.journal = Journal(self.bus, **options)
        self.fenced = []
        self.speakers = [Client("ann"), Client("bob")]
        for speaker in self.speakers:
            speaker.spoken = 0
            stream_id = caption(speaker, "").stream_id
            speaker.spoken = 0
            speaker.journal = self.journal.open(
                CALL, stream_id, fenced=lambda stream_id=stream_id: self.fenced.append(stream_id)
            )

    async def stored(self) -> list:
        entries = await self.bus.read(CALL, None)
        return [
            entry.kept.final.text if isinstance(entry.kept, StoredFinal) else entry.kept.translation
            for entry in entries
        ]


@pytest.fixture
async def desk(nursery):
    desk = Desk()
    nursery.start_soon(desk.journal.run)
    await wait_all_tasks_blocked()
    return desk


async def test_finals_are_stored_with_where_the_one_before_ended(desk):
    ann, _ = desk.speakers
    for text in ("one", "two"):
        assert await ann.journal.store(caption(ann, text)) == Published(Outcome.STORED)
    finals = await desk.bus.stream_finals(CALL, ann.journal.stream_id)
    assert [(one.final.text, one.epoch, one.follows) for one in finals] == [("one", 1, 0), ("two", 1, 100)]
    assert ann.journal.confirmed


async def test_what_the_bus_missed_is_written_when_it_returns_epochs_first_then_in_order(desk, autojump_clock):
    ann, bob = desk.speakers
    await ann.journal.store(caption(ann, "before"))
    desk.memory.stop(forget=True)
    for text in ("one", "two"):
        assert (await ann.journal.store(caption(ann, text))).outcome is Outcome.DOWN
    bob.journal.keep(caption(bob, "other"))
    assert not ann.journal.confirmed
    assert desk.journal.unconfirmed == 3
    assert not await ann.journal.wait_confirmed(2)
    desk.bus.asked.clear()
    desk.memory.start()
    assert await ann.journal.wait_confirmed(2)
    assert await desk.journal.wait_empty(2)
    assert [kind for kind, *_ in desk.bus.asked] == ["claim", "claim", "final", "final", "final"]
    assert [text for kind, stream, text in desk.bus.asked if stream == ann.journal.stream_id][1:] == ["one", "two"]
    assert desk.journal.unconfirmed == 0
    assert await desk.stored() == ["one", "two", "other"]


async def test_a_final_never_overtakes_an_unconfirmed_one(desk):
    ann, _ = desk.speakers
    desk.memory.stop()
    for number in range(30):
        ann.journal.keep(caption(ann, str(number)))
    desk.memory.start()
    outcome = await ann.journal.store(caption(ann, "30"))
    assert outcome.outcome is Outcome.DOWN  # it does not wait for thirty others
    assert await ann.journal.wait_confirmed(2)
    assert await desk.stored() == [str(number) for number in range(31)]


async def test_what_ended_streams_left_is_written_too(desk):
    ann, _ = desk.speakers
    desk.memory.stop()
    ann.journal.keep(caption(ann, "last words"))
    ann.journal.close()
    desk.bus.asked.clear()
    desk.memory.start()
    assert await desk.journal.wait_empty(2)
    assert await desk.stored() == ["last words"]
    assert ("claim", ann.journal.stream_id, 1) not in desk.bus.asked


async def test_a_fenced_stream_is_told_and_stores_nothing_more(desk):
    ann, _ = desk.speakers
    await desk.bus.take_epoch(CALL, ann.journal.stream_id, 1)
    assert (await ann.journal.store(caption(ann, "mine"))).outcome is Outcome.FENCED
    assert desk.fenced == [ann.journal.stream_id]
    assert ann.journal.confirmed
    assert await desk.stored() == []


async def test_a_stream_that_was_taken_over_during_an_outage_is_told_when_the_bus_returns(desk):
    ann, _ = desk.speakers
    await desk.bus.take_epoch(CALL, ann.journal.stream_id, 1)
    desk.memory.stop()
    ann.journal.keep(caption(ann, "lost cause"))
    desk.memory.start()
    assert await desk.journal.wait_empty(2)
    assert set(desk.fenced) == {ann.journal.stream_id}
    assert await desk.stored() == []


async def test_translations_come_after_their_finals(desk):
    ann, _ = desk.speakers
    desk.memory.stop()
    final = caption(ann, "one")
    ann.journal.keep(final)
    assert (await ann.journal.store(translated(final, "um"))).outcome is Outcome.DOWN
    desk.memory.start()
    assert await ann.journal.wait_confirmed(2)
    assert await desk.stored() == ["one", "um"]
    assert (await ann.journal.store(translated(final, "uma"))).outcome is Outcome.ALREADY_STORED


async def test_a_final_waits_for_a_translation_that_is_being_written_and_is_stored_before_it_counts(desk):
    ann, _ = desk.speakers
    final = caption(ann, "one")
    await ann.journal.store(final)
    outcomes = []

    async def store(kept):
        outcomes.append((type(kept) is Translation, (await ann.journal.store(kept)).outcome))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store, translated(final, "um"))
        nursery.start_soon(store, caption(ann, "two"))
    assert sorted(outcomes) == [(False, Outcome.STORED), (True, Outcome.STORED)]
    assert sorted(await desk.stored()) == ["one", "two", "um"]


async def test_when_too_much_waits_the_oldest_is_given_up_and_counted(autojump_clock, nursery, quiet_logs):
    desk = Desk(max_unconfirmed=5)
    nursery.start_soon(desk.journal.run)
    ann, bob = desk.speakers
    desk.memory.stop()
    for number in range(4):
        ann.journal.keep(caption(ann, f"ann {number}"))
        bob.journal.keep(caption(bob, f"bob {number}"))
    assert desk.journal.unconfirmed == 5
    assert desk.journal.given_up == 3
    desk.memory.start()
    assert await desk.journal.wait_empty(2)
    assert await desk.stored() == ["ann 3", "bob 0", "bob 1", "bob 2", "bob 3"]
    finals = await desk.bus.stream_finals(CALL, ann.journal.stream_id)
    assert [one.follows for one in finals] == [300]  # so that a reader sees what is missing


async def test_a_cancelled_store_is_made_up_for(desk):
    ann, _ = desk.speakers
    with trio.CancelScope() as scope:
        scope.cancel()
        await ann.journal.store(caption(ann, "one"))
    assert await ann.journal.wait_confirmed(2)
    assert await desk.stored() == ["one"]


async def test_members_here_hear_at_once_while_the_bus_is_away(autojump_clock, nursery):
    memory = Memory(ttl_s=600)
    here, there = Instance(memory), Instance(memory)
    for instance in (here, there):
        nursery.start_soon(instance.run)
    ann, bob, eve = await here.join(Client("ann")), await here.join(Client("bob")), await there.join(Client("eve"))
    await say(ann, "one")
    memory.stop(forget=True)
    await say(ann, "two")
    assert bob.texts == ["one", "two"]
    assert eve.texts == ["one"]
    assert not ann.publisher.confirmed
    memory.start()
    await say(ann, "three")
    assert await ann.publisher.wait_confirmed()
    assert bob.texts == eve.texts == ["one", "two", "three"]


@pytest.mark.parametrize("forget", [False, True])
async def test_a_final_whose_answer_was_lost_is_heard_once(nursery, forget):
    memory = Memory(ttl_s=600)
    here, there = Instance(memory), Instance(memory)
    for instance in (here, there):
        nursery.start_soon(instance.run)
    await wait_all_tasks_blocked()
    ann, bob, eve = await here.join(Client("ann")), await here.join(Client("bob")), await there.join(Client("eve"))
    here.bus.lose_next_answer, here.bus.forget = True, forget
    await say(ann, "one")
    assert memory.down
    memory.start()
    await wait_all_tasks_blocked()
    await say(ann, "two")
    assert ann.publisher.confirmed
    assert bob.texts == eve.texts == ["one", "two"]
    assert len(await here.bus.read(CALL, None)) == 2
