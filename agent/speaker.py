"""One speaker in the room: a sound, the voice that it is on the server, and the captions that come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from livekit import rtc

from agent.caption_sender import Audience, CaptionSender
from agent.heard_track import HeardTrack
from agent.room_post import RoomPost
from agent.settings import AgentSettings
from agent.voice import Voice
from trio_stt.dialects.events import Transcript, Translation

LINGER_S: Final = 5.0
"""So long translations of what was said last may come."""


class Speaker:
    """Captions what is said in the tracks that are attached to it, one at a time, from now on until `close`.

    `begins` is called when it is heard after silence.
    """

    def __init__(
        self,
        settings: AgentSettings,
        call: str,
        client: str,
        identity: str,
        language: str,
        post: RoomPost,
        audience: Audience,
        begins: Callable[[], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.identity = identity
        self.track_sid = ""
        """That of the attached track; empty: there is none."""
        self.is_heard = True
        """False: what is said now is not captioned."""
        self.voice = Voice(settings, call, client, language, self._final, begins, log, self._given_up)
        self._sender = CaptionSender(post, identity, "", audience, log)
        self._log = log
        self._heard: HeardTrack | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._past_drops = 0
        self._done_since: float | None = None
        self._voice_task = asyncio.create_task(self.voice.run())
        self._sender_task = asyncio.create_task(self._sender.run())

    # ── its tracks ───────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, track: rtc.Track, track_sid: str) -> None:
        """It is heard in this track from now on, and in no other."""
        self._let_go()
        self.track_sid = self._sender.track_sid = track_sid
        self._heard = HeardTrack(track, self._hear, self._log)

    def detach(self, track_sid: str) -> None:
        """That track is gone, if it is the one that is attached."""
        if track_sid == self.track_sid:
            self._let_go()
            self.voice.leave()

    def mute(self) -> None:
        """Nothing is said there until more sound comes."""
        self.voice.pause()

    @property
    def drops(self) -> int:
        """Frames of sound that were lost because we did not read them in time."""
        return self._past_drops + (self._heard.drops if self._heard is not None else 0)

    @property
    def is_done(self) -> bool:
        """Whether it has no track, and all that it said is in the room: ask now and then."""
        if self.track_sid or self._closing or not self.voice.is_silent or not self._sender.is_done:
            self._done_since = None
            return False
        now = asyncio.get_running_loop().time()
        self._done_since = now if self._done_since is None else self._done_since
        return now - self._done_since >= LINGER_S

    def check(self) -> None:
        """Raises what captioning it failed with, which nobody foresaw: call now and then."""
        for task in (self._voice_task, self._sender_task):
            if task.done() and not task.cancelled() and (fault := task.exception()) is not None:
                raise fault

    def _hear(self, samples: bytes) -> None:
        if self.is_heard:
            self.voice.hear(samples)

    def _let_go(self) -> None:
        if self._heard is not None:
            self._past_drops += self._heard.drops
            task = asyncio.create_task(self._heard.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._heard, self.track_sid = None, ""

    # ── its captions ─────────────────────────────────────────────────────────────────────────────────────────────

    def unfinished(self, caption: Transcript) -> None:
        """The server heard this, and may yet hear otherwise."""
        self._sender.line.heard(caption.segment_id, caption.text, caption.language, is_final=False)
        self._sender.notify()

    def translated(self, caption: Translation) -> None:
        """The server translated this."""
        self._sender.line.translated(
            caption.segment_id, caption.translation, caption.language, is_final=caption.is_final
        )
        self._sender.notify()

    def _final(self, caption: Transcript) -> None:
        self._sender.line.heard(caption.segment_id, caption.text, caption.language, is_final=True)
        self._sender.notify()

    def _given_up(self) -> None:
        self._sender.line.give_up()
        self._sender.notify()

    # ── its end ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self, within_s: float = 0.0) -> None:
        """Ends it; what it said last is waited for, and sent, within that time. Not to be cancelled."""
        self._let_go()
        if within_s:
            self.voice.end()
            try:
                async with asyncio.timeout(within_s):
                    await asyncio.wait([self._voice_task])
                    await self._sender.done()
            except TimeoutError:
                self._log.warning("last_words_not_sent", client=self.voice.client)
        tasks = [self._voice_task, self._sender_task]
        for task in tasks:
            task.cancel()
        await asyncio.wait([*tasks, *self._closing])
