"""The one place that owns the speech models of an instance: loads each when it is first asked for, and unloads those
that nobody uses when there is no room for another.

Loads are made one at a time, in a thread, for all who wait together. Who waits is not who loads: a client that goes
away ends no load.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from enum import Enum
from functools import partial
from pathlib import Path

import structlog
import trio
from attrs import frozen

from trio_stt.models.installed import folder_of, installed_folders, is_model, language_of
from trio_stt.operations import allocator
from trio_stt.operations.gently import gently
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.engine import Engine, EngineError, ModelError
from trio_stt.recognition.shelved_model import Load, Loan, ModelStatistics, ShelvedModel, Unavailable

SOON_S = 2
"""When a client may come back for a model that is being loaded, or for the room of one that others use."""

_LANGUAGE = re.compile(r"[a-z]{2,8}")


@frozen
class NotLent:
    """Why a stream does not get a model, and in how many seconds to ask again."""

    why: Unavailable
    retry_after_s: int = SOON_S


class LoadOutcome(Enum):
    """What came of an operator's wish to load a model."""

    LOADED = "loaded"
    ALREADY_LOADED = "already_loaded"
    NOT_INSTALLED = "not_installed"
    NO_MEMORY = "no_memory"
    FAILED = "failed"


class UnloadOutcome(Enum):
    """What came of an operator's wish to unload a model."""

    UNLOADED = "unloaded"
    NOT_LOADED = "not_loaded"
    NOT_INSTALLED = "not_installed"
    IN_USE = "in_use"
    OWN = "own"
    """It is that of the server's own LANGUAGE, which stays."""


class ModelShelf:
    """All models that this instance knows. Used on the event loop only; `run` keeps it going."""

    def __init__(
        self,
        models_dir: Path,
        own: Path,
        language: str,
        *,
        memory_mb: float,
        wait_s: float,
        load: Callable[[ShelvedModel], Engine],
        make_breaker: Callable[[str], Breaker],
        works: Callable[[Engine], Awaitable[bool]],
        on_loaded: Callable[[ShelvedModel], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`own`: the folder of the model of the server's own `language` (primary subtag), which is never unloaded.

        `memory_mb`: what all loaded models together may take, by estimate. `wait_s`: longest wait of a stream.
        `load` blocks; whatever it raises is a load that failed. `works` tries a loaded engine on canned audio.
        `on_loaded` is told, on the event loop, of each model that was loaded.
        """
        self._models_dir = models_dir
        self._memory_mb = memory_mb
        self._wait_s = wait_s
        self._load_engine = load
        self._make_breaker = make_breaker
        self._works = works
        self._on_loaded = on_loaded
        self._log = log
        self._one_at_a_time = trio.CapacityLimiter(1)  # loading and unloading
        self._nursery: trio.Nursery | None = None
        self._models: dict[Path, ShelvedModel] = {}  # by their real folders: a model has one, whatever its names
        self._taken_mb: dict[ShelvedModel, float] = {}  # by the loaded ones
        self.own = self._shelve(own, language)
        """The model of the server's own language."""
        for folder in installed_folders(models_dir):
            self.find(language_of(folder))
        self.loads = 0
        """Models loaded so far."""
        self.evictions = 0
        """Models unloaded so far to make room."""

    def __iter__(self) -> Iterator[ShelvedModel]:
        return iter(tuple(self._models.values()))

    # ── which there are ──────────────────────────────────────────────────────────────────────────────────────────

    def find(self, language: str) -> ShelvedModel | None:
        """The model of a language (primary subtag, lower case); None: none is installed."""
        if language == self.own.language:
            return self.own
        if not _LANGUAGE.fullmatch(language):
            return None
        folder = folder_of(self._models_dir, language)
        known = self._models.get(folder.resolve())
        if known is not None and known.engine is not None:
            return known
        if not is_model(folder):
            return None
        return known or self._shelve(folder)

    @property
    def admits(self) -> bool:
        """Whether any loaded model can be used now."""
        return any(model.engine is not None and model.breaker.admits for model in self)

    @property
    def in_service(self) -> list[ShelvedModel]:
        """The server's own model, those that are loaded, and those that fail."""
        return [model for model in self if model is self.own or model.engine is not None or not model.breaker.admits]

    @property
    def memory_mb(self) -> float:
        """What the loaded models take, by estimate."""
        return sum(self._taken_mb.values())

    @property
    def loaded(self) -> int:
        """How many models are loaded."""
        return len(self._taken_mb)

    def statistics(self) -> list[ModelStatistics]:
        """Every known model, the server's own first."""
        return [model.statistics(self._taken_mb.get(model, 0.0)) for model in self]

    # ── who uses them ────────────────────────────────────────────────────────────────────────────────────────────

    async def lend(self, language: str, most: Callable[[int], float] = lambda limit: limit) -> Loan | NotLent:
        """The model of a language (primary subtag) for one stream, loaded if need be; close the loan in the end.

        `most`: of a model that has memory for so many recognisers, how many streams may use it, this one among them.
        Waits for a load for a bounded time. May be cancelled: the load goes on.
        """
        model = self.find(language)
        return NotLent(Unavailable.NOT_INSTALLED) if model is None else await self._lend(model, self._wait_s, most)

    async def lend_named(self, name: str | None) -> Loan:
        """The model in the folder of that name among the models, or the server's own (None), for one stream.

        Waits for a load until it is over. May be cancelled. Raises `ModelError`.
        """
        if name is None:
            return Loan(self.own)
        folder = self._models_dir / name
        model = self._models.get(folder.resolve()) or self._shelve(folder)
        lent = await self._lend(model, math.inf, lambda limit: limit)
        if isinstance(lent, NotLent):
            raise ModelError(f"model {name}: {model.error or lent.why.value.replace('_', ' ')}")
        return lent

    async def load_phrases(self, loan: Loan) -> None:
        """Loads what `loan`'s engine needs for phrases, if it is not loaded. Raises `ModelError`.

        May be cancelled, but for a load under way.
        """
        model = loan.model
        async with self._one_at_a_time:
            if model.has_phrases:
                return
            needs_mb = model.phrases_need_mb
            if not await self._make_room(model, needs_mb):
                raise ModelError("there is no memory for the graph that phrases need")
            await trio.to_thread.run_sync(loan.engine.load_phrases, abandon_on_cancel=False)
            model.has_phrases = True
            self._taken_mb[model] += needs_mb

    async def _lend(self, model: ShelvedModel, wait_s: float, most: Callable[[int], float]) -> Loan | NotLent:
        if not model.breaker.admits:
            return NotLent(Unavailable.FAILING, _retry_after_s(model))
        with ExitStack() as held:
            # It counts as used from now on: it must not be unloaded again before this stream's turn has come.
            loan = held.enter_context(Loan(model))
            if model.engine is None:
                problem: Unavailable | None = Unavailable.LOADING
                with trio.move_on_after(wait_s):
                    problem = await self._wait_loaded(model)
                if problem is not None:
                    return NotLent(problem, _retry_after_s(model))
            limit = loan.engine.recogniser_limit
            if limit is not None and model is not self.own and model.users > most(limit):
                return NotLent(Unavailable.ALL_TAKEN)
            held.pop_all()
            return loan

    # ── what operators ask for ───────────────────────────────────────────────────────────────────────────────────

    async def load(self, language: str) -> LoadOutcome:
        """Loads the model of a language (primary subtag) now, also one whose breaker is open because it failed before.

        May be cancelled: the load goes on.
        """
        model = self.find(language)
        if model is None:
            return LoadOutcome.NOT_INSTALLED
        if model.engine is not None:
            return LoadOutcome.ALREADY_LOADED
        model.breaker.reset()
        problem = await self._wait_loaded(model)
        if problem is None:
            return LoadOutcome.LOADED
        return LoadOutcome.NO_MEMORY if problem is Unavailable.NO_MEMORY else LoadOutcome.FAILED

    async def unload(self, language: str) -> UnloadOutcome:
        """Unloads the model of a language (primary subtag) unless it is in use. Waits for a load under way.

        May be cancelled while it waits.
        """
        model = self.find(language)
        if model is None:
            return UnloadOutcome.NOT_INSTALLED
        if model is self.own:
            return UnloadOutcome.OWN
        async with self._one_at_a_time:
            if model.users:
                return UnloadOutcome.IN_USE
            if model.engine is None:
                return UnloadOutcome.NOT_LOADED
            await self._take_down(model, "asked")
            return UnloadOutcome.UNLOADED

    # ── how they come and go ─────────────────────────────────────────────────────────────────────────────────────

    async def load_own(self) -> Engine:
        """Loads the model of the server's own language, before `run`. Raises what `load` does. May not be cancelled."""
        began = time.monotonic()
        load = partial(self._load_engine, self.own)
        # A server that starts has nobody to caption yet; others beside it, whom it is to replace or to help, do.
        engine = await trio.to_thread.run_sync(gently, load, abandon_on_cancel=False)
        self._place(self.own, engine, self.own.needs_mb, began)
        return engine

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Loads what is asked for, and tries what failed again. Until cancelled; a load under way is waited for."""
        async with trio.open_nursery() as self._nursery:
            for model in self:
                self._nursery.start_soon(model.breaker.keep_probing, partial(self._probe, model))
            task_status.started()
            await trio.sleep_forever()

    def _shelve(self, folder: Path, language: str | None = None) -> ShelvedModel:
        model = ShelvedModel(folder, self._make_breaker(folder.name), language)
        self._models[folder.resolve()] = model
        if self._nursery is not None:
            self._nursery.start_soon(model.breaker.keep_probing, partial(self._probe, model))
        return model

    async def _wait_loaded(self, model: ShelvedModel) -> Unavailable | None:
        """Waits for a load, the one under way or a new one; returns why it did not succeed, or None."""
        load = model.load
        if load is None:
            if self._nursery is None:
                raise RuntimeError("a model was asked for before the shelf was run")
            load = model.load = Load()
            self._nursery.start_soon(self._load, model, load)
        await load.over.wait()
        return load.problem

    async def _load(self, model: ShelvedModel, load: Load) -> None:
        async with self._one_at_a_time:
            load.problem = await self._try_to_load(model)
        model.load = None
        load.over.set()

    async def _try_to_load(self, model: ShelvedModel) -> Unavailable | None:
        needs_mb = model.needs_mb
        if not await self._make_room(model, needs_mb):
            return Unavailable.NO_MEMORY
        began = time.monotonic()
        try:
            engine = await trio.to_thread.run_sync(self._load_engine, model, abandon_on_cancel=False)
        except Exception as error:  # noqa: BLE001  (a boundary: one language that cannot be had ends no server)
            model.error = str(error) or repr(error)
            unforeseen = not isinstance(error, ModelError | EngineError)  # a fault of ours: with its traceback
            self._log.error("model_load_failed", model=model.name, error=model.error, exc_info=unforeseen)
            model.breaker.trip()
            return Unavailable.FAILING
        self._place(model, engine, needs_mb, began)
        return None

    def _place(self, model: ShelvedModel, engine: Engine, memory_mb: float, began: float) -> None:
        model.engine = engine
        model.error = ""
        model.used_at = trio.current_time()
        self._taken_mb[model] = memory_mb
        self.loads += 1
        self._log.info(
            "model_loaded",
            language=model.language,
            seconds=round(time.monotonic() - began, 3),
            memory_mb=round(memory_mb),
            allocator=allocator.in_use(),
            **engine.description,
        )
        self._on_loaded(model)

    async def _make_room(self, newcomer: ShelvedModel, needs_mb: float) -> bool:
        """Unloads those that were not used for longest until so much more fits; none if that would not be enough."""
        in_use = sum(mb for model, mb in self._taken_mb.items() if model.users or model is self.own)
        while in_use + needs_mb <= self._memory_mb:
            if self.memory_mb + needs_mb <= self._memory_mb:
                return True
            idle = [model for model in self._taken_mb if not model.users and model is not self.own]
            if not idle:  # one of them was lent meanwhile
                break
            self.evictions += 1
            await self._take_down(min(idle, key=lambda model: model.used_at), "evicted")
        self._log.warning(
            "model_memory_full", model=newcomer.name, needs_mb=round(needs_mb), in_use_mb=round(self.memory_mb)
        )
        return False

    async def _take_down(self, model: ShelvedModel, why: str) -> None:
        engine, model.engine = model.engine, None
        model.has_phrases = False
        memory_mb = self._taken_mb.pop(model)
        self._log.info("model_unloaded", model=model.name, why=why, memory_mb=round(memory_mb))
        if engine is not None:
            await trio.to_thread.run_sync(engine.unload)

    async def _probe(self, model: ShelvedModel) -> bool:
        """Whether a model whose breaker is open works again."""
        if model.engine is not None:
            with Loan(model) as loan:
                return await self._works(loan.engine)
        if not is_model(model.folder):  # who asks for it is told so
            return True
        return await self._wait_loaded(model) is not Unavailable.FAILING


def _retry_after_s(model: ShelvedModel) -> int:
    return SOON_S if model.breaker.admits else math.ceil(model.breaker.statistics().retry_after_s) + 1
