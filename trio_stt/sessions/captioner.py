"""One speaker's audio on its way to captions: decoded, resampled, gated, recognised, published."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import numpy as np
import structlog
import trio

from trio_stt.audio import formats
from trio_stt.audio.detection import VoiceStream
from trio_stt.audio.resample import Resampler
from trio_stt.audio.samples import MODEL_RATE, WINDOW_SAMPLES, Samples, Windows, joined
from trio_stt.audio.speech_gate import Ended, GateEvent, Opened, Speech, SpeechGate, TooLong
from trio_stt.audio.utterance_cut import choose_cut, own_words, words_before
from trio_stt.dialects.events import Audio, StreamRequest, Transcript, Word
from trio_stt.recognition.engine import HeardWord
from trio_stt.recognition.speaker import Heard, SpeakerRecogniser
from trio_stt.sessions.backlog import AudioRun
from trio_stt.sessions.caption_sink import CaptionSink
from trio_stt.sessions.catch_up import CatchUps
from trio_stt.sessions.pace import BEAT_MS, next_beat

MAX_CALL_SAMPLES = 4 * MODEL_RATE // 10
"""Most samples given to the recogniser in one call (0.4 s): others wait for the thread meanwhile."""

LEAST_CALL_SHARE = 0.75
"""Share of the chunk in force that is worth a call, and of the audio between partials that is worth one: whole windows
of 32 ms do not add up to it exactly."""

LAG_WORTH_TELLING_MS = 500
"""A caption says how far recognition is behind only when it is further than this (`lag_ms`)."""


@attrs.frozen
class Origin:
    """Where in its stream a captioner begins: after a resume, in the middle.

    `sample`: the first that it hears; `accepted`: the end of the last final that the client took: an utterance that is
    open there ends exactly there. `began_at`: when the stream's first sample was spoken, on Trio's clock; None: with
    the first that comes. `suffix`: tells its segments from those of earlier connections.
    """

    sample: int = 0
    accepted: int = 0
    began_at: float | None = None
    suffix: str = ""

    @property
    def resumes(self) -> bool:
        """Whether the stream goes on here."""
        return bool(self.suffix)


BEGINNING = Origin()


class Utterance:
    """The open utterance: where it began, what it is called, how far it was decoded. In samples at 16 kHz."""

    def __init__(self, segment_id: str, start: int, context: int, heard_before: Sequence[HeardWord]) -> None:
        """`context`: samples before `start` that are decoded again; `heard_before`: words known of it."""
        self.segment_id = segment_id
        self.start = start
        self.decoded_from = start - context
        self.decoded_to = self.decoded_from
        self.heard_before = heard_before
        self.text = ""
        self._undecoded: list[Samples] = []

    @property
    def undecoded_samples(self) -> int:
        """Samples that the gate passed and the recogniser has not been given."""
        return sum(part.size for part in self._undecoded)

    def add(self, samples: Samples) -> None:
        """Adds audio to be decoded."""
        self._undecoded.append(samples)

    def take(self, most: int) -> Samples:
        """The first undecoded samples, at most `most`; they count as decoded from now on."""
        waiting = joined(self._undecoded)
        samples, rest = waiting[:most], waiting[most:]
        self._undecoded = [rest] if rest.size else []
        self.decoded_to += samples.size
        return samples

    def without_context(self, text: str) -> str:
        """A partial's text without the words that belong to the final before this utterance."""
        words = text.split()
        for known in (
            word.text for word in self.heard_before if word.start < self.start and word.end > self.decoded_from
        ):
            if words and words[0] == known:
                del words[0]
        return " ".join(words)


class ChunkIds:
    """Remembers which part of the stream each chunk with an id covered."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, int]] = deque()  # (position after the chunk's last sample, id)

    def add(self, frame: Audio) -> None:
        """Notes `frame`, if it has an id and samples."""
        if frame.chunk_id is not None and frame.count:
            self._chunks.append((frame.position + frame.count, frame.chunk_id))

    def covering(self, end_sample: int) -> int | None:
        """The id of the chunk that holds the sample before `end_sample`."""
        found = None
        for chunk_end, chunk_id in reversed(self._chunks):
            if chunk_end < end_sample:
                break
            found = chunk_id
        return found

    def forget_before(self, sample: int) -> None:
        """No caption will end at `sample` or before it any more."""
        while self._chunks and self._chunks[0][0] <= sample:
            self._chunks.popleft()


class Captioner:
    """Turns the frames of one stream into captions. One task uses it; close it with `aclose`."""

    def __init__(
        self,
        request: StreamRequest,
        stream_id: str,
        *,
        gate: SpeechGate,
        voice: VoiceStream | None,
        recogniser: SpeakerRecogniser,
        sink: CaptionSink,
        wants_partials: Callable[[], bool],
        on_decoded: Callable[[int], None],
        lag_ms: Callable[[], int],
        catch_ups: CatchUps,
        chunk_ms: Callable[[], int],
        partial_every_ms: Callable[[], int],
        number: int,
        log: structlog.stdlib.BoundLogger,
        origin: Origin = BEGINNING,
    ) -> None:
        """`voice` None: the gate is off. `chunk_ms`: audio for one call now. `number`: the stream's, for its beat.

        `origin`: where in its stream this begins.
        `partial_every_ms`: least audio between two partials now; 0: one with each call.
        `on_decoded` is told how many samples (16 kHz) each call gave to the recogniser.
        """
        self._request = request
        self._stream_id = stream_id
        self._gate = gate
        self._voice = voice
        self._recogniser = recogniser
        self._sink = sink
        self._wants_partials = wants_partials
        self._on_decoded = on_decoded
        self._lag_ms = lag_ms
        self._chunk_ms = chunk_ms
        self._partial_every_ms = partial_every_ms
        self._since_partial = 0  # samples decoded
        self._number = number
        self._log = log
        self._origin = origin
        self._resampler = Resampler(request.sample_rate)
        self._windows = Windows()
        # When the first sample heard here was spoken, on Trio's clock.
        self._began_at = None if origin.began_at is None else origin.began_at + origin.sample / request.sample_rate
        self._catch_up = catch_ups.begin(lag_ms, trio.current_time()) if origin.resumes else None
        self._utterance: Utterance | None = None
        self._cut_words: Sequence[HeardWord] = ()
        self._chunk_ids = ChunkIds()
        self._segments = 0
        self.language = request.language
        """The tag that captions carry."""
        self.received = origin.sample
        """Samples received, at the stream's own rate, those before the origin counted."""
        self.ended = 0
        """Utterances that got their final."""

    @property
    def speaking(self) -> bool:
        """Whether an utterance is open."""
        return self._utterance is not None

    @property
    def settled(self) -> int:
        """The position (stream's own rate) before which no later utterance can begin; never falls."""
        return min(self._to_stream(self._gate.settled), self.received)

    @property
    def patient_until(self) -> float:
        """Until when (Trio's clock) audio that arrives should wait for more, so that less work does for it."""
        chunk_ms = self._chunk_ms()
        # In a hangover each window may bring the final, which must not wait.
        if chunk_ms <= BEAT_MS or self._gate.is_ending:
            return -math.inf
        return next_beat(trio.current_time(), chunk_ms, self._number)

    async def hear(self, run: AudioRun) -> None:
        """Deals with a run of audio and publishes what it completes. Cancelled, it leaves the stream useless."""
        if self._began_at is None:
            self._began_at = self._spoken_live(run)
        if self._catch_up is not None:
            audio_s = sum(frame.count for frame in run.frames) / self._request.sample_rate
            if self._catch_up.is_over(run.arrived_at, audio_s):
                self._end_catch_up()
                # Not before: what it sends ahead of time is due no sooner for having been resumed.
                self._began_at = self._spoken_live(run)
            else:
                self._catch_up.is_decoding = True
        for frame in run.frames:
            self._chunk_ids.add(frame)
        samples = formats.decode(b"".join(frame.payload for frame in run.frames), self._request.encoding)
        ahead = self._origin.accepted - self.received
        if 0 < ahead <= len(samples):  # no final may cross what the client has accepted
            self.received += ahead
            await self._judge(self._resampler.push(samples[:ahead]))
            await self.finish()
            samples = samples[ahead:]
        self.received += len(samples)
        await self._judge(self._resampler.push(samples))
        self._chunk_ids.forget_before(self.settled)
        if self._catch_up is not None:
            self._catch_up.is_decoding = False

    async def finish(self) -> None:
        """Ends all that was received: the open utterance, if any, gets its final."""
        await self._judge(self._resampler.flush())
        await self._follow(self._gate.finish(self._windows.take_rest()))

    def discard(self) -> None:
        """The open utterance, if any, is void: another connection goes on with the stream."""
        self._utterance = None

    def give_up(self) -> None:
        """The stream cannot go on: the open utterance, if any, gets a final of what is known of it."""
        utterance, self._utterance = self._utterance, None
        if utterance is not None:
            self._sink.publish_now(
                self._caption(utterance, utterance.text, (), end=utterance.decoded_to, is_final=True)
            )

    async def change_recogniser(self, recogniser: SpeakerRecogniser, language: str) -> None:
        """From now on `recogniser` hears the stream, and captions carry `language`. Between utterances only.

        The old one is given back, which no cancellation interrupts.
        """
        old, self._recogniser = self._recogniser, recogniser
        self.language = language
        with trio.CancelScope(shield=True):
            await old.aclose()

    async def aclose(self) -> None:
        """Gives the recogniser back."""
        self._end_catch_up()
        await self._recogniser.aclose()

    def _end_catch_up(self) -> None:
        if self._catch_up is not None:
            self._catch_up.end()
            self._catch_up = None

    async def _judge(self, samples: Samples) -> None:
        samples = self._windows.push(samples)
        if not samples.size:
            return
        windows = samples.reshape(-1, WINDOW_SAMPLES)
        probabilities = await self._voice.probabilities(windows) if self._voice else np.ones(len(windows), np.float32)
        await self._follow(self._gate.push(samples, probabilities))

    async def _follow(self, events: Sequence[GateEvent]) -> None:
        for event in events:
            if isinstance(event, Opened):
                self._segments += 1
                segment_id = f"{self._stream_id}{self._origin.suffix}-{self._segments}"
                self._utterance = Utterance(segment_id, event.start, event.context, self._cut_words)
                self._cut_words = ()
            elif isinstance(event, Speech):
                self._open_utterance.add(event.samples)
            elif isinstance(event, Ended):
                await self._end(event.end)
            elif isinstance(event, TooLong):
                await self._cut()
        least = LEAST_CALL_SHARE * self._chunk_ms() * MODEL_RATE / 1000
        while self._utterance is not None and self._utterance.undecoded_samples >= least:
            await self._decode(self._utterance)

    def _to_stream(self, model_sample: int) -> int:
        position: int = self._origin.sample + self._resampler.to_stream(model_sample)
        return position

    @property
    def _open_utterance(self) -> Utterance:
        if self._utterance is None:
            raise RuntimeError("the speech gate sent speech outside an utterance")
        return self._utterance

    async def _finish_decoding(self, utterance: Utterance) -> Heard:
        while utterance.undecoded_samples > MAX_CALL_SAMPLES:
            samples = self._take(utterance)
            due = self._due(utterance)
            await self._recogniser.accept(samples, partial=False, due=due, catch_up=self._is_catch_up(due))
        samples = self._take(utterance)
        due = self._due(utterance)
        return await self._recogniser.finish(samples, due=due, catch_up=self._is_catch_up(due))

    def _spoken_live(self, run: AudioRun) -> float:
        """When the first sample heard here was spoken, if the first frame of a run arrived as soon as it was spoken."""
        heard = self.received - self._origin.sample + run.frames[0].count
        return run.arrived_at - heard / self._request.sample_rate

    def _is_catch_up(self, due: float) -> bool:
        return self._catch_up is not None and due < trio.current_time()

    def _due(self, utterance: Utterance) -> float:
        """When the last sample taken was spoken, if the stream is sent in real time."""
        return (self._began_at or 0.0) + utterance.decoded_to / MODEL_RATE

    def _take(self, utterance: Utterance) -> Samples:
        samples = utterance.take(MAX_CALL_SAMPLES)
        self._on_decoded(samples.size)
        self._since_partial += samples.size
        return samples

    def _is_partial_due(self) -> bool:
        least = LEAST_CALL_SHARE * self._partial_every_ms() * MODEL_RATE / 1000
        return self._since_partial >= least and self._wants_partials()

    async def _decode(self, utterance: Utterance) -> None:
        samples = self._take(utterance)
        partial = self._is_partial_due()
        if partial:
            self._since_partial = 0
        due = self._due(utterance)
        text = await self._recogniser.accept(samples, partial=partial, due=due, catch_up=self._is_catch_up(due))
        text = utterance.without_context(text) if utterance.heard_before else text
        if partial and text and text != utterance.text:
            utterance.text = text
            await self._sink.publish(self._caption(utterance, text, (), end=utterance.decoded_to, is_final=False))

    async def _end(self, end: int) -> None:
        utterance = self._open_utterance
        heard = await self._finish_decoding(utterance)
        self._utterance = None  # only now: a stream that is cut while it waits still has it to give up
        await self._final(utterance, heard, self._placed(utterance, heard), end)

    async def _cut(self) -> None:
        """The utterance is as long as one may be: everything so far is decoded, then it is cut at a good place."""
        utterance = self._open_utterance
        heard = await self._finish_decoding(utterance)
        self._utterance = None
        words = self._placed(utterance, heard)
        tail_start, tail = self._gate.tail()
        at = choose_cut([(word.start, word.end) for word in words], tail, tail_start)
        events = self._gate.cut(at)
        self._cut_words = words
        await self._final(utterance, heard, words_before(words, at), at)
        await self._follow(events[1:])  # without the first, the `Ended` just dealt with

    def _placed(self, utterance: Utterance, heard: Heard) -> list[HeardWord]:
        """The utterance's own words on the stream's 16 kHz clock."""
        words = [
            attrs.evolve(word, start=word.start + utterance.decoded_from, end=word.end + utterance.decoded_from)
            for word in heard.words
        ]
        has_context = utterance.decoded_from < utterance.start
        return own_words(utterance.heard_before, words, utterance.start) if has_context else words

    async def _final(self, utterance: Utterance, heard: Heard, words: Sequence[HeardWord], end: int) -> None:
        text = " ".join(word.text for word in words) if heard.words else utterance.without_context(heard.text)
        self.ended += 1
        await self._sink.publish(self._caption(utterance, text, words, end=end, is_final=True))

    def _caption(
        self, utterance: Utterance, text: str, words: Sequence[HeardWord], *, end: int, is_final: bool
    ) -> Transcript:
        rate = self._request.sample_rate
        end_sample = min(self._to_stream(end), self.received)
        lag_ms = self._lag_ms()
        return Transcript(
            session_id=self._request.session_id,
            client_id=self._request.client_id,
            stream_id=self._stream_id,
            segment_id=utterance.segment_id,
            text=text,
            is_final=is_final,
            language=self.language,
            start_sample=self._to_stream(utterance.start),
            end_sample=end_sample,
            sample_rate=rate,
            timestamp=time.time(),
            words=tuple(
                Word(
                    word.text,
                    self._to_stream(max(word.start, utterance.start)) / rate,
                    self._to_stream(max(word.end, utterance.start)) / rate,
                    word.confidence,
                )
                for word in words
            ),
            chunk_id=self._chunk_ids.covering(end_sample),
            lag_ms=lag_ms if lag_ms > LAG_WORTH_TELLING_MS else None,
        )
