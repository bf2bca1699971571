"""Where a stream's captions go."""

from __future__ import annotations

from typing import Protocol

from trio_stt.dialects.events import Transcript


class CaptionSink(Protocol):
    """Takes the captions of one stream, in order."""

    async def publish(self, caption: Transcript) -> None:
        """Takes the next caption. Whatever happens, a final is dealt with once."""

    def publish_now(self, caption: Transcript) -> None:
        """The same at once, for a stream that cannot go on."""
