"""Translations of a call's captions: who wants which, one for each segment and language, in each stream's own order.

A `CallTranslations` belongs to a session and never waits; what it wants done it brings to the instance's
`TranslationDesk`, which works in tasks of its own.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import attrs
import structlog
import trio
from attrs import define, field

from trio_stt.dialects.events import Failure, ServerEvent, StreamRequest, Transcript, Translation
from trio_stt.dialects.request import Refusal, primary_subtag, shown
from trio_stt.operations.metrics import Metrics
from trio_stt.translation.translator import TranslationUnavailableError, Translator

UNAVAILABLE = "translation_unavailable"
"""The error that a member is told once when a translation that it wants cannot be had."""

OVERLOADED = "this server has too much to translate"

REMEMBERED_SEGMENTS = 200
"""Segments whose translations are kept for late joiners: as many as there are finals in a session's history."""

NEW_WORDS = 3
"""An unfinished caption is translated again when so many more of its words have become stable."""

Task = Callable[[], Awaitable[None]]


class Reader(Protocol):
    """A member of the call."""

    request: StreamRequest

    def deliver(self, event: ServerEvent) -> None:
        """Queues `event` if this client asked for its kind. Never waits."""


def languages_of(request: StreamRequest, spoken: str) -> tuple[str, ...]:
    """The languages that a client of `request` wants captions in the language `spoken` translated into."""
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
    ) -> None:
        """`max_waiting`: tasks brought and not done; `partials`: unfinished captions are translated too."""
        self.translator = translator
        self.metrics = metrics
        self.partials = partials
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
                except Exception:  # noqa: BLE001  (a boundary: one call's fault is not another's)
                    self._log.exception("translation_task_failed")
                finally:
                    self._waiting -= 1
        finally:
            self._lanes.pop(lane).done.set()


@define
class _Lane:
    tasks: deque[Task]
    done: trio.Event = field(factory=trio.Event)


@define
class _Asked:
    """A final translation that was asked for. `for_all`: as it came; else for those who read it as history."""

    for_all: bool
    readers: list[Reader] = field(factory=list)
    translation: Translation | None = None


@define
class _Open:
    """An unfinished caption: its words as last heard, and how many of them were translated."""

    segment_id: str
    words: list[str] = field(factory=list)
    translated: int = 0
    busy: bool = False


class CallTranslations:
    """The translations of one call. Nothing here waits or has a checkpoint, but the tasks that are brought."""

    def __init__(self, desk: TranslationDesk, members: Callable[[], Iterable[Reader]]) -> None:
        """`members`: those of the call now."""
        self._desk = desk
        self._members = members
        self._asked: OrderedDict[str, dict[str, _Asked]] = OrderedDict()  # by segment, then language
        self._open: dict[str, _Open] = {}  # by stream
        self._told: set[str] = set()

    def joined(self, reader: Reader) -> None:
        """`reader` has come: the engines it may need are loaded."""
        if reader.request.translation:
            self._desk.prepare((reader.request.read_language, *reader.request.target))

    def follow(self, transcript: Transcript) -> None:
        """A caption was published: has it translated into what the members want, each language once."""
        if transcript.is_final:
            self._open.pop(transcript.stream_id, None)
            if transcript.text:
                self._follow_final(transcript)
        elif self._desk.partials:
            self._follow_partial(transcript)

    def recall(self, reader: Reader, final: Transcript) -> None:
        """Gives a late joiner the translations of a final of the history: those there are now, others when made."""
        missing = []
        for tag in languages_of(reader.request, final.language):
            known = self._asked_of(final).setdefault(tag, _Asked(for_all=False))
            if known.translation is not None:
                reader.deliver(attrs.evolve(known.translation, history=True))
            elif not known.for_all:
                if not known.readers:
                    missing.append(tag)
                known.readers.append(reader)
        self._bring(("history", reader.request.client_id, id(self)), final, missing)

    async def wait_done(self, stream_id: str) -> None:
        """Returns when all captions of that stream so far are translated, or given up. May be cancelled."""
        await self._desk.wait_done(stream_id)

    def _follow_final(self, final: Transcript) -> None:
        asked = self._asked_of(final)
        wanted = dict.fromkeys(
            tag for reader in self._members() for tag in languages_of(reader.request, final.language)
        )
        missing = [tag for tag in wanted if tag not in asked]
        asked.update({tag: _Asked(for_all=True) for tag in missing})
        self._bring(final.stream_id, final, missing)

    def _asked_of(self, final: Transcript) -> dict[str, _Asked]:
        asked = self._asked.setdefault(final.segment_id, {})
        while len(self._asked) > REMEMBERED_SEGMENTS:
            self._asked.popitem(last=False)
        return asked

    def _bring(self, lane: object, final: Transcript, tags: Sequence[str]) -> None:
        if tags and not self._desk.bring(lane, partial(self._translate_all, final, tags)):
            for tag in tags:
                self._give_up(final, tag, OVERLOADED)

    async def _translate_all(self, final: Transcript, tags: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for tag in tags:
                nursery.start_soon(self._translate, final, tag)

    async def _translate(self, final: Transcript, tag: str) -> None:
        try:
            translation = await self._translation(final, tag)
        except TranslationUnavailableError as error:
            self._give_up(final, tag, str(error))
            return
        asked = self._asked_of(final).get(tag)
        if asked is None or not translation.translation:
            return
        asked.translation = translation
        self._desk.metrics.translations.labels("final").inc()
        if asked.for_all:
            self._desk.metrics.translation_seconds.observe(max(0.0, time.time() - final.timestamp))
            self._deliver(translation, final.language)
        for reader in asked.readers:
            reader.deliver(attrs.evolve(translation, history=True))
        asked.readers.clear()

    async def _translation(self, caption: Transcript, tag: str) -> Translation:
        text = await self._desk.translator.translate(
            caption.text, primary_subtag(caption.language), primary_subtag(tag), remember=caption.is_final
        )
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

    def _deliver(self, translation: Translation, spoken: str) -> None:
        for reader in self._members():
            if translation.language in languages_of(reader.request, spoken):
                reader.deliver(translation)

    def _give_up(self, final: Transcript, tag: str, why: str) -> None:
        """Tells those who wanted it, once each in a session, that there are no translations."""
        self._desk.metrics.translations.labels("missing").inc()
        asked = self._asked_of(final).pop(tag, None)
        if asked is None:
            return
        losers = list(asked.readers)
        if asked.for_all:
            losers += [each for each in self._members() if tag in languages_of(each.request, final.language)]
        for reader in losers:
            if reader.request.client_id not in self._told:
                self._told.add(reader.request.client_id)
                reader.deliver(Failure(UNAVAILABLE, f"{why}; captions go on without translations", {"language": tag}))

    def _follow_partial(self, caption: Transcript) -> None:
        caption_open = self._open.get(caption.stream_id)
        if caption_open is None or caption_open.segment_id != caption.segment_id:
            caption_open = self._open[caption.stream_id] = _Open(caption.segment_id)
        words = caption.text.split()
        stable = _common_start(caption_open.words, words)
        caption_open.words = words
        tags = dict.fromkeys(
            tag
            for reader in self._members()
            if reader.request.partials
            for tag in languages_of(reader.request, caption.language)
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
                    self._desk.metrics.translations.labels("partial").inc()
                    self._deliver(translation, caption.language)
        finally:
            caption_open.busy = False


def _common_start(before: Sequence[str], now: Sequence[str]) -> list[str]:
    same = 0
    for one, other in zip(before, now, strict=False):
        if one != other:
            break
        same += 1
    return list(now[:same])
