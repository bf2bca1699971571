"""The captions of one voice on their way into the room: what is sent next, and under which segment's name.

No event loop, no room: `CaptionLine` is told what the server recognised, and gives what to publish. Unfinished text
is replaced by newer; final text waits, in order, until it is published.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from typing import TypeVar

from attrs import frozen

REMEMBERED_SEGMENTS = 200
"""So many of a voice's last segments are known: a translation, or a final that comes again, may be late."""


@frozen
class Caption:
    """A text for the room, in `language`. `segment_id`: the same for all texts that replace each other."""

    segment_id: str
    text: str
    is_final: bool
    language: str
    is_translation: bool


class CaptionLine:
    """One voice's captions. A segment that the server gave up is continued by the next one: none stays unfinished."""

    def __init__(self) -> None:
        self._finals: deque[Caption] = deque()
        self._unfinished: OrderedDict[str, Caption] = OrderedDict()  # by the language of translation, "" for none
        self._names: OrderedDict[str, str] = OrderedDict()  # the server's segment → ours
        self._translated: OrderedDict[tuple[str, str], str] = OrderedDict()  # the same for its translations
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._used: OrderedDict[str, None] = OrderedDict()  # ours that have their final
        self._open: str | None = None  # ours, whose unfinished text was given

    def heard(self, segment: str, text: str, language: str, *, is_final: bool) -> None:
        """The server recognised `text`; a final one ends the segment, once."""
        if (segment, "") in self._ended:
            return
        name = self._names.get(segment)
        if name is None or name in self._used:
            name = self._name(segment, self._open)
        if not is_final:
            if text:
                self._open = name
                self._unfinished[""] = Caption(name, text, False, language, False)
            return
        was_shown = self._open == name
        _remember(self._ended, (segment, ""), None)
        _remember(self._used, name, None)
        self._unfinished.pop("", None)
        if was_shown:
            self._open = None
        if text or was_shown:
            self._finals.append(Caption(name, text, True, language, False))

    def translated(self, segment: str, text: str, language: str, *, is_final: bool) -> None:
        """The server translated a segment's text into `language`."""
        if (segment, language) in self._ended:
            return
        name = self._translated.get((segment, language))
        name = name or f"{self._names.get(segment) or self._name(segment, None)}-{language}"
        if name in self._used:  # by the segment that went on with this one, which has its own translation
            name = f"{_new_name()}-{language}"
        _remember(self._translated, (segment, language), name)
        caption = Caption(name, text, is_final, language, True)
        if is_final:
            _remember(self._ended, (segment, language), None)
            _remember(self._used, name, None)
            self._unfinished.pop(language, None)
            self._finals.append(caption)
        else:
            self._unfinished[language] = caption

    def give_up(self) -> None:
        """No more comes of what is unfinished, such as when the server refuses the stream: it is taken back."""
        self._unfinished.clear()
        if self._open is not None:
            self._finals.append(Caption(self._open, "", True, "", False))
            _remember(self._used, self._open, None)
            self._open = None

    @property
    def next_final(self) -> Caption | None:
        """The oldest final that `published` was not called for."""
        return self._finals[0] if self._finals else None

    def published(self) -> None:
        """`next_final` is in the room."""
        self._finals.popleft()

    def take_unfinished(self) -> Caption | None:
        """The unfinished text that waits for longest; it will not be given again."""
        return self._unfinished.popitem(last=False)[1] if self._unfinished else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._finals and not self._unfinished

    def _name(self, segment: str, name: str | None) -> str:
        name = name or _new_name()
        self._names[segment] = name
        while len(self._names) > REMEMBERED_SEGMENTS:
            self._names.popitem(last=False)
        return name


def _new_name() -> str:
    return f"SG_{secrets.token_hex(6)}"


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _remember(seen: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    seen[key] = value
    while len(seen) > 4 * REMEMBERED_SEGMENTS:
        seen.popitem(last=False)
