"""Translations of a call's captions: who wants which, one for each segment and language, in each stream's own order.

A `CallTranslations` belongs to a session and never waits; what it wants done it brings to the instance's
`TranslationDesk`, which works in tasks of its own.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import attrs
import structlog
import trio
from attrs import define, field

from trio_stt.dialects.events import Failure, ServerEvent, StreamRequest, Transcript, Translation
from trio_stt.dialects.request import Refusal, primary_subtag, shown
from trio_stt.operations.logs import without_message
from trio_stt.operations.metrics import Metrics
from trio_stt.sessions.history import History
from trio_stt.translation.translator import TranslationUnavailableError, Translator

UNAVAILABLE = "translation_unavailable"
"""The error that a member is told once when a translation that it wants cannot be had."""

OVERLOADED = "this server has too much to translate"

FAULTY = "translation has failed"

TAKEOVER_SPREAD_S = 1.0
"""Instances that take over a translation which has not come do so within this time, not all at once."""

NEW_WORDS = 3
"""An unfinished caption is translated again when so many more of its words have become stable."""

Task = Callable[[], Awaitable[None]]

Publish = Callable[[Translation], Awaitable[None]]
"""Brings a translation to everybody who wants it."""


class Reader(Protocol):
    """A member of the call."""

    @property
    def request(self) -> StreamRequest:
        """Its settings now in force."""

    def deliver(self, event: ServerEvent) -> None:
        """Queues `event` if this client asked for its kind. Never waits."""


ReaderT = TypeVar("ReaderT", bound=Reader)


def languages_of(request: StreamRequest, *, spoken: str = "") -> tuple[str, ...]:
    """The languages that a client of `request` wants captions translated into, if they are in the language `spoken`."""
    if not request.translation:
        return ()
    asked = dict.fromkeys((request.read_language, *request.target))
    return tuple(tag for tag in asked if primary_subtag(tag) != primary_subtag(spoken))


def translation_refusal(request: StreamRequest, translator: Translator) -> Refusal | None:
    """Why the translations that `request` asks for can never be had here, or None."""
    if not request.translation:
        return None
    if not translator.engines:
        return Refusal(400, "not_available", "translation=true is not available on this server", "translation")
    own = primary_subtag(request.language)
    for name, tags in (("read_language", (request.read_language,)), ("target", request.target)):
        for tag in tags:
            into = primary_subtag(tag)
            if into != own and not translator.produces(into):
                message = (
                    f"{name} is {shown(tag)}, into which this server cannot translate; "
                    f"install a model with: trio-stt models install en-{into}"
                )
                return Refusal(400, "not_available", message, name)
    return None


class TranslationDesk:
    """Does what is brought, one task after another in each lane, all lanes at once; up to a bound."""

    def __init__(
        self,
        translator: Translator,
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
        *,
        max_waiting: int,
        partials: bool = False,
        takeover_s: float = 7.0,
    ) -> None:
        """`max_waiting`: tasks brought and not done; `partials`: unfinished captions are translated too.

        `takeover_s`: a translation of what was spoken on another instance is made here if it has not come so long after
        its final; longer than an instance that works may take.
        """
        self.translator = translator
        self.metrics = metrics
        self.partials = partials
        self.takeover_s = takeover_s
        self._log = log
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lanes: dict[object, _Lane] = {}
        self._nursery: trio.Nursery | None = None
        self._prepared: set[str] = set()

    @property
    def waiting(self) -> int:
        """Tasks that were brought and are not done."""
        return self._waiting

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Works until cancelled; what is brought before or after is refused."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await self.translator.run()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def bring(self, lane: object, task: Task) -> bool:
        """Has `task` done after all that was brought for `lane` before. False: too much waits. Returns at once."""
        if self._nursery is None or self._waiting >= self._max_waiting:
            return False
        self._waiting += 1
        if lane in self._lanes:
            self._lanes[lane].tasks.append(task)
        else:
            self._lanes[lane] = _Lane(deque([task]))
            self._nursery.start_soon(self._work, lane)
        return True

    def start(self, task: Task) -> bool:
        """Starts what only waits, and brings work later if need be. False: this does not run."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(task)
        return True

    def log_fault(self, error: Exception) -> None:
        """A translation failed for a fault of ours."""
        self._log.error("translation_task_failed", error=without_message(error))

    def prepare(self, languages: Iterable[str]) -> None:
        """Somebody wants translations into these: their engines are loaded. Returns at once."""
        new = {primary_subtag(tag) for tag in languages} - self._prepared
        if new and self._nursery is not None:
            self._prepared |= new
            self._nursery.start_soon(self.translator.prepare, sorted(new))

    async def wait_done(self, lane: object) -> None:
        """Returns when nothing waits in `lane`. May be cancelled."""
        while lane in self._lanes:
            await self._lanes[lane].done.wait()

    async def _work(self, lane: object) -> None:
        tasks = self._lanes[lane].tasks
        try:
            while tasks:
                task = tasks.popleft()
                try:
                    await task()
                except Exception as error:  # noqa: BLE001  (a boundary: one call's fault is not another's)
                    self.log_fault(error)
                finally:
                    self._waiting -= 1
        finally:
            self._lanes.pop(lane).done.set()


@define
class _Lane:
    tasks: deque[Task]
    done: trio.Event = field(factory=trio.Event)


@define
class _Open:
    """An unfinished caption: its words as last heard, and how many of them were translated."""

    segment_id: str
    words: list[str] = field(factory=list)
    translated: int = 0
    busy: bool = False


class TranslatedCall(Protocol[ReaderT]):
    """The call that is translated."""

    history: History

    def __iter__(self) -> Iterator[ReaderT]:
        """Its members on this instance."""

    @property
    def wanted_languages(self) -> frozenset[str]:
        """Languages that anybody wants translations into, here or elsewhere."""

    async def publish_translation(self, translation: Translation) -> None:
        """Brings a translation of what was spoken elsewhere to everybody. May be cancelled."""

    def recall(self, translation: Translation, readers: Sequence[ReaderT]) -> None:
        """Remembers a translation that only these late joiners asked for, and sends it to them."""


class CallTranslations(Generic[ReaderT]):
    """The translations of one call. Nothing here waits or has a checkpoint, but the tasks that are brought.

    The instance where a final was spoken translates it for everybody. Another that has heard nothing of a translation
    for the desk's `takeover_s` makes it itself.
    """

    def __init__(self, desk: TranslationDesk, call: TranslatedCall[ReaderT]) -> None:
        self._desk = desk
        self._call = call
        self._coming: set[tuple[str, str]] = set()  # segment and language: everybody will be told
        self._awaited: deque[tuple[float, Transcript, Sequence[str]]] = deque()  # until when, from elsewhere
        self._takeover_s = desk.takeover_s + random.uniform(0, TAKEOVER_SPREAD_S)
        self._late: dict[tuple[str, str], list[ReaderT]] = {}  # those who wait for it as history
        self._open: dict[str, _Open] = {}  # by stream
        self._told: set[str] = set()

    def prepare(self, languages: Iterable[str]) -> None:
        """Somebody wants translations into these: their engines are loaded. Returns at once."""
        self._desk.prepare(languages)

    def delivered(self, event: Transcript | Translation) -> None:
        """The members were told this final, or this translation of one."""
        if isinstance(event, Transcript):
            self._open.pop(event.stream_id, None)
        else:
            self._coming.discard((event.segment_id, event.language))

    def translate(self, final: Transcript, publish: Publish) -> None:
        """A final was spoken here: has it translated once into each language that anybody wants."""
        tags = sorted(
            tag for tag in self._call.wanted_languages if primary_subtag(tag) != primary_subtag(final.language)
        )
        if final.text:
            self._expect_all(final, tags)
            self._bring(final.stream_id, final, tags, publish)

    def expect(self, final: Transcript) -> None:
        """A final was spoken elsewhere: what members here want is made here unless it comes in time."""
        tags = [
            tag for tag in self._wanted_here(final) if not self._call.history.has_translation(final.segment_id, tag)
        ]
        if final.text and tags and (self._awaited or self._desk.start(self._take_over)):
            self._expect_all(final, tags)
            self._awaited.append((trio.current_time() + self._takeover_s, final, tags))

    def recall(self, reader: ReaderT, finals: Sequence[Transcript]) -> None:
        """Has made for a late joiner what the history lacks of the translations of finals."""
        missing: list[tuple[Transcript, str]] = []
        for final in finals:
            for tag in languages_of(reader.request, spoken=final.language):
                name = final.segment_id, tag
                if name in self._coming or self._call.history.has_translation(*name):
                    continue
                if name not in self._late:
                    missing.append((final, tag))
                self._late.setdefault(name, []).append(reader)
        if missing and not self._desk.bring(("history", id(self)), partial(self._make_for_late, missing)):
            for final, tag in missing:
                self._give_up(final, tag, OVERLOADED)

    async def wait_done(self, stream_id: str) -> None:
        """Returns when all captions of that stream so far are translated, or given up. May be cancelled."""
        await self._desk.wait_done(stream_id)

    def _wanted_here(self, caption: Transcript) -> list[str]:
        return list(
            dict.fromkeys(tag for reader in self._call for tag in languages_of(reader.request, spoken=caption.language))
        )

    def _expect_all(self, final: Transcript, tags: Iterable[str]) -> None:
        self._coming.update((final.segment_id, tag) for tag in tags)

    async def _take_over(self) -> None:
        """Brings what does not come, in order. Of several instances one is first, and the others then have it."""
        await trio.lowlevel.checkpoint()
        while self._awaited:
            deadline, final, tags = self._awaited[0]
            await trio.sleep_until(deadline)
            missing = [tag for tag in tags if (final.segment_id, tag) in self._coming]
            self._bring(("elsewhere", final.stream_id), final, missing, self._call.publish_translation)
            self._awaited.popleft()

    def _bring(self, lane: object, final: Transcript, tags: Sequence[str], publish: Publish) -> None:
        async def make_all() -> None:
            async with trio.open_nursery() as nursery:
                for tag in tags:
                    nursery.start_soon(self._make, final, tag, publish)

        if tags and not self._desk.bring(lane, make_all):
            for tag in tags:
                self._give_up(final, tag, OVERLOADED)

    async def _make(self, final: Transcript, tag: str, publish: Publish) -> None:
        """Translates for everybody."""
        translation = await self._translation_or_none(final, tag)
        if translation is not None:
            self._desk.metrics.translation_seconds.observe(max(0.0, time.time() - final.timestamp))
            await publish(translation)  # `delivered` hears of it, now or when another instance's comes

    async def _make_for_late(self, missing: Sequence[tuple[Transcript, str]]) -> None:
        for final, tag in missing:
            translation = await self._translation_or_none(final, tag)
            readers = self._late.pop((final.segment_id, tag), [])
            if translation is not None:
                self._call.recall(translation, readers)

    async def _translation_or_none(self, final: Transcript, tag: str) -> Translation | None:
        """None: there is none, and who waits for it was told if that is a failure."""
        try:
            translation = await self._translation(final, tag)
        except TranslationUnavailableError as error:
            self._give_up(final, tag, str(error))
            return None
        except Exception as error:  # noqa: BLE001  (a boundary: one language's fault is not another's)
            self._desk.log_fault(error)
            self._give_up(final, tag, FAULTY)
            return None
        if not translation.translation:
            self._coming.discard((final.segment_id, tag))
            return None
        return translation

    async def _translation(self, caption: Transcript, tag: str) -> Translation:
        text = await self._desk.translator.translate(
            caption.text, primary_subtag(caption.language), primary_subtag(tag), remember=caption.is_final
        )
        if text.strip():
            self._desk.metrics.translations.labels("final" if caption.is_final else "partial").inc()
        return Translation(
            session_id=caption.session_id,
            client_id=caption.client_id,
            stream_id=caption.stream_id,
            segment_id=caption.segment_id,
            translation=text.strip(),
            is_final=caption.is_final,
            source_language=caption.language,
            language=tag,
            timestamp=time.time(),
        )

    def _give_up(self, final: Transcript, tag: str, why: str) -> None:
        """Tells those here who wanted it, once each in a session, that there are no translations."""
        self._desk.metrics.translations.labels("missing").inc()
        losers = self._late.pop((final.segment_id, tag), [])
        if (final.segment_id, tag) in self._coming:
            self._coming.discard((final.segment_id, tag))
            losers += [reader for reader in self._call if tag in languages_of(reader.request, spoken=final.language)]
        for reader in losers:
            if reader.request.client_id not in self._told:
                self._told.add(reader.request.client_id)
                reader.deliver(Failure(UNAVAILABLE, f"{why}; captions go on without translations", {"language": tag}))

    def follow_partial(self, caption: Transcript) -> None:
        """An unfinished caption was told: has it translated for members here, as far as it has become stable."""
        if not self._desk.partials:
            return
        caption_open = self._open.get(caption.stream_id)
        if caption_open is None or caption_open.segment_id != caption.segment_id:
            caption_open = self._open[caption.stream_id] = _Open(caption.segment_id)
        words = caption.text.split()
        stable = _common_start(caption_open.words, words)
        caption_open.words = words
        tags = dict.fromkeys(
            tag
            for reader in self._call
            if reader.request.partials
            for tag in languages_of(reader.request, spoken=caption.language)
        )
        if tags and len(stable) >= caption_open.translated + NEW_WORDS and not caption_open.busy:
            caption_open.translated = len(stable)
            spoken = attrs.evolve(caption, text=" ".join(stable))
            task = partial(self._translate_partial, spoken, list(tags), caption_open)
            caption_open.busy = self._desk.bring(caption.stream_id, task)

    async def _translate_partial(self, caption: Transcript, tags: Sequence[str], caption_open: _Open) -> None:
        try:
            for tag in tags:
                if self._open.get(caption.stream_id) is not caption_open:
                    return  # its final has come
                try:
                    translation = await self._translation(caption, tag)
                except TranslationUnavailableError:
                    return  # the final's failure is told
                if self._open.get(caption.stream_id) is caption_open and translation.translation:
                    for reader in self._call:
                        reader.deliver(translation)
        finally:
            caption_open.busy = False


def _common_start(before: Sequence[str], now: Sequence[str]) -> list[str]:
    same = 0
    for one, other in zip(before, now, strict=False):
        if one != other:
            break
        same += 1
    return list(now[:same])
