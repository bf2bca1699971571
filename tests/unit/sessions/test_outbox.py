import attrs
import pytest
import trio

from trio_stt.dialects.events import Ack, Close, Pong, Presence, Transcript, Translation
from trio_stt.sessions.outbox import Outbox

PARTIAL = Transcript("call", "ann", "s1", "s1-1", "hello", False, "en", 0, 1600, 16000, 1.0)
FINAL = attrs.evolve(PARTIAL, text="hello there", is_final=True)


async def everything(outbox: Outbox) -> list:
    outbox.close(Close(1000))
    taken = []
    while not isinstance(event := await outbox.take(), Close):
        taken.append(event)
    return taken


async def test_a_newer_partial_replaces_the_waiting_one_of_its_stream():
    outbox = Outbox()
    other = attrs.evolve(PARTIAL, stream_id="s2", segment_id="s2-1")
    newer = attrs.evolve(PARTIAL, text="hello th")
    for event in (PARTIAL, other, newer):
        outbox.put(event)
    assert await everything(outbox) == [other, newer]
    assert outbox.replaced == 1


async def test_a_final_replaces_its_partial_and_stays_before_the_next_one():
    outbox = Outbox()
    following = attrs.evolve(PARTIAL, segment_id="s1-2", text="how")
    for event in (PARTIAL, FINAL, following, attrs.evolve(following, text="how are")):
        outbox.put(event)
    assert [event.text for event in await everything(outbox)] == ["hello there", "how are"]


async def test_partial_translations_replace_each_other_by_language_and_give_way_to_the_final():
    outbox = Outbox()
    first = Translation("call", "ann", "s1", "s1-1", "olá", False, "en", "pt", 1.0)
    german, newer = attrs.evolve(first, language="de"), attrs.evolve(first, translation="olá a")
    final = attrs.evolve(first, translation="olá a todos", is_final=True)
    for event in (first, german, newer, final, final):
        outbox.put(event)
    assert await everything(outbox) == [german, final, final]


async def test_finals_are_never_replaced():
    outbox = Outbox()
    for _ in range(3):
        outbox.put(FINAL)
    assert await everything(outbox) == [FINAL] * 3


async def test_a_newer_ack_replaces_the_waiting_one_but_comes_after_the_finals_before_it():
    outbox = Outbox()
    for event in (Ack(100), FINAL, Ack(200)):
        outbox.put(event)
    assert await everything(outbox) == [FINAL, Ack(200)]


async def test_answers_to_finalize_and_ping_all_arrive():
    outbox = Outbox()
    answers = [Ack(1, from_finalize=True, id=1), Ack(1, from_finalize=True, id=1), Pong(7), Pong(7)]
    for event in answers:
        outbox.put(event)
    assert await everything(outbox) == answers


async def test_too_many_waiting_messages_overflow_it():
    outbox = Outbox(max_messages=2)
    for number in range(3):
        assert not outbox.overflowing
        outbox.put(Presence("joined", str(number)))
    assert outbox.overflowing


async def test_the_close_comes_last_and_the_first_one_counts():
    outbox = Outbox()
    outbox.put(FINAL)
    outbox.close(Close(1000, "first"))
    outbox.close(Close(1011, "second"))
    outbox.put(FINAL)
    assert await outbox.take() == FINAL
    assert await outbox.take() == Close(1000, "first")
    assert await outbox.take() == Close(1000, "first")


async def test_an_abandoned_box_closes_at_once():
    outbox = Outbox()
    outbox.put(FINAL)
    outbox.abandon(Close(4008))
    assert await outbox.take() == Close(4008)


async def test_taking_waits_and_loses_nothing_when_cancelled(autojump_clock):
    outbox = Outbox()
    with trio.move_on_after(1) as scope:
        await outbox.take()
    assert scope.cancelled_caught
    outbox.put(FINAL)
    with trio.fail_after(1):
        assert await outbox.take() == FINAL


@pytest.mark.parametrize("event", [FINAL, Close(1000)])
async def test_a_waiting_reader_is_woken(event, autojump_clock):
    outbox = Outbox()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with trio.fail_after(5):
                assert await outbox.take() == event

        nursery.start_soon(read)
        await trio.sleep(1)
        if isinstance(event, Close):
            outbox.close(event)
        else:
            outbox.put(event)
