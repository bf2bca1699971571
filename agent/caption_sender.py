"""Publishes one voice's captions: finals one after the other, of unfinished texts only the newest, not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from agent.caption_line import CaptionLine
from agent.room_post import RoomPost

SPACING_S = 0.2
"""Between two unfinished texts of one voice: more often nobody reads them."""

RETRY_S = 0.5

MOST_TRIES = 20
"""So often a final is tried while there is a connection; then it is taken for one that cannot be sent at all."""

Audience = Callable[[str], Sequence[str] | None]
"""Who gets translations into a language: identities, or None for all."""


class CaptionSender:
    """Sends what comes into `line` as the words of `identity`. `track_sid` may change: people publish anew."""

    def __init__(
        self, post: RoomPost, identity: str, track_sid: str, audience: Audience, log: structlog.stdlib.BoundLogger
    ) -> None:
        self.line = CaptionLine()
        self.track_sid = track_sid
        self.unsendable = 0
        self._post = post
        self._identity = identity
        self._audience = audience
        self._log = log
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._is_sending = False

    def notify(self) -> None:
        """Call when something came into `line`."""
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Sends until cancelled."""
        while True:
            await self._send_finals()
            caption = self.line.take_unfinished()
            self._is_sending = caption is not None
            if caption is None:
                self._news.clear()
                self._idle.set()
                await self._news.wait()
                continue
            to = self._audience(caption.language) if caption.is_translation else None
            if to is None or to:
                await self._post.caption(caption, self._identity, self.track_sid, to)
            await self._pause()

    @property
    def is_done(self) -> bool:
        """Whether all that came into `line` is in the room."""
        return self.line.is_empty and not self._is_sending

    async def done(self) -> None:
        """Until all that came into `line` is in the room. May be cancelled."""
        if not self.is_done:
            await self._idle.wait()

    async def _send_finals(self) -> None:
        tries = 0
        while (caption := self.line.next_final) is not None:
            to = self._audience(caption.language) if caption.is_translation else None
            nobody = to is not None and not to
            if nobody or await self._post.caption(caption, self._identity, self.track_sid, to):
                self.line.published()
                tries = 0
                continue
            await self._post.wait()
            tries += 1
            if tries == MOST_TRIES:
                self._log.error("final_cannot_be_sent", identity=self._identity)
                self.unsendable += 1
                self.line.published()
                tries = 0
            await asyncio.sleep(RETRY_S)

    async def _pause(self) -> None:
        until = asyncio.get_running_loop().time() + SPACING_S
        try:
            async with asyncio.timeout_at(until):
                while self.line.next_final is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
