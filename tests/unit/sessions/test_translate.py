import time

import attrs
import pytest
import structlog
import trio
import trio.lowlevel
import trio.testing

from tests.unit.sessions.calls import Client
from tests.unit.translation_fakes import InlineTranslator
from trio_stt.dialects.events import Failure, StreamRequest, Transcript, Translation
from trio_stt.operations.metrics import Metrics
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.session import Sessions
from trio_stt.sessions.translate import (
    UNAVAILABLE,
    TranslationDesk,
    languages_of,
    translation_refusal,
)

pytestmark = pytest.mark.usefixtures("quiet_logs")


class Call:
    """Sessions with a desk that is at work."""

    def __init__(self, translator: InlineTranslator, desk: TranslationDesk) -> None:
        self.translator = translator
        self.desk = desk
        self.sessions = Sessions(MemoryBus(Memory(ttl_s=600)), desk)

    async def join(self, client_id: str, **request) -> Client:
        client = Client(client_id, **{"translation": True, **request})
        self.session = await self.sessions.join(client.member)
        return client

    def publish(self, caption: Transcript) -> None:
        """Somebody said this here."""
        if caption.is_final:
            self.session.deliver(caption)
            self.session.translate(caption, self.publish_translation)
        else:
            self.session.publish_partial(caption)

    async def publish_translation(self, translation: Translation) -> None:
        await trio.lowlevel.checkpoint()
        self.session.deliver(translation)


@pytest.fixture
def bounds() -> dict:
    return {"max_waiting": 50}


@pytest.fixture
async def call(bounds, nursery):
    translator = InlineTranslator()
    desk = TranslationDesk(translator, Metrics(), structlog.get_logger(), **bounds)
    await nursery.start(desk.run)
    return Call(translator, desk)


def caption(client_id: str, text: str, *, is_final: bool = True, number: int = 1) -> Transcript:
    stream_id = f"stream-{client_id}"
    return Transcript(
        "call", client_id, stream_id, f"{stream_id}-{number}", text, is_final, "en", 0, 1600, 16000, time.time()
    )


def translations(client: Client) -> list[tuple[str, str, str]]:
    """Segment, language and text of the final translations that a client has received."""
    return [
        (event.segment_id, event.language, event.translation)
        for event in client.received
        if isinstance(event, Translation) and event.is_final
    ]


def failures(client: Client) -> list[str]:
    return [event.code for event in client.received if isinstance(event, Failure)]


@pytest.mark.parametrize(
    ("request_", "spoken", "expected"),
    [
        ({}, "pt", ()),
        ({"translation": True}, "pt", ("en",)),
        ({"translation": True}, "en-GB", ()),
        ({"translation": True, "read_language": "pt-BR"}, "en", ("pt-BR",)),
        ({"translation": True, "target": ("pt", "de", "pt")}, "en", ("pt", "de")),
        ({"translation": True, "read_language": "pt", "target": ("pt", "pt-PT", "EN")}, "en", ("pt", "pt-PT")),
    ],
)
def test_each_language_but_the_speaker_s_own_is_wanted_once(request_, spoken, expected):
    assert languages_of(StreamRequest("a", "s", **request_), spoken=spoken) == expected


async def test_a_listener_receives_the_translation_of_each_final_in_order(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    for number in range(3):
        call.publish(caption("ann", f"word {number}", number=number))
    await trio.sleep(10)
    assert translations(bob) == [(f"stream-ann-{number}", "pt", f"pt:word {number}") for number in range(3)]
    assert [type(event) for event in bob.received].count(Transcript) == 3


async def test_one_translation_serves_all_listeners_of_a_language(call, autojump_clock):
    clients = [await call.join(f"client{number}", read_language="pt") for number in range(20)]
    call.publish(caption("client0", "hello"))
    await trio.sleep(5)
    assert len(call.translator.calls) == 1
    assert all(translations(client) == [("stream-client0-1", "pt", "pt:hello")] for client in clients)


async def test_each_receives_only_its_own_languages(call, autojump_clock):
    both, german, none = (
        await call.join("both", target=("pt", "de")),
        await call.join("german", read_language="de", transcript=False),
        await call.join("none", translation=False, target=("pt",)),
    )
    call.publish(caption("ann", "hello"))
    await trio.sleep(5)
    assert {language for _, language, _ in translations(both)} == {"pt", "de"}
    assert [type(event) for event in german.received] == [Translation]
    assert translations(none) == []


async def test_the_tag_that_was_asked_for_is_answered(call, autojump_clock):
    bob = await call.join("bob", read_language="pt-BR")
    call.publish(caption("ann", "hello"))
    await trio.sleep(5)
    (translation,) = (event for event in bob.received if isinstance(event, Translation))
    assert (translation.language, translation.source_language) == ("pt-BR", "en")
    assert call.translator.calls == [("hello", "en", "pt")]


async def test_nothing_is_translated_that_nobody_wants(call, autojump_clock):
    await call.join("bob", translation=False)
    eve = await call.join("eve", read_language="pt")
    call.publish(caption("ann", ""))
    call.publish(caption("ann", "hel", is_final=False))
    call.sessions.leave(eve.member)
    call.publish(caption("ann", "hello", number=2))
    await trio.sleep(5)
    assert call.translator.calls == []


async def test_a_final_that_is_published_again_is_not_translated_again(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    for _ in range(2):
        call.publish(caption("ann", "hello"))
        await trio.sleep(5)
    assert len(translations(bob)) == 1


async def test_who_asks_for_a_language_while_connected_gets_it_from_then_on(call, autojump_clock):
    bob = await call.join("bob")
    call.publish(caption("ann", "one", number=1))
    await trio.sleep(5)
    bob.member.request = attrs.evolve(bob.member.request, target=("pt",))
    call.publish(caption("ann", "two", number=2))
    await trio.sleep(5)
    assert translations(bob) == [("stream-ann-2", "pt", "pt:two")]


async def test_speakers_do_not_wait_for_each_other(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    for number in range(10):
        call.publish(caption("slow", f"{number}", number=number))
    call.publish(caption("quick", "now"))
    await trio.sleep(1.5)
    assert ("stream-quick-1", "pt", "pt:now") in translations(bob)


async def test_history_brings_translations_that_exist_at_once_and_others_when_made(call, autojump_clock):
    await call.join("bob", read_language="pt")
    for number in range(3):
        call.publish(caption("ann", f"{number}", number=number))
    await trio.sleep(5)
    late = await call.join("late", target=("pt", "de"), history=2)
    at_once = [(event.segment_id, type(event)) for event in late.received]
    assert at_once == [(f"stream-ann-{number}", kind) for number in (1, 2) for kind in (Transcript, Translation)]
    await trio.sleep(5)
    assert translations(late)[2:] == [("stream-ann-1", "de", "de:1"), ("stream-ann-2", "de", "de:2")]
    assert all(event.history for event in late.received)


async def test_history_is_joined_to_what_is_being_translated_without_double(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    call.publish(caption("ann", "hello"))
    late = await call.join("late", read_language="pt", history=5)
    later = await call.join("later", read_language="pt", history=5)
    await trio.sleep(5)
    assert len(call.translator.calls) == 1
    for client in (bob, late, later):
        assert translations(client) == [("stream-ann-1", "pt", "pt:hello")]


async def test_two_who_join_late_share_the_translations_that_are_made_for_them(call, autojump_clock):
    await call.join("ann", translation=False)
    call.publish(caption("ann", "hello"))
    late, later = [await call.join(name, read_language="pt", history=5) for name in ("late", "later")]
    await trio.sleep(5)
    assert len(call.translator.calls) == 1
    assert translations(late) == translations(later) == [("stream-ann-1", "pt", "pt:hello")]


async def test_a_failing_engine_is_told_once_and_captions_go_on(call, autojump_clock):
    bob, mute = await call.join("bob", read_language="pt"), await call.join("mute", translation=False)
    call.translator.failing = True
    for number in range(3):
        call.publish(caption("ann", "hello", number=number))
        await trio.sleep(5)
    eve = await call.join("eve", read_language="de")
    call.publish(caption("ann", "hello", number=4))
    await trio.sleep(5)
    assert failures(bob) == failures(eve) == [UNAVAILABLE]
    assert failures(mute) == []
    assert len([event for event in bob.received if isinstance(event, Transcript)]) == 4


async def test_translations_come_again_when_the_engine_does(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    call.translator.failing = True
    call.publish(caption("ann", "one", number=1))
    await trio.sleep(5)
    call.translator.failing = False
    call.publish(caption("ann", "two", number=2))
    await trio.sleep(5)
    assert translations(bob) == [("stream-ann-2", "pt", "pt:two")]


@pytest.mark.parametrize("bounds", [{"max_waiting": 2}])
async def test_what_waits_is_bounded_and_the_excess_is_told(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    for number in range(5):
        call.publish(caption("ann", f"{number}", number=number))
    assert call.desk.waiting == 2
    await trio.sleep(10)
    assert [text for _, _, text in translations(bob)] == ["pt:0", "pt:1"]
    assert failures(bob) == [UNAVAILABLE]
    assert call.desk.waiting == 0


async def test_a_fault_in_one_translation_leaves_the_others_alone(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    call.translator.seconds = -1  # trio.sleep refuses it
    call.publish(caption("ann", "one", number=1))
    await trio.sleep(1)
    call.translator.seconds = 1
    call.publish(caption("ann", "two", number=2))
    await trio.sleep(5)
    assert translations(bob) == [("stream-ann-2", "pt", "pt:two")]
    assert failures(bob) == [UNAVAILABLE]


async def test_a_fault_in_one_language_leaves_the_others_alone(call, autojump_clock):
    bob, eve = await call.join("bob", read_language="pt"), await call.join("eve", read_language="de")
    translate = call.translator.translate

    async def faulty(text, source, target, **options):
        if target == "de":
            raise KeyError("planted")
        return await translate(text, source, target, **options)

    call.translator.translate = faulty
    call.publish(caption("ann", "one"))
    await trio.sleep(5)
    assert translations(bob) == [("stream-ann-1", "pt", "pt:one")]
    assert failures(bob) == []
    assert failures(eve) == [UNAVAILABLE]
    call.translator.translate = translate
    late = await call.join("late", read_language="de", history=5)
    await trio.sleep(5)
    assert translations(late) == [("stream-ann-1", "de", "de:one")]


async def test_what_was_said_so_far_can_be_waited_for(call, autojump_clock):
    bob = await call.join("bob", read_language="pt")
    call.publish(caption("ann", "one", number=1))
    call.publish(caption("ann", "two", number=2))
    await call.session.wait_translated("stream-ann")
    assert len(translations(bob)) == 2
    await call.session.wait_translated("stream-ann")


async def test_engines_are_loaded_when_somebody_comes_who_may_need_them(call, autojump_clock):
    await call.join("mute", translation=False, target=("de",))
    await call.join("bob", read_language="pt-BR")
    await call.join("eve", read_language="pt")
    await trio.sleep(1)
    assert call.translator.prepared == [["pt"]]


async def test_before_the_desk_is_open_nothing_is_translated(autojump_clock):
    translator = InlineTranslator()
    call = Call(translator, TranslationDesk(translator, Metrics(), structlog.get_logger(), max_waiting=5))
    bob = await call.join("bob", read_language="pt")
    call.publish(caption("ann", "hello"))
    assert failures(bob) == [UNAVAILABLE]


def partial(text: str, number: int = 1) -> Transcript:
    return caption("ann", text, is_final=False, number=number)


@pytest.mark.parametrize("bounds", [{"max_waiting": 50, "partials": True}])
async def test_partials_are_translated_as_far_as_they_are_stable(call, autojump_clock):
    bob = await call.join("bob", read_language="pt", partials=True)
    eve = await call.join("eve", read_language="pt", partials=False)
    for text in ("a b c", "a b c d", "a b c d e", "a b x y z f g", "a b x y z f g h"):
        call.publish(partial(text))
        await trio.sleep(2)
    call.publish(partial("a b x y z f g h i j k l"))
    call.publish(caption("ann", "the end"))
    await trio.sleep(5)
    assert [text for text, _, _ in call.translator.calls] == ["a b c", "a b x y z f g", "the end"]
    assert [event.translation for event in bob.received if isinstance(event, Translation)] == ["pt:the end"]
    assert translations(eve) == [("stream-ann-1", "pt", "pt:the end")]


@pytest.mark.parametrize("bounds", [{"max_waiting": 50, "partials": True}])
async def test_no_partial_translation_follows_the_final(call, autojump_clock):
    bob = await call.join("bob", read_language="pt", transcript=False)
    assert call.session.wants_partials
    call.publish(partial("a b c"))
    call.publish(partial("a b c d"))
    call.publish(caption("ann", "a b c d"))
    await trio.sleep(5)
    assert [event.is_final for event in bob.received] == [True]


@pytest.mark.parametrize(
    ("request_", "parameter"),
    [
        ({"translation": False, "target": ("ko",)}, None),
        ({"translation": True}, None),
        ({"translation": True, "language": "ko"}, None),
        ({"translation": True, "target": ("pt-BR", "de")}, None),
        ({"translation": True, "target": ("pt", "ko")}, "target"),
        ({"translation": True, "read_language": "ko"}, "read_language"),
    ],
)
def test_languages_that_nobody_translates_into_are_refused_by_name(request_, parameter):
    refusal = translation_refusal(StreamRequest("a", "s", **request_), InlineTranslator())
    assert (refusal and refusal.parameter) == parameter
    if refusal:
        assert (refusal.status, refusal.code) == (400, "not_available")
        assert "trio-stt models install en-ko" in refusal.message


def test_without_an_engine_translation_is_refused():
    translator = InlineTranslator()
    translator.engines = []
    refusal = translation_refusal(StreamRequest("a", "s", translation=True), translator)
    assert refusal.body()["error"]["parameter"] == "translation"
