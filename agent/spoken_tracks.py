"""The agent's own sound in a room: a track for each voice and language that is spoken, its texts in order.

A track is published with its first sound and named `{identity}-{language}`. Texts wait in a bounded queue: who is
translated out loud for longer than he speaks loses what was not begun in time, never the order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from attrs import field, frozen
from livekit import rtc
from livekit.rtc.participant import PublishTrackError, UnpublishTrackError

from agent.unbroken import unbroken
from trio_stt.operations.logs import without_message

QUEUE_MS: Final = 300
"""Sound that the native library holds ahead: clearing it is what an interruption does last."""

FRAME_MS: Final = 50

MOST_TEXTS: Final = 16
"""So many wait for one track; then the oldest that may be left out is."""

WITHIN_S: Final = 8.0
"""A translation that was not begun so long after it came is left out: the talk has gone on meanwhile."""

PUBLISH_S: Final = 10.0
"""The longest that the LiveKit server may take to publish a track."""

CLOSE_S: Final = 2.0
"""The longest that it may take to take one back; the connection's end does so, too."""

Samples = npt.NDArray[np.float32]


class Speech(Protocol):
    """What speaks: `agent.tts.speech`."""

    def languages(self) -> frozenset[str]:
        """Those that have a voice, as tags in lower case."""
        ...

    async def say(
        self,
        text: str,
        language: str,
        voice: str | None,
        onto: Callable[[Samples, int], Awaitable[None]],
        *,
        begin_within_s: float | None = None,
    ) -> object:
        """Speaks into `onto`: mono samples from -1 to 1, and how many of them are a second. Returns how it went.

        An enum's member whose value says so, or the text itself: ``completed``; ``skipped`` where it could not begin
        within `begin_within_s`; and others.
        """
        ...


@frozen
class _Text:
    text: str = field(repr=False)
    voice: str | None
    done: Callable[[str], None]
    late_at: float | None
    """When it is left out unless it was begun; by the event loop's clock."""


class _NowhereError(Exception):
    """There is no connection to publish on."""


class SpokenTrack:
    """One track of ours. `run` says what `say` was given, until cancelled, and closes what it opened."""

    def __init__(self, name: str, language: str, speech: Speech, log: structlog.stdlib.BoundLogger) -> None:
        self.name = name
        self.skipped = 0
        self._language = language
        self._speech = speech
        self._log = log
        self._texts: deque[_Text] = deque()
        self._news = asyncio.Event()
        self._room: rtc.Room | None = None
        self._source: rtc.AudioSource | None = None
        self._track: rtc.LocalAudioTrack | None = None
        self._publishing: asyncio.Task[rtc.LocalTrackPublication] | None = None
        self._published_on: rtc.Room | None = None
        self._speaking: asyncio.Task[object] | None = None

    def use(self, room: rtc.Room | None) -> None:
        """The connection through which it is heard; a new one gets the track published anew, None is a pause."""
        self._room = room

    def say(
        self, text: str, voice: str | None, done: Callable[[str], None], *, within_s: float | None = WITHIN_S
    ) -> None:
        """Puts a text behind the others; `done` is told once how it went: ``completed``, ``skipped``, ``error``….

        `within_s`: it is skipped when it was not begun by then; None: it is said however late.
        """
        late_at = None if within_s is None else asyncio.get_running_loop().time() + within_s
        self._texts.append(_Text(text, voice, done, late_at))
        if len(self._texts) > MOST_TEXTS:
            oldest = next((each for each in self._texts if each.late_at is not None), self._texts[-1])
            self._texts.remove(oldest)
            self._skip(oldest)
        self._news.set()

    def interrupt(self) -> None:
        """What is being said, and what waits, is not said any more."""
        self._skip_all()
        if self._speaking is not None:
            self._speaking.cancel()
        if self._source is not None:
            self._source.clear_queue()

    async def run(self) -> None:
        """Speaks until cancelled; what it opened is closed before it ends, which may take `CLOSE_S`."""
        try:
            while True:
                while self._texts:
                    await self._speak(self._texts.popleft())
                self._news.clear()
                await self._news.wait()
        finally:
            self._skip_all()
            await unbroken(self._close())

    # ── one text ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _speak(self, text: _Text) -> None:
        left_s = None if text.late_at is None else text.late_at - asyncio.get_running_loop().time()
        if left_s is not None and left_s <= 0:
            self._skip(text)
            return
        self._speaking = speaking = asyncio.create_task(self._say(text, left_s))
        try:
            await asyncio.wait([speaking])
        except asyncio.CancelledError:
            speaking.cancel()
            await unbroken(asyncio.wait([speaking]))
            raise
        finally:
            self._speaking = None
            if speaking.cancelled() or not speaking.done():
                self._skip(text)
            elif (error := speaking.exception()) is None:
                text.done(str(getattr(speaking.result(), "value", speaking.result())))
            elif isinstance(error, _NowhereError):
                self._skip(text)
            else:  # the SDK and a voice may fail in any way, and their messages may hold the text
                self._log.warning("text_not_spoken", track=self.name, error=without_message(error))
                text.done("error")

    async def _say(self, text: _Text, left_s: float | None) -> object:
        status = await self._speech.say(text.text, self._language, text.voice, self._play, begin_within_s=left_s)
        if self._source is not None:
            await self._source.wait_for_playout()
        return status

    def _skip(self, text: _Text) -> None:
        self.skipped += 1
        text.done("skipped")

    def _skip_all(self) -> None:
        while self._texts:
            self._skip(self._texts.popleft())

    # ── its sound ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _play(self, samples: Samples, sample_rate: int) -> None:
        source = await self._published(sample_rate)
        whole = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
        step = sample_rate * FRAME_MS // 1000
        for start in range(0, len(whole), step):
            piece = whole[start : start + step]
            # Broken off, it would go on in the native library, which refuses the next sound until it is done.
            await unbroken(source.capture_frame(rtc.AudioFrame(piece.tobytes(), sample_rate, 1, len(piece))))

    async def _published(self, sample_rate: int) -> rtc.AudioSource:
        """The source of the published track, which is made with the first sound."""
        room = self._room
        if room is None:
            raise _NowhereError
        if self._source is not None and (self._published_on is not room or self._source.sample_rate != sample_rate):
            await self._close_track()
        if self._source is None:
            self._source = rtc.AudioSource(sample_rate, 1, queue_size_ms=QUEUE_MS)
            self._track = rtc.LocalAudioTrack.create_audio_track(self.name, self._source)
            self._published_on = room
        if self._publishing is None and self._track is not None:
            options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_UNKNOWN)
            # A task of its own: were it cancelled, the track would be published all the same, and nobody know it.
            self._publishing = asyncio.create_task(room.local_participant.publish_track(self._track, options))
        if self._publishing is not None:
            try:
                async with asyncio.timeout(PUBLISH_S):
                    await asyncio.shield(self._publishing)
            except Exception:
                await self._close_track()  # the next text tries anew
                raise
        return self._source

    async def _close(self) -> None:
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.wait([self._speaking])
        await self._close_track()

    async def _close_track(self) -> None:
        source, self._source, self._track = self._source, None, None
        try:
            await self._unpublish()
        finally:
            if source is not None:
                await source.aclose()

    async def _unpublish(self) -> None:
        """Takes the track back, if the connection on which it is published is still there."""
        publishing, self._publishing = self._publishing, None
        room, self._published_on = self._published_on, None
        if publishing is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                publication = await asyncio.shield(publishing)
                if room is not None and room is self._room:
                    # Its id changes when the SDK publishes it again after a lost connection.
                    await room.local_participant.unpublish_track(publication.sid)
        except (TimeoutError, PublishTrackError, UnpublishTrackError) as error:  # it went with its connection
            self._log.warning("track_not_unpublished", track=self.name, error=without_message(error))
        finally:
            publishing.cancel()


class SpokenTracks:
    """All tracks of the agent in one room, by name."""

    def __init__(self, speech: Speech, log: structlog.stdlib.BoundLogger) -> None:
        self._speech = speech
        self._log = log
        self._room: rtc.Room | None = None
        self._tracks: dict[tuple[str, str], tuple[SpokenTrack, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """What the tracks are called."""
        return [track.name for track, _ in self._tracks.values()]

    def use(self, room: rtc.Room | None) -> None:
        """The room's connection from now on, or none."""
        self._room = room
        for track, _ in self._tracks.values():
            track.use(room)

    def speaks(self, language: str) -> bool:
        """Whether there is a voice for the language."""
        return self._voice_language(language) is not None

    def say(
        self,
        identity: str,
        text: str,
        language: str,
        voice: str | None,
        done: Callable[[str], None] = lambda _: None,
        *,
        within_s: float | None = WITHIN_S,
    ) -> None:
        """Speaks `text` on the track of `identity` in `language`, behind what is said there already.

        `done` is told once how it went; `within_s` as in `SpokenTrack.say`.
        """
        spoken = self._voice_language(language)
        if spoken is None:
            done("unsupported_language")
            return
        if (identity, language) not in self._tracks:
            track = SpokenTrack(f"{identity}-{language}", spoken, self._speech, self._log)
            track.use(self._room)
            self._tracks[identity, language] = track, asyncio.create_task(track.run())
        self._tracks[identity, language][0].say(text, voice, done, within_s=within_s)

    def interrupt(self, identity: str) -> None:
        """Breaks off what is said in place of `identity`, in all languages."""
        for (whose, _), (track, _) in self._tracks.items():
            if whose == identity:
                track.interrupt()

    async def keep(self, wanted: Callable[[str, str], bool]) -> None:
        """Ends the tracks whose identity and language are not wanted any more, and waits for all that are ending.

        That takes up to `CLOSE_S` where the LiveKit server does not answer. If cancelled, they end all the same.
        """
        for key in [key for key in self._tracks if not wanted(*key)]:
            _, task = self._tracks.pop(key)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if self._ending:
            await asyncio.wait(set(self._ending))

    def _voice_language(self, language: str) -> str | None:
        """The voice's own name of a language: its tag as asked for, else its first part."""
        known = self._speech.languages()
        tag = language.lower()
        primary = tag.partition("-")[0]
        return tag if tag in known else primary if primary in known else None
