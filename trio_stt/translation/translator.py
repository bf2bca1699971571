"""Translates off the event loop: finds the engines for a pair, remembers results, and survives slow or dead engines."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import TypeVar

import structlog
import trio

from trio_stt.operations.logs import without_message
from trio_stt.recognition.breaker import Breaker
from trio_stt.translation.engine import TranslationEngine, TranslationError
from trio_stt.translation.writing import write

PIVOT = "en"
"""Where no engine translates a pair directly, this language stands between."""

PROBE_TEXT = {"en": "Good morning.", "pt": "Bom dia."}
"""What a failed engine is tried with, by source language; others get the English words, which they pass through."""


class TranslationUnavailableError(Exception):
    """There is no translation: nobody translates that pair, or who does is failing. The message is for clients."""


T = TypeVar("T")


class _Station:
    """An engine with what protects others from it."""

    def __init__(self, engine: TranslationEngine, breaker: Breaker, threads: int) -> None:
        self.engine = engine
        self.breaker = breaker
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, call: Callable[[], T]) -> T:
        """Calls the engine in a thread. Raises `TranslationError`, whatever the engine raised.

        Cancelled, it leaves the thread behind; until that returns it still counts, so that a hung engine is not called
        again and again.
        """

        def guarded() -> T:
            try:
                return call()
            except TranslationError:
                raise
            except Exception as error:  # a boundary: a library's fault is not the call's
                raise TranslationError(f"{self.engine.name} failed: {without_message(error)}") from error

        return await trio.to_thread.run_sync(guarded, limiter=self._limiter, abandon_on_cancel=True)

    def serves(self, source: str, target: str) -> bool:
        pairs = self.engine.pairs
        return pairs is None or (source, target) in pairs

    def produces(self, target: str) -> bool:
        pairs = self.engine.pairs
        return pairs is None or any(into == target for _, into in pairs)


class Translator:
    """All engines of an instance, earlier ones preferred. Languages are primary subtags."""

    def __init__(
        self,
        engines: Sequence[TranslationEngine],
        make_breaker: Callable[[str], Breaker],
        *,
        timeout_s: float,
        threads: int,
        cache_size: int,
        on_cache_hit: Callable[[], None] = lambda: None,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`timeout_s`: for one call of an engine, waiting for a thread included; `threads`: for each engine.

        `cache_size`: translations that are remembered.
        """
        self._stations = [_Station(engine, make_breaker(engine.name), threads) for engine in engines]
        self._timeout_s = timeout_s
        self._cache: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        self._cache_size = cache_size
        self._under_way: dict[tuple[str, str, str], trio.Event] = {}
        self._on_cache_hit = on_cache_hit
        self._log = log

    @property
    def breakers(self) -> list[Breaker]:
        """One for each engine."""
        return [station.breaker for station in self._stations]

    @property
    def engines(self) -> list[TranslationEngine]:
        """As they were given."""
        return [station.engine for station in self._stations]

    def produces(self, target: str) -> bool:
        """Whether anything can be translated into `target`."""
        return any(station.produces(target) for station in self._stations)

    def serves(self, source: str, target: str) -> bool:
        """Whether there is a way from `source` to `target`, be its engines failing or not."""
        return bool(self._ways(source, target))

    async def run(self) -> None:
        """Tries failed engines again, until cancelled."""
        async with trio.open_nursery() as nursery:
            for station in self._stations:
                nursery.start_soon(station.breaker.keep_probing, partial(self._probe, station))

    async def prepare(self, targets: Sequence[str]) -> None:
        """Loads the engines that translate into `targets`, so that the first caption need not wait.

        May be cancelled.
        """
        for station in self._stations:
            if any(station.produces(target) for target in targets) and station.breaker.admits:
                try:
                    await station.run(station.engine.load)
                except TranslationError as error:
                    self._log.warning("translation_engine_not_loaded", engine=station.engine.name, error=str(error))

    async def translate(self, text: str, source: str, target: str, *, remember: bool = True) -> str:
        """`text`, as recognised in `source`, in `target`. Raises `TranslationUnavailableError`.

        Who asks for what is being translated waits for that. May be cancelled; a thread that an engine holds is left
        to it until it returns.
        """
        key = (text, source, target)
        while True:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                self._on_cache_hit()
                return known
            if key not in self._under_way:
                break
            await self._under_way[key].wait()
        self._under_way[key] = trio.Event()
        try:
            translated = await self._by_some_way(text, source, target)
        finally:
            self._under_way.pop(key).set()
        if remember:
            self._cache[key] = translated
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return translated

    async def _by_some_way(self, text: str, source: str, target: str) -> str:
        ways = self._ways(source, target)
        if not ways:
            raise TranslationUnavailableError(f"this server does not translate from {source} to {target}")
        for way in ways:
            if all(station.breaker.admits for station, _, _ in way):
                translated = await self._follow(way, text)
                if translated is not None:
                    return translated
        raise TranslationUnavailableError(f"translation from {source} to {target} is failing")

    def _ways(self, source: str, target: str) -> list[list[tuple[_Station, str, str]]]:
        """The ways from `source` to `target`, best first: each a list of engines and what they translate."""
        direct = [[(station, source, target)] for station in self._stations if station.serves(source, target)]
        if PIVOT in (source, target):
            return direct
        first = [(station, source, PIVOT) for station in self._stations if station.serves(source, PIVOT)]
        second = [(station, PIVOT, target) for station in self._stations if station.serves(PIVOT, target)]
        return direct + [list(pair) for pair in product(first, second)]

    async def _follow(self, way: list[tuple[_Station, str, str]], text: str) -> str | None:
        """The translation; None if an engine failed."""
        recognised = True
        for station, source, target in way:
            call = partial(_write_and_translate if recognised else _translate, station.engine, text, source, target)
            recognised = False
            translated = await self._call(station, call)
            if translated is None:
                return None
            text = translated
        return text

    async def _call(self, station: _Station, call: Callable[[], str]) -> str | None:
        error = f"no answer within {self._timeout_s:g} s"
        with trio.move_on_after(self._timeout_s):
            try:
                translated = await station.run(call)
            except TranslationError as failure:
                error = str(failure)
            else:
                station.breaker.record(ok=True)
                return translated
        station.breaker.record(ok=False)
        self._log.warning("translation_failed", engine=station.engine.name, error=error)
        return None

    async def _probe(self, station: _Station) -> bool:
        pairs = station.engine.pairs
        source, target = min(pairs) if pairs else (PIVOT, "pt")

        def try_it() -> str:
            station.engine.load()
            return station.engine.translate(PROBE_TEXT.get(source, PROBE_TEXT[PIVOT]), source, target)

        with trio.move_on_after(self._timeout_s):
            try:
                await station.run(try_it)
            except TranslationError as error:
                self._log.warning("translation_probe_failed", engine=station.engine.name, error=str(error))
            else:
                return True
        return False


def _translate(engine: TranslationEngine, text: str, source: str, target: str) -> str:
    return engine.translate(text, source, target)


def _write_and_translate(engine: TranslationEngine, text: str, source: str, target: str) -> str:
    return engine.translate(write(text, source), source, target)
