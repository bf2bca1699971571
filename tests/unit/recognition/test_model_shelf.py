"""Which models are loaded: each once, none in use unloaded, never more than there is room for."""

import random
import threading
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fakes import FakeEngine
from tests.unit.speech_models import lay_model
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.engine import ModelError
from trio_stt.recognition.model_shelf import LoadOutcome, ModelShelf, NotLent, UnloadOutcome
from trio_stt.recognition.shelved_model import Loan, ModelState, Unavailable


class Library:
    """A shelf over folders of 100 MB each, and what its loads did. `gate` holds loads back while it is clear."""

    def __init__(
        self, models_dir, languages=("en", "de", "fr", "es"), *, memory_mb=300, wait_s=5.0, breaker_wait_s=0.01
    ):
        self.models_dir = models_dir
        for language in languages:
            lay_model(models_dir, language)
        self.loads = []
        self.at_once = self.most_at_once = 0
        self.broken = set()
        self.gate = threading.Event()
        self.gate.set()
        self.limits = {}
        self.taken_up = []
        self.shelf = ModelShelf(
            models_dir,
            models_dir / "vosk-model",
            "en",
            memory_mb=memory_mb,
            wait_s=wait_s,
            load=self._load,
            make_breaker=lambda name: Breaker(name, min_calls=4, wait_s=breaker_wait_s, jitter=lambda: 0.0),
            works=self._works,
            on_loaded=lambda model: self.taken_up.append(model.language),
            log=structlog.get_logger(),
        )

    def _load(self, model):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.gate.wait()
            self.loads.append(model.name)
            if model.language in self.broken:
                raise ModelError("planted")
            engine = FakeEngine()
            engine.recogniser_limit = self.limits.get(model.language)
            return engine
        finally:
            self.at_once -= 1

    async def _works(self, engine):
        await trio.lowlevel.checkpoint()
        return True

    def state(self, name):
        return next(model.state for model in self.shelf.statistics() if model.name == name)


@asynccontextmanager
async def library(models_dir, *args, **changes):
    here = Library(models_dir, *args, **changes)
    with trio.fail_after(20):
        await here.shelf.load_own()
        async with trio.open_nursery() as nursery:
            await nursery.start(here.shelf.run)
            yield here
            here.gate.set()
            nursery.cancel_scope.cancel()


pytestmark = pytest.mark.usefixtures("quiet_logs")


async def borrow(shelf, language) -> Loan:
    lent = await shelf.lend(language)
    assert isinstance(lent, Loan), lent
    return lent


async def why_not(shelf, language) -> Unavailable:
    lent = await shelf.lend(language)
    assert isinstance(lent, NotLent)
    return lent.why


async def test_all_who_ask_at_once_share_one_load(tmp_path):
    async with library(tmp_path) as here:
        loans = []

        async def ask():
            loans.append(await borrow(here.shelf, "de"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert here.loads == ["vosk-model", "vosk-model-de"]
        assert len({loan.engine for loan in loans}) == 1
        assert loans[0].model.users == 20
        assert here.taken_up == ["en", "de"]
        for loan in loans:
            loan.close()
            loan.close()
        assert loans[0].model.users == 0


async def test_models_are_loaded_one_at_a_time(tmp_path):
    async with library(tmp_path, memory_mb=1000) as here:
        async with trio.open_nursery() as nursery:
            for language in ("de", "fr", "es"):
                nursery.start_soon(borrow, here.shelf, language)
        assert here.most_at_once == 1
        assert here.shelf.loaded == 4


async def test_a_client_that_goes_away_while_it_waits_ends_no_load_and_holds_nothing(tmp_path):
    async with library(tmp_path) as here:
        here.gate.clear()
        with trio.move_on_after(0.05) as impatient:
            await here.shelf.lend("de")
        assert impatient.cancelled_caught
        here.gate.set()
        loan = await borrow(here.shelf, "de")
        assert here.loads.count("vosk-model-de") == 1
        assert loan.model.users == 1


async def test_who_waited_long_enough_is_told_to_come_back_and_finds_it_loaded_then(tmp_path):
    async with library(tmp_path, wait_s=0.05) as here:
        here.gate.clear()
        assert await why_not(here.shelf, "de") is Unavailable.LOADING
        assert here.state("vosk-model-de") is ModelState.LOADING
        here.gate.set()
        while here.state("vosk-model-de") is not ModelState.LOADED:
            await trio.sleep(0.01)
        await borrow(here.shelf, "de")
        assert here.loads.count("vosk-model-de") == 1


@pytest.mark.parametrize("language", ["it", "", "x", "de/..", "../vosk-model", "DE"])
async def test_what_is_not_installed_is_not_lent(tmp_path, language):
    async with library(tmp_path) as here:
        assert await why_not(here.shelf, language) is Unavailable.NOT_INSTALLED
        assert here.loads == ["vosk-model"]


async def test_a_model_that_is_installed_later_is_found_and_one_that_is_removed_is_not(tmp_path):
    async with library(tmp_path) as here:
        assert await why_not(here.shelf, "it") is Unavailable.NOT_INSTALLED
        folder = lay_model(tmp_path, "it")
        (await borrow(here.shelf, "it")).close()
        assert await here.shelf.unload("it") is UnloadOutcome.UNLOADED
        (folder / "am/final.mdl").unlink()
        assert await why_not(here.shelf, "it") is Unavailable.NOT_INSTALLED


async def test_the_model_unused_for_longest_makes_room_and_one_in_use_never_does(tmp_path):
    async with library(tmp_path, memory_mb=310) as here:  # its own and two more
        kept = await borrow(here.shelf, "de")
        (await borrow(here.shelf, "fr")).close()
        (await borrow(here.shelf, "es")).close()
        assert here.state("vosk-model-de") is ModelState.LOADED
        assert here.state("vosk-model-fr") is ModelState.INSTALLED
        kept.close()
        (await borrow(here.shelf, "es")).close()  # so that German is the one unused for longest
        (await borrow(here.shelf, "fr")).close()
        assert here.state("vosk-model-de") is ModelState.INSTALLED
        assert here.state("vosk-model") is ModelState.LOADED
        assert here.shelf.evictions == 2
        assert round(here.shelf.memory_mb) == 300


async def test_with_all_in_use_the_next_is_refused_and_nobody_loses_a_model_for_it(tmp_path):
    async with library(tmp_path, memory_mb=310) as here:
        lay_model(tmp_path, "ja", mb=200)
        loan = await borrow(here.shelf, "de")
        (await borrow(here.shelf, "fr")).close()
        assert await why_not(here.shelf, "ja") is Unavailable.NO_MEMORY
        assert here.state("vosk-model-fr") is ModelState.LOADED
        loan.close()
        await borrow(here.shelf, "ja")
        assert here.shelf.loaded == 2


async def test_a_model_that_cannot_be_loaded_opens_its_breaker_until_it_is_mended(tmp_path):
    async with library(tmp_path, breaker_wait_s=0.2) as here:
        here.broken.add("de")
        assert await why_not(here.shelf, "de") is Unavailable.FAILING
        lent = await here.shelf.lend("de")
        assert isinstance(lent, NotLent)
        assert (lent.why, lent.retry_after_s) == (Unavailable.FAILING, 2)
        assert here.loads.count("vosk-model-de") == 1  # who comes while it is open costs nothing
        await borrow(here.shelf, "fr")
        here.broken.clear()
        while here.state("vosk-model-de") is not ModelState.LOADED:
            await trio.sleep(0.02)
        await borrow(here.shelf, "de")


async def test_whatever_a_load_raises_is_a_load_that_failed(tmp_path):
    async with library(tmp_path) as here:
        here.limits = None  # an AttributeError in the thread
        assert await why_not(here.shelf, "de") is Unavailable.FAILING
        assert here.shelf.loaded == 1


async def test_a_model_with_room_for_few_recognisers_is_lent_to_as_many(tmp_path):
    async with library(tmp_path) as here:
        here.limits["de"] = 2
        first = await borrow(here.shelf, "de")
        await borrow(here.shelf, "de")
        assert await why_not(here.shelf, "de") is Unavailable.ALL_TAKEN
        first.close()
        await borrow(here.shelf, "de")


async def test_operators_load_and_unload(tmp_path):
    async with library(tmp_path, memory_mb=210, breaker_wait_s=60) as here:
        shelf = here.shelf
        assert await shelf.load("it") is LoadOutcome.NOT_INSTALLED
        assert await shelf.load("en") is LoadOutcome.ALREADY_LOADED
        here.broken.add("de")
        assert await shelf.load("de") is LoadOutcome.FAILED
        here.broken.clear()
        assert await shelf.load("de") is LoadOutcome.LOADED  # without waiting for the breaker
        loan = await borrow(shelf, "de")
        assert await shelf.load("fr") is LoadOutcome.NO_MEMORY
        assert await shelf.unload("de") is UnloadOutcome.IN_USE
        loan.close()
        assert await shelf.unload("de") is UnloadOutcome.UNLOADED
        assert await shelf.unload("de") is UnloadOutcome.NOT_LOADED
        assert await shelf.unload("it") is UnloadOutcome.NOT_INSTALLED
        assert await shelf.unload("en") is UnloadOutcome.OWN


async def test_a_model_chosen_by_its_folder_is_the_one_of_its_language(tmp_path):
    async with library(tmp_path) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.shelf.lend_named, "vosk-model-de")
            nursery.start_soon(here.shelf.lend, "de")
        assert here.loads.count("vosk-model-de") == 1
        assert (await here.shelf.lend_named(None)).engine is here.shelf.own.engine
        assert (await here.shelf.lend_named("vosk-model")).engine is here.shelf.own.engine


async def test_a_chosen_model_that_cannot_be_loaded_is_said_to_be_so_with_its_reason(tmp_path):
    async with library(tmp_path) as here:
        here.broken.add("de")
        with pytest.raises(ModelError, match="vosk-model-de: planted"):
            await here.shelf.lend_named("vosk-model-de")


async def test_what_phrases_need_is_counted_once_and_goes_with_its_model(tmp_path):
    async with library(tmp_path, memory_mb=400) as here:
        for name in ("HCLr.fst", "Gr.fst"):
            with (tmp_path / "vosk-model-de/graph" / name).open("wb") as half:
                half.truncate(20_000_000)
        loan = await here.shelf.lend_named("vosk-model-de")
        for _ in range(2):
            await here.shelf.load_phrases(loan)
        assert round(here.shelf.memory_mb) == 200 + 80
        other = await borrow(here.shelf, "fr")
        with (tmp_path / "vosk-model-fr/graph/Gr.fst").open("wb") as half:
            half.truncate(60_000_000)
        with pytest.raises(ModelError, match="no memory"):
            await here.shelf.load_phrases(other)
        loan.close()
        await here.shelf.unload("de")
        assert round(here.shelf.memory_mb) == 200


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), memory_mb=st.sampled_from([100, 210, 310]))
def test_however_streams_come_and_go_none_loses_its_model_and_the_bound_holds(tmp_path_factory, seed, memory_mb):
    trio.run(come_and_go, tmp_path_factory.mktemp("models"), random.Random(seed), memory_mb)


async def come_and_go(models_dir, chance: random.Random, memory_mb: int) -> None:
    languages = ("en", "de", "fr", "es")
    async with library(models_dir, languages, memory_mb=memory_mb) as here:

        async def stream() -> None:
            language = chance.choice(languages)
            with trio.move_on_after(chance.choice([0.0005, 0.005, 5])):
                lent = await here.shelf.lend(language)
                if isinstance(lent, NotLent):
                    assert lent.why in (Unavailable.NO_MEMORY, Unavailable.FAILING)
                    return
                with lent:
                    engine = lent.engine
                    for _ in range(chance.randrange(4)):
                        await trio.sleep(0.001)
                        assert lent.engine is engine
                        assert here.shelf.memory_mb <= memory_mb

        async def operator() -> None:
            for _ in range(5):
                act = chance.choice([here.shelf.load, here.shelf.unload])
                await act(chance.choice(languages))
                here.broken = {language for language in languages[1:] if chance.random() < 0.1}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(operator)
            for _ in range(30):
                nursery.start_soon(stream)
                await trio.sleep(chance.choice([0, 0.0005]))
        assert [model.users for model in here.shelf] == [0] * len(languages)
