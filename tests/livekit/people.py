"""People in a LiveKit room, by the SDK that a real participant has: they speak, and write down what they read."""

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
from attrs import define, field, frozen
from livekit import rtc

from tests.livekit_tokens import person_token
from trio_stt.bench.speech import SAMPLE_RATE

FRAME = SAMPLE_RATE // 20


@frozen
class Read:
    """A caption as a participant got it: by a text stream, or by the older message (`is_legacy`)."""

    identity: str
    text: str
    segment_id: str
    is_final: bool
    track_sid: str
    language: str
    translated: bool
    at: float
    is_legacy: bool = False


@define(eq=False)
class Person:
    """One participant. `reads`: all captions that it got, in order."""

    identity: str
    room: rtc.Room
    reads: list[Read] = field(factory=list)
    messages: list[tuple[str, bytes]] = field(factory=list)
    track_sid: str = ""
    _source: rtc.AudioSource | None = None
    _publication: rtc.LocalTrackPublication | None = None
    _to_say: list[np.ndarray] = field(factory=list)
    _said: asyncio.Event = field(factory=asyncio.Event)
    _tasks: set[asyncio.Task] = field(factory=set)
    _speaking: asyncio.Task | None = None
    _left: bool = False

    async def publish(self, *, source: int = rtc.TrackSource.SOURCE_MICROPHONE, silent: bool = False) -> None:
        """Opens its microphone, which goes on, silent or not, until it leaves; `silent`: nothing comes from it."""
        self._source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=200)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self._source)
        self._publication = await self.room.local_participant.publish_track(
            track, rtc.TrackPublishOptions(source=source, dtx=True)
        )
        self.track_sid = self._publication.sid
        if not silent:
            self._speaking = asyncio.create_task(self._speak())

    async def say(self, samples: np.ndarray) -> None:
        """Says it (`SAMPLE_RATE`, 16 bits, mono) as fast as one speaks, and returns when it is said."""
        self._said.clear()
        self._to_say += np.array_split(samples, np.arange(FRAME, len(samples), FRAME))
        await self._said.wait()

    async def mute(self, muted: bool) -> None:
        assert self._publication is not None
        assert self._publication.track is not None
        (self._publication.track.mute if muted else self._publication.track.unmute)()

    def finals(self, identity: str, *, language: str = "en") -> list[Read]:
        """What `identity` said, as text streams told it, in one language."""
        return [
            read
            for read in self.reads
            if read.identity == identity and read.is_final and read.language == language and not read.is_legacy
        ]

    def words(self, identity: str, *, language: str = "en") -> list[str]:
        return [word for read in self.finals(identity, language=language) for word in read.text.split()]

    async def until(self, is_so, within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while not is_so():
                await asyncio.sleep(0.02)

    async def leave(self) -> None:
        self._left = True
        if self._speaking is not None:
            await self._speaking
        for task in self._tasks:
            task.cancel()
        await self.room.disconnect()
        if self._source is not None:
            await self._source.aclose()

    async def _speak(self) -> None:
        silence = np.zeros(FRAME, np.int16)
        assert self._source is not None
        while not self._left:
            piece = self._to_say.pop(0) if self._to_say else silence
            await self._source.capture_frame(rtc.AudioFrame(piece.tobytes(), SAMPLE_RATE, 1, len(piece)))
            if not self._to_say:
                self._said.set()

    def _begin(self, what) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hear(self, reader: rtc.TextStreamReader, identity: str) -> None:
        self._begin(self._read(reader, identity))

    async def _read(self, reader: rtc.TextStreamReader, identity: str) -> None:
        # The place in the order is that of the header.
        place = len(self.reads)
        text = await reader.read_all()
        attributes = reader.info.attributes
        read = Read(
            identity,
            text,
            attributes["lk.segment_id"],
            attributes["lk.transcription_final"] == "true",
            attributes["lk.transcribed_track_id"],
            attributes.get("language", ""),
            attributes.get("translated") == "true",
            time.monotonic(),
        )
        self.reads.insert(max(place, len(self.reads)), read)

    def hear_legacy(self, segments, participant, publication) -> None:
        for each in segments:
            self.reads.append(
                Read(
                    participant.identity if participant else "",
                    each.text,
                    each.id,
                    each.final,
                    publication.sid if publication else "",
                    each.language,
                    False,
                    time.monotonic(),
                    is_legacy=True,
                )
            )


@asynccontextmanager
async def person(url: str, room_name: str, identity: str, attributes: dict[str, str] | None = None, **grants):
    """One in the room while the block runs."""
    room = rtc.Room()
    one = Person(identity, room)
    room.register_text_stream_handler("lk.transcription", one.hear)
    room.on("transcription_received", one.hear_legacy)
    room.on("data_received", lambda packet: one.messages.append((packet.topic, packet.data)))
    await room.connect(
        url, person_token(room_name, identity, attributes, **grants), rtc.RoomOptions(auto_subscribe=False)
    )
    try:
        yield one
    finally:
        await one.leave()
