"""Who translates what in a call that several instances share, and who hears it."""

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.sessions.calls import Client, Instance, say
from tests.unit.translation_fakes import InlineTranslator
from trio_stt.dialects.events import Failure, Transcript, Translation
from trio_stt.operations.metrics import Metrics
from trio_stt.sessions.memory_bus import Memory
from trio_stt.sessions.translate import TAKEOVER_SPREAD_S, UNAVAILABLE, TranslationDesk

TAKEOVER_S = 5.0

pytestmark = pytest.mark.usefixtures("quiet_logs")


@pytest.fixture
def memory() -> Memory:
    return Memory(ttl_s=600)


class Translating(Instance):
    """An instance whose translator can be looked at and broken."""

    def __init__(self, memory: Memory) -> None:
        self.translator = InlineTranslator()
        log = structlog.get_logger()
        desk = TranslationDesk(self.translator, Metrics(), log, max_waiting=50, takeover_s=TAKEOVER_S)
        super().__init__(memory, desk)


@pytest.fixture
async def here(memory, nursery) -> Translating:
    return await started(Translating(memory), nursery)


@pytest.fixture
async def there(memory, nursery) -> Translating:
    return await started(Translating(memory), nursery)


async def started(instance, nursery):
    nursery.start_soon(instance.run)
    await wait_all_tasks_blocked()
    return instance


def reader(client_id: str, language: str = "pt", **request) -> Client:
    return Client(client_id, translation=True, read_language=language, **request)


def history_of(client: Client) -> list[tuple[str, bool]]:
    return [
        (event.text if isinstance(event, Transcript) else event.translation, event.history)
        for event in client.received
        if isinstance(event, Transcript | Translation)
    ]


def failures(client: Client) -> list[str]:
    return [event.code for event in client.received if isinstance(event, Failure)]


async def test_a_final_is_translated_where_it_was_spoken_once_for_everybody(autojump_clock, here, there):
    ann, near = await here.join(Client("ann")), await here.join(reader("near"))
    far, other = await there.join(reader("far")), await there.join(reader("other", "de"))
    await say(ann, "one", "two")
    await trio.sleep(2 * TAKEOVER_S)
    assert near.translations == far.translations == ["pt:one", "pt:two"]
    assert other.translations == ["de:one", "de:two"]
    assert sorted(here.translator.calls) == sorted(
        (text, "en", language) for text in ("one", "two") for language in ("pt", "de")
    )
    assert there.translator.calls == []


async def test_engines_are_loaded_for_readers_elsewhere(autojump_clock, here, there):
    await here.join(Client("ann"))
    await there.join(reader("far"))
    await trio.sleep(1)
    assert here.translator.prepared == [["pt"]]


async def test_a_reader_who_changes_language_elsewhere_is_heard_of(autojump_clock, here, there):
    ann, far = await here.join(Client("ann")), await there.join(reader("far"))
    far.member.request = reader("far", "de").member.request
    await trio.sleep(1)
    await say(ann, "one")
    await trio.sleep(5)
    assert far.translations == ["de:one"]


async def test_who_speaks_on_an_instance_that_translates_nothing_is_translated_where_he_is_read(
    autojump_clock, memory, there, nursery
):
    plain = await started(Instance(memory), nursery)
    ann, far = await plain.join(Client("ann")), await there.join(reader("far"))
    near = await plain.join(reader("near"))
    await say(ann, "one", "two")
    await trio.sleep(2 * TAKEOVER_S)
    assert far.translations == near.translations == ["pt:one", "pt:two"]
    assert failures(far) == []


async def test_the_translation_that_comes_late_is_not_told_twice(autojump_clock, here, there):
    here.translator.seconds = TAKEOVER_S + TAKEOVER_SPREAD_S + 0.5
    ann, near = await here.join(Client("ann")), await here.join(reader("near"))
    far = await there.join(reader("far"))
    await say(ann, "one")
    await trio.sleep(3 * TAKEOVER_S)
    assert (len(here.translator.calls), len(there.translator.calls)) == (1, 1)
    assert near.translations == far.translations == ["pt:one"]


async def test_where_nobody_can_translate_each_is_told_once(autojump_clock, here, there):
    here.translator.failing = there.translator.failing = True
    ann, near = await here.join(Client("ann")), await here.join(reader("near"))
    far = await there.join(reader("far"))
    await say(ann, "one", "two")
    await trio.sleep(3 * TAKEOVER_S)
    assert failures(near) == failures(far) == [UNAVAILABLE]
    assert far.texts == ["one", "two"]


async def test_who_comes_late_elsewhere_finds_the_translations_made_before(autojump_clock, here, there):
    ann = await here.join(Client("ann"))
    await here.join(reader("near"))
    await say(ann, "one", "two")
    await trio.sleep(5)
    late = await there.join(reader("late", history=5))
    await trio.sleep(3 * TAKEOVER_S)
    assert history_of(late) == [("one", True), ("pt:one", True), ("two", True), ("pt:two", True)]
    assert there.translator.calls == []


async def test_what_nobody_wanted_is_translated_for_who_comes_late_only(autojump_clock, here, there):
    ann = await here.join(Client("ann"))
    await say(ann, "one")
    near = await here.join(reader("near", "de"))
    late, later = await there.join(reader("late", history=5)), await there.join(reader("later", history=5))
    await trio.sleep(3 * TAKEOVER_S)
    assert history_of(late) == history_of(later) == [("one", True), ("pt:one", True)]
    assert there.translator.calls == [("one", "en", "pt")]
    assert near.translations == []


async def test_translations_made_in_an_outage_reach_the_others_when_the_bus_returns(
    autojump_clock, here, there, memory
):
    ann, near = await here.join(Client("ann")), await here.join(reader("near"))
    far = await there.join(reader("far"))
    await say(ann, "one")
    await trio.sleep(3)
    memory.stop(forget=True)
    await say(ann, "two")
    await trio.sleep(20)
    assert near.translations == ["pt:one", "pt:two"]
    assert far.translations == ["pt:one"]
    memory.start()
    await trio.sleep(20)
    assert far.translations == ["pt:one", "pt:two"]
    assert [text for text, _ in history_of(far)] == ["one", "pt:one", "two", "pt:two"]
    assert there.translator.calls == []


async def test_an_instance_that_died_in_the_middle_leaves_its_translations_to_another(
    autojump_clock, memory, there, nursery
):
    doomed = Translating(memory)
    with trio.CancelScope() as life:
        async with trio.open_nursery() as its_own:
            its_own.start_soon(doomed.run)
            await wait_all_tasks_blocked()
            ann, far = await doomed.join(Client("ann")), await there.join(reader("far"))
            await say(ann, "one")
            life.cancel()
    assert far.texts == ["one"]
    await trio.sleep(3 * TAKEOVER_S)
    assert far.translations == ["pt:one"]


async def test_of_several_instances_one_takes_over(autojump_clock, memory, here, there, nursery):
    plain = await started(Instance(memory), nursery)
    ann = await plain.join(Client("ann"))
    readers = [await here.join(reader("near")), await there.join(reader("far"))]
    here.translator.seconds = there.translator.seconds = 0.01
    for number in range(5):
        await say(ann, f"{number}")
    await trio.sleep(3 * TAKEOVER_S)
    assert [each.translations for each in readers] == [[f"pt:{number}" for number in range(5)]] * 2
    assert len(here.translator.calls) + len(there.translator.calls) < 10


async def test_what_is_waited_for_from_elsewhere_takes_no_room_from_what_is_said_here(
    autojump_clock, memory, there, nursery
):
    plain = await started(Instance(memory), nursery)
    for number in range(60):
        ann = await plain.join(Client("ann", session_id=f"call-{number}"))
        await there.join(reader("far", session_id=f"call-{number}"))
        await say(ann, "elsewhere")
    eve, bob = await there.join(Client("eve")), await there.join(reader("bob"))
    await say(eve, "here")
    await trio.sleep(2)
    assert bob.translations == ["pt:here"]
    assert failures(bob) == []


async def test_one_who_comes_late_takes_one_place_however_much_was_said(autojump_clock, here):
    ann = await here.join(Client("ann"))
    await say(ann, *(f"{number}" for number in range(100)))
    late = await here.join(reader("late", history=100))
    eve, bob = await here.join(Client("eve", session_id="other")), await here.join(reader("bob", session_id="other"))
    await say(eve, "now")
    await trio.sleep(2)
    assert bob.translations == ["pt:now"]
    await trio.sleep(200)
    assert late.translations == [f"pt:{number}" for number in range(100)]
    assert failures(late) == failures(bob) == []
