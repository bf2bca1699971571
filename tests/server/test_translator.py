import pytest
import structlog
import structlog.testing
import trio
import trio.testing

from tests.unit.translation_fakes import ShoutingEngine
from trio_stt.recognition.breaker import Breaker, BreakerState
from trio_stt.translation.translator import TranslationUnavailableError, Translator


def translator(*engines: ShoutingEngine, **changes) -> Translator:
    return Translator(
        engines,
        lambda name: Breaker(name, min_calls=4, wait_s=0.05, jitter=lambda: 0.0),
        **{"timeout_s": 5, "threads": 1, "cache_size": 10, "log": structlog.get_logger(), **changes},
    )


async def test_recognised_text_is_written_as_a_sentence_before_it_is_translated():
    assert await translator(ShoutingEngine()).translate("how are you", "en", "pt") == "en>pt(How are you?)"


async def test_the_same_words_are_translated_once():
    engine, hits = ShoutingEngine(), []
    subject = translator(engine, on_cache_hit=lambda: hits.append(1))
    for _ in range(3):
        await subject.translate("good day", "en", "pt")
    assert (len(engine.calls), len(hits)) == (1, 2)


async def test_who_asks_while_it_is_being_translated_waits_for_that():
    engine = ShoutingEngine()
    subject = translator(engine)
    engine.hang()
    results = []

    async def ask():
        results.append(await subject.translate("good day", "en", "pt"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.05)
        engine.release()
    assert len(engine.calls) == 1
    assert results == ["en>pt(Good day.)"] * 5


async def test_who_waits_for_one_that_is_cancelled_translates_itself():
    engine = ShoutingEngine()
    subject = translator(engine, threads=2)
    engine.hang()
    results = []

    async def ask(scope: trio.CancelScope):
        with scope:
            results.append(await subject.translate("good day", "en", "pt"))

    async with trio.open_nursery() as nursery:
        first, second = trio.CancelScope(), trio.CancelScope()
        nursery.start_soon(ask, first)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.start_soon(ask, second)
        await trio.testing.wait_all_tasks_blocked(0.05)
        first.cancel()
        await trio.testing.wait_all_tasks_blocked(0.05)
        engine.release()
    assert results == ["en>pt(Good day.)"]


async def test_only_so_many_translations_are_remembered():
    engine = ShoutingEngine()
    subject = translator(engine, cache_size=2)
    for text in ("one", "two", "one", "three", "one", "two"):
        await subject.translate(text, "en", "pt")
    assert [text for text, _, _ in engine.calls] == ["One.", "Two.", "Three.", "Two."]


async def test_what_is_not_to_be_remembered_is_not():
    engine = ShoutingEngine()
    subject = translator(engine)
    for _ in range(2):
        await subject.translate("one", "en", "pt", remember=False)
    assert len(engine.calls) == 2


async def test_english_stands_between_where_there_is_no_direct_way():
    first, second = ShoutingEngine(("pt", "en"), name="a"), ShoutingEngine(("en", "vi"), name="b")
    subject = translator(first, second)
    assert subject.serves("pt", "vi")
    assert not subject.serves("vi", "pt")
    assert await subject.translate("bom dia", "pt", "vi") == "en>vi(pt>en(Bom dia.))"


async def test_a_direct_way_is_preferred():
    around = ShoutingEngine(("pt", "en"), ("en", "vi"), name="around")
    direct = ShoutingEngine(("pt", "vi"), name="direct")
    assert (await translator(around, direct).translate("dia", "pt", "vi")).startswith("pt>vi")


async def test_a_pair_that_nobody_translates_is_refused_by_name():
    with pytest.raises(TranslationUnavailableError, match="from ko to pt"):
        await translator(ShoutingEngine()).translate("x", "ko", "pt")


async def test_an_engine_whose_pairs_are_not_known_yet_is_asked():
    engine = ShoutingEngine()
    engine.pairs = None
    assert await translator(engine).translate("x", "ko", "th") == "ko>th(X.)"


async def test_where_one_engine_fails_the_next_takes_over():
    bad, good = ShoutingEngine(name="bad"), ShoutingEngine(name="good")
    bad.failing = True
    subject = translator(bad, good)
    for number in range(6):
        assert await subject.translate(f"day {'x' * number}", "en", "pt")
    assert len(bad.calls) == 4  # then its breaker opened
    assert subject.breakers[0].state is BreakerState.OPEN


async def test_a_dead_engine_is_left_alone_and_found_working_again():
    engine = ShoutingEngine()
    engine.failing = True
    subject = translator(engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.run)
        for number in range(8):
            with pytest.raises(TranslationUnavailableError):
                await subject.translate(f"day {'x' * number}", "en", "pt")
        engine.failing = False
        with trio.fail_after(10):
            await subject.breakers[0].wait_closed()
        assert await subject.translate("day", "en", "pt")
        nursery.cancel_scope.cancel()


async def test_a_hung_engine_holds_nobody_up_and_is_called_no_more():
    engine = ShoutingEngine()
    engine.hang()
    subject = translator(engine, timeout_s=0.02)
    try:
        for number in range(6):
            with pytest.raises(TranslationUnavailableError):
                await subject.translate(f"day {'x' * number}", "en", "pt")
        assert len(engine.calls) == 1  # the others waited for its thread
        assert not subject.breakers[0].admits
    finally:
        engine.release()


async def test_an_engine_that_raises_anything_has_failed_and_the_log_says_where_but_not_what():
    def fail(text: str, *_: str) -> str:
        raise KeyError(text)

    engine = ShoutingEngine()
    engine.translate = fail
    lines = structlog.testing.CapturingLogger()
    with pytest.raises(TranslationUnavailableError, match="failing"):
        await translator(engine, log=lines).translate("canary", "en", "pt")
    assert "shouting failed: KeyError at test_translator.py:" in str(lines.calls)
    assert "anary" not in str(lines.calls)


async def test_cancellation_is_no_failure():
    engine = ShoutingEngine()
    engine.hang()
    subject = translator(engine)
    with trio.move_on_after(0.02) as scope:
        await subject.translate("day", "en", "pt")
    engine.release()
    assert scope.cancelled_caught
    assert subject.breakers[0].statistics().failures == 0


async def test_engines_are_loaded_before_they_are_needed():
    wanted, other = ShoutingEngine(("en", "pt"), name="a"), ShoutingEngine(("en", "vi"), name="b")
    await translator(wanted, other).prepare(["pt"])
    assert (wanted.loads, other.loads) == (1, 0)


async def test_an_engine_that_cannot_be_loaded_hurts_nobody_yet():
    engine = ShoutingEngine()
    engine.load = lambda: 1 / 0
    await translator(engine).prepare(["pt"])
