"""Which captions a client has taken already, through all of its connections."""

from __future__ import annotations

from collections import OrderedDict

from trio_stt.dialects.events import Transcript, Translation

REMEMBERED_CAPTIONS = 12_288
"""More than a resume can send again: 200 finals (the longest `history`), each with up to 50 translations."""


class TakenCaptions:
    """Tells doubles by segment and language. Remembers the latest `REMEMBERED_CAPTIONS`."""

    def __init__(self) -> None:
        self._taken: OrderedDict[tuple[str, str], None] = OrderedDict()

    def has_ended(self, caption: Transcript | Translation) -> bool:
        """Whether the final of this caption was taken."""
        return (caption.segment_id, caption.language) in self._taken

    def take(self, final: Transcript | Translation) -> None:
        """Remembers that `final` was taken."""
        self._taken[final.segment_id, final.language] = None
        if len(self._taken) > REMEMBERED_CAPTIONS:
            self._taken.popitem(last=False)
