"""The last finals of a call and their translations, for those who join late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

import attrs
from attrs import define, field

from trio_stt.dialects.events import Transcript, Translation

HISTORY_FINALS: Final = 200
"""Finals that are remembered: the most that `history` may ask for."""


@define
class _Remembered:
    final: Transcript
    translations: dict[str, Translation] = field(factory=dict)
    """By language."""

    def __iter__(self) -> Iterator[Transcript | Translation]:
        yield self.final
        yield from self.translations.values()


class History:
    """Finals with text, oldest first, each with its translations: one into each language."""

    def __init__(self) -> None:
        self._finals: OrderedDict[str, _Remembered] = OrderedDict()  # by segment

    def add(self, event: Transcript | Translation) -> None:
        """Remembers a final, or a translation of one that is remembered."""
        if isinstance(event, Translation):
            remembered = self._finals.get(event.segment_id)
            if remembered is not None:
                remembered.translations[event.language] = event
        elif event.text:
            self._finals[event.segment_id] = _Remembered(event)
            if len(self._finals) > HISTORY_FINALS:
                self._finals.popitem(last=False)

    def has_translation(self, segment_id: str, language: str) -> bool:
        """Whether a final's translation into that language is remembered."""
        remembered = self._finals.get(segment_id)
        return remembered is not None and language in remembered.translations

    def recent(self, count: int, *, besides: str, among: Iterable[str] | None = None) -> list[Transcript | Translation]:
        """The last `count` finals of others than the client `besides`, in order, marked as history.

        Each is followed by its translations. `among`: only these segments.
        """
        wanted = None if among is None else set(among)
        fitting = [
            remembered
            for segment_id, remembered in self._finals.items()
            if remembered.final.client_id != besides and (wanted is None or segment_id in wanted)
        ]
        fitting.sort(key=lambda remembered: remembered.final.timestamp)  # an outage of the bus brings some late
        last = fitting[-count:] if count else []
        return [attrs.evolve(event, history=True) for remembered in last for event in remembered]
