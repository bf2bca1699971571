"""Who in the room reads translations, and into which languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.control import is_language
from trio_stt.dialects.request import MAX_TARGETS

READING: Final = ("captions_language", "language")
"""The participant attributes that say into which language its captions are to be translated; the first that is set."""

SPEAKING: Final = "spoken_language"
"""The participant attribute that says what it speaks; without it, LANGUAGE."""


class Audience:
    """`for_all`: languages into which captions are translated for everybody."""

    def __init__(self, for_all: tuple[str, ...] = ()) -> None:
        self.for_all = for_all
        self._read: dict[str, str] = {}

    def see(self, identity: str, attributes: Mapping[str, str]) -> None:
        """A participant is there, with these attributes."""
        language = next((attributes[name] for name in READING if attributes.get(name)), "")
        if is_language(language):
            self._read[identity] = language
        else:
            self._read.pop(identity, None)

    def forget(self, identity: str) -> None:
        """A participant is gone."""
        self._read.pop(identity, None)

    @property
    def languages(self) -> tuple[str, ...]:
        """All that are wanted, each once, those for everybody first; no more than the server translates into."""
        wanted: dict[str, str] = {}
        for language in (*self.for_all, *self._read.values()):
            wanted.setdefault(language.lower(), language)
        return tuple(wanted.values())[:MAX_TARGETS]

    def of(self, language: str) -> list[str] | None:
        """Who gets translations into `language`: identities, or None for everybody."""
        tag = language.lower()
        if any(each.lower() == tag for each in self.for_all):
            return None
        return [identity for identity, read in self._read.items() if read.lower() == tag]
