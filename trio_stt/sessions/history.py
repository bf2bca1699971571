"""The last finals of a call and their translations, for those who join late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Final

import attrs

from trio_stt.dialects.events import Transcript, Translation

HISTORY_FINALS: Final = 200
"""Finals that are remembered: the most that `history` may ask for."""


class History:
    """Finals with text, oldest first, each with its translations."""

    def __init__(self) -> None:
        self._finals: OrderedDict[str, list[Transcript | Translation]] = OrderedDict()  # by segment

    def add(self, event: Transcript | Translation) -> None:
        """Remembers a final, or a translation of one that is remembered."""
        if isinstance(event, Translation):
            if event.segment_id in self._finals:
                self._finals[event.segment_id].append(event)
        elif event.text:
            self._finals[event.segment_id] = [event]
            if len(self._finals) > HISTORY_FINALS:
                self._finals.popitem(last=False)

    def recent(self, count: int, *, besides: str, among: Iterable[str] | None = None) -> list[Transcript | Translation]:
        """The last `count` finals of others than the client `besides`, in order, marked as history.

        `among`: only these segments.
        """
        wanted = None if among is None else set(among)
        fitting = (
            events
            for segment_id, events in reversed(self._finals.items())
            if events[0].client_id != besides and (wanted is None or segment_id in wanted)
        )
        newest_first = list(islice(fitting, count))
        return [attrs.evolve(event, history=True) for events in reversed(newest_first) for event in events]
