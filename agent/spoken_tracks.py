"""The agent's own sound in a room: a track for each voice and language that is spoken, its sentences in order.

A track is published with its first sentence and named `{identity}-{language}`. Sentences wait in a bounded queue:
who is translated out loud for longer than he speaks loses the oldest that wait, never the order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from attrs import frozen
from livekit import rtc

QUEUE_MS: Final = 300
"""Sound that the native library holds ahead: what is said when a speaker is interrupted goes on for at most so long."""

FRAME_MS: Final = 50

MOST_SENTENCES: Final = 8
"""So many wait for one track; then the oldest is left out."""

Samples = npt.NDArray[np.float32]


class Speech(Protocol):
    """What speaks: `agent.tts.speech`."""

    def languages(self) -> frozenset[str]:
        """Those that have a voice."""
        ...

    async def say(
        self, text: str, language: str, voice: str | None, onto: Callable[[Samples, int], Awaitable[None]]
    ) -> object:
        """Speaks into `onto`: mono samples from -1 to 1, and how many of them are a second. Returns how it went."""
        ...


@frozen
class _Sentence:
    text: str
    voice: str | None
    done: Callable[[str], None]


class SpokenTrack:
    """One track of ours. `run` says what `say` was given, until cancelled, and closes what it opened."""

    def __init__(self, name: str, language: str, speech: Speech, log: structlog.stdlib.BoundLogger) -> None:
        self.name = name
        self.skipped = 0
        self._language = language
        self._speech = speech
        self._log = log
        self._sentences: deque[_Sentence] = deque()
        self._news = asyncio.Event()
        self._room: rtc.Room | None = None
        self._source: rtc.AudioSource | None = None
        self._track: rtc.LocalAudioTrack | None = None
        self._sid = ""
        self._speaking: asyncio.Task[object] | None = None

    def use(self, room: rtc.Room | None) -> None:
        """The connection through which it is heard; a new one gets the track published anew."""
        if room is not self._room:
            self._room, self._sid = room, ""

    def say(self, text: str, voice: str | None, done: Callable[[str], None]) -> None:
        """Puts a sentence behind the others; `done` is told how it went: completed, skipped, error…"""
        self._sentences.append(_Sentence(text, voice, done))
        while len(self._sentences) > MOST_SENTENCES:
            self.skipped += 1
            self._sentences.popleft().done("skipped")
        self._news.set()

    def interrupt(self) -> None:
        """What is being said, and what waits, is not said any more."""
        while self._sentences:
            self._sentences.popleft().done("skipped")
        if self._speaking is not None:
            self._speaking.cancel()
        if self._source is not None:
            self._source.clear_queue()

    async def run(self) -> None:
        """Speaks until cancelled."""
        try:
            while True:
                while self._sentences:
                    await self._speak(self._sentences.popleft())
                self._news.clear()
                await self._news.wait()
        finally:
            if self._speaking is not None:
                self._speaking.cancel()
            await self._close()

    async def _speak(self, sentence: _Sentence) -> None:
        say = self._speech.say(sentence.text, self._language, sentence.voice, self._play)
        self._speaking = asyncio.ensure_future(say)
        try:
            status = await asyncio.shield(self._speaking)
            sentence.done(str(getattr(status, "value", status)))
        except asyncio.CancelledError:
            sentence.done("skipped")
            if not self._speaking.cancelled():  # it is us who are cancelled
                raise
        except Exception as error:  # noqa: BLE001  (the SDK and a voice may fail in any way: one sentence is lost)
            self._log.warning("sentence_not_spoken", track=self.name, error=type(error).__name__)
            sentence.done("error")
        finally:
            self._speaking = None

    async def _play(self, samples: Samples, sample_rate: int) -> None:
        source = await self._published(sample_rate)
        whole = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
        step = sample_rate * FRAME_MS // 1000
        for start in range(0, len(whole), step):
            piece = whole[start : start + step]
            await source.capture_frame(rtc.AudioFrame(piece.tobytes(), sample_rate, 1, len(piece)))

    async def _published(self, sample_rate: int) -> rtc.AudioSource:
        """The source of the published track, which is made with the first sound."""
        if self._source is not None and self._source.sample_rate != sample_rate:
            await self._close()
        if self._source is None:
            self._source = rtc.AudioSource(sample_rate, 1, queue_size_ms=QUEUE_MS)
            self._track = rtc.LocalAudioTrack.create_audio_track(self.name, self._source)
            self._sid = ""
        if not self._sid and self._room is not None and self._track is not None:
            options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_UNKNOWN)
            publication = await self._room.local_participant.publish_track(self._track, options)
            self._sid = publication.sid
        return self._source

    async def _close(self) -> None:
        source, self._source, self._track = self._source, None, None
        sid, self._sid = self._sid, ""
        if sid and self._room is not None:
            try:
                await self._room.local_participant.unpublish_track(sid)
            except Exception as error:  # noqa: BLE001  (the connection is gone, and the track with it)
                self._log.info("track_not_unpublished", track=self.name, error=type(error).__name__)
        if source is not None:
            await source.aclose()


class SpokenTracks:
    """All tracks of the agent in one room, by name."""

    def __init__(self, speech: Speech, log: structlog.stdlib.BoundLogger) -> None:
        self._speech = speech
        self._log = log
        self._room: rtc.Room | None = None
        self._tracks: dict[tuple[str, str], tuple[SpokenTrack, asyncio.Task[Any]]] = {}

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
        self, identity: str, text: str, language: str, voice: str | None, done: Callable[[str], None] = lambda _: None
    ) -> None:
        """Speaks `text` on the track of `identity` in `language`, behind what is said there already."""
        spoken = self._voice_language(language)
        if spoken is None:
            done("unsupported_language")
            return
        if (identity, language) not in self._tracks:
            track = SpokenTrack(f"{identity}-{language}", spoken, self._speech, self._log)
            track.use(self._room)
            self._tracks[identity, language] = track, asyncio.create_task(track.run())
        self._tracks[identity, language][0].say(text, voice, done)

    def interrupt(self, identity: str) -> None:
        """Breaks off what is said in place of `identity`, in all languages."""
        for (whose, _), (track, _) in self._tracks.items():
            if whose == identity:
                track.interrupt()

    async def keep(self, wanted: Callable[[str, str], bool]) -> None:
        """Ends the tracks whose identity and language are not wanted any more."""
        gone = [key for key in self._tracks if not wanted(*key)]
        for key in gone:
            _, task = self._tracks.pop(key)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _voice_language(self, language: str) -> str | None:
        """The voice's own name of a language: its tag as asked for, else its first part."""
        known = self._speech.languages()
        primary = language.partition("-")[0].lower()
        return language if language in known else primary if primary in known else None
