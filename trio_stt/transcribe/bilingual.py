"""Brings finals and their translations together: a translation is a message of its own that comes a little later."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from attrs import define, field, frozen

from trio_stt.dialects.events import Transcript, Translation
from trio_stt.dialects.request import primary_subtag

PATIENCE_S = 5.0
"""A final whose translation does not come is written without it after so long."""


@frozen
class Captioned:
    """An utterance and its translations by language, as far as there are any."""

    transcript: Transcript
    translations: Mapping[str, str] = field(factory=dict)


@define
class _Waiting:
    transcript: Transcript
    missing: set[str]
    since_s: float
    translations: dict[str, str] = field(factory=dict)


class Bilingual:
    """Holds each final until its translations are there, in the order of the finals."""

    def __init__(self, languages: Sequence[str]) -> None:
        """`languages`: those that were asked for."""
        self._languages = languages
        self._waiting: deque[_Waiting] = deque()
        self._broken = False

    def final(self, transcript: Transcript, now_s: float) -> None:
        """A final has come."""
        own = primary_subtag(transcript.language)
        wanted = {tag for tag in self._languages if primary_subtag(tag) != own}
        comes = transcript.is_final and transcript.text and not self._broken
        self._waiting.append(_Waiting(transcript, wanted if comes else set(), now_s))

    def translation(self, translation: Translation) -> None:
        """A final's translation has come. Those of one stream come in order: for earlier ones none will follow."""
        self._broken = False
        for each in self._waiting:
            if each.transcript.segment_id == translation.segment_id:
                each.translations[translation.language] = translation.translation
                each.missing.discard(translation.language)
                return
            if each.transcript.stream_id == translation.stream_id:
                each.missing.discard(translation.language)

    def give_up(self) -> None:
        """Nothing that is missing now will come, nor what is said next until a translation shows otherwise."""
        self._broken = True
        for each in self._waiting:
            each.missing.clear()

    def wait_anew(self, now_s: float) -> None:
        """There was no connection for a while: what is missing may come from now on."""
        for each in self._waiting:
            each.since_s = now_s

    def ready(self, now_s: float) -> list[Captioned]:
        """What can be written now, in order; each once."""
        ready = []
        while self._waiting:
            first = self._waiting[0]
            if first.missing and now_s - first.since_s < PATIENCE_S:
                break
            ready.append(Captioned(first.transcript, first.translations))
            self._waiting.popleft()
        return ready
