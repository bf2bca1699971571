"""From where a stream is heard again, and what becomes of a final that another connection has overtaken."""

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.sessions.calls import Client, Instance, caption, say
from trio_stt.dialects.events import Transcript, Word
from trio_stt.sessions.bus import Call, Outcome, StoredFinal
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.publisher import divided_at
from trio_stt.sessions.resume import Asked, TakenUp, counted_finals, take_up

CALL = Call("", "call")


def final(start: int, end: int, **changes) -> Transcript:
    made = Transcript("call", "ann", "s", f"s-{start}", "word", True, "en", start, end, 16000, 0.0)
    return attrs.evolve(made, **changes)


def stored(*spans: tuple[int, int], follows: int = 0) -> list[StoredFinal]:
    finals = []
    for start, end in spans:
        finals.append(StoredFinal(final(start, end), 1, follows))
        follows = end
    return finals


class Kept:
    """What an instance keeps for the bus."""

    def __init__(self, *spans: tuple[int, int], follows: int = 0) -> None:
        self.unconfirmed_finals = stored(*spans, follows=follows)

    async def wait_answered(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("finals", "asked", "counted", "position"),
    [
        ([], Asked(500, 0), [], 500),
        (stored((0, 100), (150, 300)), Asked(0, 0), [0, 1], 300),
        (stored((0, 100), (150, 300)), Asked(100, 100), [1], 300),  # the first was acknowledged
        (stored((0, 100), (150, 300)), Asked(400, 300), [], 400),
        (stored((0, 100), (150, 300)), Asked(0, 200), [0], 100),  # the second crosses what the client has taken
        (stored((150, 300), follows=100), Asked(0, 0), [], 0),  # the one before it is gone
        (stored((150, 300), follows=100), Asked(0, 100), [0], 300),  # and the client has it
        (stored((150, 300), follows=100), Asked(120, 0), [0], 300),
        # the third waited here for the bus, on which another instance was faster
        (stored((0, 100), (100, 150)) + stored((100, 200), follows=100), Asked(0, 100), [0, 1], 150),
    ],
)
def test_the_stored_finals_that_count_and_where_the_audio_begins(finals, asked, counted, position):
    assert counted_finals(finals, asked) == (tuple(finals[number] for number in counted), position)


async def test_a_stream_is_taken_from_whoever_has_it():
    memory = Memory(ttl_s=600)
    here, there = MemoryBus(memory), MemoryBus(memory)
    await here.publish_final(CALL, final(0, 100), epoch=1, follows=0)
    taken = await take_up(there, CALL, "s", 1, Asked(0, 0), Kept())
    assert taken == TakenUp(2, 100, tuple(stored((0, 100))), acked=100)
    late = await here.publish_final(CALL, final(150, 300), epoch=1, follows=100)
    assert late.outcome is Outcome.FENCED
    assert (await take_up(here, CALL, "s", 1, Asked(0, 0), Kept())).epoch == 3


async def test_without_the_bus_what_this_instance_keeps_for_it_counts():
    memory = Memory(ttl_s=600)
    bus = MemoryBus(memory)
    memory.stop()
    taken = await take_up(bus, CALL, "s", 4, Asked(0, 0), Kept((0, 100)))
    assert taken == TakenUp(5, 100, tuple(stored((0, 100))), acked=0)


async def test_what_only_this_instance_has_is_not_acknowledged():
    bus = MemoryBus(Memory(ttl_s=600))
    await bus.publish_final(CALL, final(0, 100), epoch=1, follows=0)
    taken = await take_up(bus, CALL, "s", 1, Asked(0, 0), Kept((100, 200), follows=100))
    assert (taken.from_sample, taken.acked) == (200, 100)


async def test_a_bus_that_does_not_answer_is_given_up_soon(autojump_clock):
    class Silent(MemoryBus):
        async def take_epoch(self, call, stream_id, known):
            await trio.sleep_forever()

    began = trio.current_time()
    assert await take_up(Silent(Memory(ttl_s=600)), CALL, "s", 1, Asked(700, 0), Kept()) == TakenUp(2, 700, (), 700)
    assert trio.current_time() - began < 0.5


async def test_what_follows_a_final_that_overlaps_follows_the_stored_one(nursery):
    memory = Memory(ttl_s=600)
    there = MemoryBus(memory)
    here = Instance(memory)
    nursery.start_soon(here.run)
    ann = await here.join(Client("ann"))
    await wait_all_tasks_blocked()
    mine = attrs.evolve(caption(ann, "one two"), end_sample=300)
    await there.publish_final(CALL, attrs.evolve(mine, segment_id="another's", end_sample=200), epoch=1, follows=0)
    await ann.publisher.publish(mine)
    finals = await there.stream_finals(CALL, mine.stream_id)
    assert [(one.final.start_sample, one.final.end_sample, one.follows) for one in finals] == [
        (0, 200, 0),
        (200, 300, 200),
    ]


def words(*starts: float) -> tuple[Word, ...]:
    return tuple(Word(f"at{start:g}", start, start + 0.3, 1.0) for start in starts)


def test_a_final_is_divided_where_its_words_begin():
    whole = final(0, 32000, text="at0 at0.9 at1.5", words=words(0, 0.9, 1.5))
    before, behind = divided_at(whole, 16000)
    assert (before.text, before.end_sample, before.segment_id) == ("at0 at0.9", 16000, whole.segment_id)
    assert (behind.text, behind.start_sample, behind.end_sample) == ("at1.5", 16000, 32000)
    assert behind.segment_id != whole.segment_id
    assert divided_at(whole, 32000) == (whole, None)


async def test_of_a_final_that_begins_within_a_stored_one_the_others_hear_the_rest(nursery):
    memory = Memory(ttl_s=600)
    here, there = Instance(memory), Instance(memory)
    for instance in (here, there):
        nursery.start_soon(instance.run)
    await wait_all_tasks_blocked()
    ann, bob = await here.join(Client("ann")), await there.join(Client("bob"))
    await say(ann, "first")
    end = 100
    late = attrs.evolve(
        caption(ann, "mine rest"),
        start_sample=50,
        end_sample=300,
        words=(Word("mine", 0.003, 0.005, 1), Word("rest", 0.01, 0.015, 1)),
    )
    await ann.publisher.publish(late)
    await wait_all_tasks_blocked()
    assert bob.texts == ["first", "rest"]
    assert ann.texts == ["first", "mine", "rest"]
    spans = [(event.start_sample, event.end_sample) for event in bob.received if isinstance(event, Transcript)]
    assert spans == [(0, end), (end, 300)]
