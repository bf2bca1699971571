import time

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.sessions.calls import Client, Instance, caption, say, translated
from trio_stt.dialects.events import Presence
from trio_stt.sessions.bus import Call
from trio_stt.sessions.memory_bus import Memory
from trio_stt.sessions.session import READS_TOO_SLOWLY, REPLACED


@pytest.fixture
def memory() -> Memory:
    return Memory(ttl_s=600)


@pytest.fixture
async def instance(memory, nursery) -> Instance:
    instance = Instance(memory)
    nursery.start_soon(instance.run)
    await wait_all_tasks_blocked()
    return instance


@pytest.fixture
async def other(memory, nursery) -> Instance:
    """Another instance on the same bus."""
    other = Instance(memory)
    nursery.start_soon(other.run)
    await wait_all_tasks_blocked()
    return other


async def test_everybody_in_a_session_hears_the_speaker_and_nobody_else_does(instance):
    ann, bob = await instance.join(Client("ann")), await instance.join(Client("bob"))
    eve = await instance.join(Client("eve", session_id="other"))
    stranger = await instance.join(Client("eve", tenant="another"))
    final = await say(ann, "hello")
    assert ann.received == bob.received == [final]
    assert eve.received == stranger.received == []


async def test_members_receive_only_what_they_asked_for(instance):
    mute = await instance.join(Client("mute", transcript=False))
    finals_only = await instance.join(Client("finals", partials=False))
    assert not mute.session.wants_partials
    await mute.publisher.publish(caption(mute, "hel", is_final=False))
    await say(mute, "hello")
    assert mute.received == []
    assert finals_only.texts == ["hello"]


async def test_translations_go_to_who_wants_that_language(instance, other):
    ann = await instance.join(Client("ann"))
    pia = await other.join(Client("pia", translation=True, read_language="pt", target=("de",)))
    deaf = await other.join(Client("deaf", read_language="pt"))
    assert ann.session.wanted_languages == {"pt", "de"}
    final = await say(ann, "hello")
    for language in ("pt", "fr", "de", "pt"):
        await ann.publisher.publish_translation(translated(final, language, language))
    assert pia.translations == ["pt", "de"]
    assert deaf.translations == []
    late = await other.join(Client("late", translation=True, read_language="fr", history=9))
    assert [(event.segment_id, event.history) for event in late.received] == [(final.segment_id, True)] * 2


async def test_presence_is_told_to_those_who_asked(instance):
    ann, bob = await instance.join(Client("ann", presence=True)), await instance.join(Client("bob"))
    instance.leave(bob)
    assert ann.received == [Presence("joined", "bob"), Presence("left", "bob")]
    assert bob.received == []


async def test_a_newer_connection_of_a_client_replaces_the_older_one(instance):
    old, bob = await instance.join(Client("ann")), await instance.join(Client("bob", presence=True))
    new = await instance.join(Client("ann"))
    assert old.closes == [REPLACED]
    instance.leave(old)
    await say(bob, "hi")
    assert new.texts == ["hi"]
    assert bob.presence == []


async def test_a_newer_connection_on_another_instance_replaces_the_older_one(instance, other):
    old, bob = await instance.join(Client("ann")), await instance.join(Client("bob", presence=True))
    eve = await other.join(Client("eve", presence=True))
    new = await other.join(Client("ann"))
    assert old.closes == [REPLACED]
    instance.leave(old)
    await say(bob, "hi")
    assert new.texts == ["hi"]
    assert ("left", "ann") not in bob.presence + eve.presence
    other.leave(new)
    assert bob.presence == [("joined", "eve"), ("left", "ann")]
    assert eve.presence == [("left", "ann")]


async def test_a_client_that_moved_during_an_outage_is_one_client_afterwards(autojump_clock, instance, other, memory):
    old = await instance.join(Client("ann"))
    memory.stop(forget=True)
    await trio.sleep(1)
    new = await other.join(Client("ann"))
    await wait_all_tasks_blocked()
    assert old.closes == new.closes == []
    memory.start()
    await trio.sleep(1)
    assert set(old.closes) == {REPLACED}
    assert new.closes == []


async def test_of_two_connections_made_in_an_outage_the_later_stays_whoever_is_told_first(
    autojump_clock, instance, other, memory
):
    memory.stop()
    for first, second in ((instance, other), (other, instance)):
        name = f"ann-{id(first)}"
        old = await first.join(Client(name))
        await trio.sleep(1)
        new = await second.join(Client(name))
        first.expected = old, new
    memory.start()
    await trio.sleep(8)
    for old, new in (instance.expected, other.expected):
        assert (set(old.closes), new.closes) == ({REPLACED}, [])


async def test_who_was_on_an_instance_that_died_has_left_after_a_while(autojump_clock, instance, memory, nursery):
    bob = await instance.join(Client("bob", presence=True))
    dying = Instance(memory)
    async with trio.open_nursery() as its_nursery:
        its_nursery.start_soon(dying.run)
        await dying.join(Client("ann"))
        await trio.sleep(60)
        assert bob.presence == [("joined", "ann")]
        its_nursery.cancel_scope.cancel()
    await trio.sleep(30)
    assert bob.presence == [("joined", "ann"), ("left", "ann")]


async def test_nobody_leaves_because_the_bus_is_away(autojump_clock, instance, other, memory):
    bob = await instance.join(Client("bob", presence=True))
    ann = await other.join(Client("ann", presence=True))
    memory.stop(forget=True)
    await trio.sleep(100)
    memory.start()
    await trio.sleep(100)
    assert bob.presence == [("joined", "ann")]
    assert ann.presence == []


async def test_late_joiners_get_the_newest_finals_of_others_in_order(instance, other):
    ann, bob = await instance.join(Client("ann")), await instance.join(Client("bob"))
    await say(ann, *(f"line {number}" for number in range(5)), "")
    await say(bob, "my own")
    for where in (instance, other):
        late = await where.join(Client("bob", history=2))
        assert [(event.text, event.history) for event in late.received] == [("line 3", True), ("line 4", True)]


async def test_history_joins_the_live_flow_without_gap_or_double(instance, other):
    ann = await instance.join(Client("ann"))
    late = Client("late", history=200)
    async with trio.open_nursery() as nursery:
        await say(ann, "0", "1")
        nursery.start_soon(say, ann, *(str(number) for number in range(2, 100)))
        nursery.start_soon(other.join, late)
    assert late.texts == [str(number) for number in range(100)]
    assert late.received[0].history
    assert not late.received[-1].history


async def test_what_was_said_before_joining_in_an_outage_comes_as_history_when_the_bus_returns(instance, other, memory):
    ann = await instance.join(Client("ann"))
    await say(ann, "before")
    memory.stop()
    await say(ann, "meanwhile")
    curious = await other.join(Client("curious", history=5))
    deaf = await other.join(Client("deaf"))
    await say(ann, "later")
    assert curious.received == deaf.received == []
    memory.start()
    await wait_all_tasks_blocked()
    assert curious.texts == ["before", "meanwhile", "later"]
    assert curious.received[0].history
    assert "before" not in deaf.texts
    assert "later" in deaf.texts


async def test_a_session_ends_with_its_last_member_and_is_remembered_for_a_while(autojump_clock, instance):
    ann = await instance.join(Client("ann"))
    await say(ann, "secret")
    instance.leave(ann)
    instance.leave(ann)
    assert len(instance.sessions) == 0
    assert Call("", "call") not in instance.sessions
    soon = await instance.join(Client("soon", history=10))
    assert soon.texts == ["secret"]
    instance.leave(soon)
    await trio.sleep(601)
    late = await instance.join(Client("late", history=10))
    assert late.received == []


async def test_a_call_that_goes_on_in_silence_is_not_forgotten(autojump_clock, instance):
    ann = await instance.join(Client("ann"))
    await say(ann, "long ago")
    await trio.sleep(3600)
    late = await instance.join(Client("late", history=10))
    assert late.texts == ["long ago"]


async def test_a_member_whose_outbox_overflows_is_closed_and_the_others_are_not(instance):
    slow, quick = await instance.join(Client("slow", max_messages=1)), await instance.join(Client("quick"))
    await say(quick, "a", "b", "c")
    assert READS_TOO_SLOWLY in slow.closes
    assert quick.closes == []


async def test_partials_go_to_other_instances_only_if_somebody_there_reads_them(autojump_clock, instance, other):
    ann = await instance.join(Client("ann", partials=False))
    assert not ann.session.wants_partials
    bob = await other.join(Client("bob"))
    assert ann.session.wants_partials
    await ann.publisher.publish(caption(ann, "hel", is_final=False))
    assert bob.texts == ["hel"]
    bob.member.request = Client("bob", partials=False).member.request
    await trio.sleep(1)
    assert not ann.session.wants_partials


async def test_the_others_are_told_of_changes_only_and_only_of_the_call_that_changed(autojump_clock, instance, other):
    ann, _ = await instance.join(Client("ann")), await instance.join(Client("eve", session_id="other"))
    await trio.sleep(1)
    refreshed = []
    refresh = instance.bus.refresh

    async def watched(call, presents):
        refreshed.append(call.session_id)
        return await refresh(call, presents)

    instance.bus.refresh = watched
    for _ in range(50):
        ann.member.request = Client("ann").member.request
    await trio.sleep(1)
    assert refreshed == []
    for partials in (False, True, False):
        ann.member.request = Client("ann", partials=partials).member.request
    await trio.sleep(1)
    assert refreshed == ["call"]


async def test_history_however_long_closes_nobody(instance):
    ann = await instance.join(Client("ann"))
    for number in range(200):
        final = await say(ann, f"{number}")
        for language in ("pt", "de", "fr", "es", "it", "vi"):
            await ann.publisher.publish_translation(translated(final, "x", language))
    many = {"translation": True, "read_language": "pt", "target": ("de", "fr", "es", "it", "vi")}
    late = await instance.join(Client("late", history=200, max_messages=1024, **many))
    await say(ann, "and now")
    assert late.closes == []
    assert len(late.received) == 200 * 7 + 1


async def test_what_an_outage_held_up_closes_nobody(autojump_clock, instance, other, memory):
    ann = await instance.join(Client("ann"))
    bob = await other.join(Client("bob", max_messages=100))
    memory.stop()
    for number in range(500):
        await ann.publisher.publish(attrs.evolve(caption(ann, f"{number}"), timestamp=time.time() - 60))
    memory.start()
    await trio.sleep(5)
    assert bob.closes == []
    assert bob.texts == [f"{number}" for number in range(500)]


async def test_who_comes_after_the_speaker_left_in_an_outage_finds_what_was_said(autojump_clock, instance, memory):
    ann = await instance.join(Client("ann"))
    await say(ann, "before")
    memory.stop()
    await say(ann, "meanwhile")
    instance.leave(ann)
    bob = await instance.join(Client("bob", history=50))
    memory.start()
    await trio.sleep(5)
    late = await instance.join(Client("late", history=50))
    assert sorted(bob.texts) == ["before", "meanwhile"]
    assert late.texts == ["before", "meanwhile"]


async def test_history_is_in_the_order_of_what_was_said_also_after_an_outage(autojump_clock, instance, other, memory):
    ann, bob = await instance.join(Client("ann")), await other.join(Client("bob"))
    memory.stop()
    await say(ann, "first")
    await trio.sleep(1)
    final = attrs.evolve(caption(bob, "second"), timestamp=time.time() + 1)
    await bob.publisher.publish(final)
    memory.start()
    await trio.sleep(5)
    for where in (instance, other):
        late = await where.join(Client(f"late-{id(where)}", history=5))
        assert late.texts == ["first", "second"]


async def test_a_partial_that_its_final_has_overtaken_is_dropped(instance, other):
    ann, bob = await instance.join(Client("ann")), await other.join(Client("bob"))
    partial = caption(ann, "hel", is_final=False)
    await say(ann, "hello")
    await ann.publisher.publish(partial)
    assert bob.texts == ["hello"]


async def test_a_cancelled_join_leaves_nothing_behind(instance):
    client = Client("ann")
    with trio.CancelScope() as scope:
        scope.cancel()
        await instance.sessions.join(client.member)
    instance.sessions.leave(client.member)
    assert len(instance.sessions) == 0
    assert len(instance.bus._followings) == 0
