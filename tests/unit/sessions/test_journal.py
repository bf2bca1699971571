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
    assert not ann.journal.confirmed  # nothing that it says will ever be there
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


class SlowBus(WatchedBus):
    """A final is on its way to the bus until it `may_arrive`."""

    def __init__(self, memory):
        super().__init__(memory)
        self.may_arrive = trio.Event()

    async def publish_final(self, call, final, *, epoch, follows):
        await self.may_arrive.wait()
        return await super().publish_final(call, final, epoch=epoch, follows=follows)


@pytest.fixture
async def overtaken(nursery):
    """A journal, the older connection of a stream that is storing a final, and the one that takes over."""
    journal = Journal(SlowBus(Memory(ttl_s=600)))
    nursery.start_soon(journal.run)
    await wait_all_tasks_blocked()
    ann = Client("ann")
    ann.spoken = 0
    final = caption(ann, "one")
    older = journal.open(CALL, final.stream_id, fenced=lambda: None)
    answers = []

    async def store() -> None:
        answers.append(await older.store(final))

    nursery.start_soon(store)
    await wait_all_tasks_blocked()
    newer = journal.take_over(CALL, final.stream_id, fenced=lambda: None, epoch=1)
    assert older.writing
    assert (await older.store(caption(ann, "two"))).outcome is Outcome.FENCED
    assert not older.confirmed
    return journal, final, newer, answers


async def test_a_resume_waits_for_the_answer_to_a_final_that_is_on_its_way_to_the_bus(overtaken, autojump_clock):
    journal, final, newer, answers = overtaken
    with trio.move_on_after(1) as waiting:
        await newer.wait_answered()
    assert waiting.cancelled_caught
    journal.bus.may_arrive.set()
    await newer.wait_answered()
    assert (newer.unconfirmed_finals, journal.unconfirmed) == ([], 0)
    await wait_all_tasks_blocked()
    assert answers == [Published(Outcome.STORED)]
    newer.begin(2, final.end_sample)
    assert newer.confirmed


async def test_of_two_resumes_at_once_the_later_has_what_is_on_its_way_to_the_bus(overtaken):
    journal, final, newer, answers = overtaken
    newest = journal.take_over(CALL, final.stream_id, fenced=lambda: None, epoch=1)
    assert ([one.final for one in newest.unconfirmed_finals], newer.unconfirmed_finals) == ([final], [])
    newer.close()
    journal.bus.may_arrive.set()
    await newest.wait_answered()
    await wait_all_tasks_blocked()
    newest.begin(2, final.end_sample)
    assert newest.confirmed
    assert (newest.unconfirmed, journal.unconfirmed, answers) == (0, 0, [Published(Outcome.STORED)])


async def test_a_final_that_a_resume_overtakes_on_its_way_to_the_bus_is_stored_by_the_newer_connection(overtaken):
    journal, final, newer, answers = overtaken
    assert [one.final for one in newer.unconfirmed_finals] == [final]
    assert await journal.bus.take_epoch(CALL, final.stream_id, 1) == 2  # it waited long enough
    newer.begin(2, final.end_sample)
    assert not newer.confirmed
    journal.bus.may_arrive.set()
    await wait_all_tasks_blocked()
    assert newer.confirmed
    finals = await journal.bus.stream_finals(CALL, final.stream_id)
    assert [(one.final.text, one.epoch) for one in finals] == [("one", 2)]
    assert answers == [Published(Outcome.STORED)]
    assert journal.unconfirmed == 0


async def test_what_an_outage_left_is_stored_in_the_epoch_of_a_resume_that_comes_as_the_bus_returns(desk):
    ann, _ = desk.speakers
    desk.memory.stop()
    for text in ("one", "two"):
        await ann.journal.store(caption(ann, text))
    newer = desk.journal.take_over(CALL, ann.journal.stream_id, fenced=lambda: None, epoch=1)
    desk.memory.start()
    assert await desk.bus.take_epoch(CALL, ann.journal.stream_id, 1) == 2
    await wait_all_tasks_blocked()
    assert await desk.stored() == []
    newer.begin(2, 200)
    await wait_all_tasks_blocked()
    assert await desk.stored() == ["one", "two"]
    assert newer.confirmed


async def test_a_resume_that_comes_to_nothing_leaves_what_waits_to_be_written(desk):
    ann, _ = desk.speakers
    desk.memory.stop()
    await ann.journal.store(caption(ann, "one"))
    desk.journal.take_over(CALL, ann.journal.stream_id, fenced=lambda: None, epoch=1).close()
    desk.memory.start()
    await wait_all_tasks_blocked()
    assert await desk.stored() == ["one"]


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


async def test_when_too_much_waits_the_busiest_stream_gives_up_its_oldest(autojump_clock, nursery, quiet_logs):
    desk = Desk(max_unconfirmed=5)
    nursery.start_soon(desk.journal.run)
    ann, bob = desk.speakers
    desk.memory.stop()
    bob.journal.keep(caption(bob, "bob 0"))
    for number in range(6):
        ann.journal.keep(caption(ann, f"ann {number}"))
    bob.journal.keep(caption(bob, "bob 1"))
    assert desk.journal.unconfirmed == 5
    assert desk.journal.given_up == 3
    assert not ann.journal.confirmed
    desk.memory.start()
    assert await desk.journal.wait_empty(2)
    assert sorted(await desk.stored()) == ["ann 3", "ann 4", "ann 5", "bob 0", "bob 1"]
    finals = await desk.bus.stream_finals(CALL, ann.journal.stream_id)
    assert finals[0].follows == 300  # so that a reader sees what is missing


async def test_translations_are_given_up_before_finals(autojump_clock, nursery, quiet_logs):
    desk = Desk(max_unconfirmed=4)
    nursery.start_soon(desk.journal.run)
    ann, _ = desk.speakers
    desk.memory.stop()
    for number in range(3):
        final = caption(ann, f"{number}")
        ann.journal.keep(final)
        ann.journal.keep(translated(final, f"t{number}"))
    desk.memory.start()
    assert await desk.journal.wait_empty(2)
    assert await desk.stored() == ["0", "1", "2", "t2"]


async def test_what_is_given_up_while_it_is_waited_for_is_not_waited_for_any_more(autojump_clock, nursery, quiet_logs):
    desk = Desk(max_unconfirmed=3)
    ann, _ = desk.speakers  # the journal does not run: nothing is in step, nothing is written
    outcomes = []

    async def store(text):
        outcomes.append((await ann.journal.store(caption(ann, text))).outcome)

    for number in range(6):
        nursery.start_soon(store, f"{number}")
    await trio.sleep(1)
    assert outcomes == [Outcome.DOWN] * 6
    assert desk.journal.given_up == 3


async def test_a_caption_that_cannot_be_written_costs_only_itself(desk, quiet_logs):
    ann, bob = desk.speakers
    publish = desk.bus.publish_final

    async def fail(call, final, **where):
        if final.text == "poison":
            raise ValueError(final.text)
        return await publish(call, final, **where)

    desk.bus.publish_final = fail
    for speaker in (ann, bob):
        for text in ("before", "poison", "after"):
            await speaker.journal.store(caption(speaker, text))
    assert await desk.journal.wait_empty(2)
    assert sorted(await desk.stored()) == ["after", "after", "before", "before"]
    assert desk.journal.given_up == 2


async def test_a_final_is_stored_before_it_counts_however_many_translations_follow_it(desk):
    ann, _ = desk.speakers
    first = caption(ann, "one")
    await ann.journal.store(first)
    outcomes = []

    async def store_final():
        outcomes.append((await ann.journal.store(caption(ann, "two"))).outcome)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ann.journal.store, translated(first, "um"))
        nursery.start_soon(store_final)
        await trio.lowlevel.checkpoint()
        for number in range(30):
            nursery.start_soon(ann.journal.store, translated(first, "x", f"l{number}"))
    assert outcomes == [Outcome.STORED]


async def test_who_waits_until_all_is_confirmed_waits_for_what_comes_meanwhile_too(desk):
    ann, _ = desk.speakers
    desk.memory.stop()
    final = caption(ann, "one")
    ann.journal.keep(final)
    seen = []

    async def wait():
        seen.append(await ann.journal.wait_confirmed(5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        ann.journal._confirmed.set()  # as it is at the moment when the last was written
        ann.journal.keep(translated(final, "um"))
        desk.memory.start()
    assert seen == [True]


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
