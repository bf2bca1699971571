"""Sends a source through a stream, which outlives its connections, while its transcripts come back."""

from __future__ import annotations

from typing import Protocol

import trio
from attrs import frozen

from trio_stt.client.refusal import ServerUnreachableError, StreamRefusedError
from trio_stt.client.resume_events import Ended, EndReason, Interrupted, Lost, Restarted, Resumed, ResumingEvent
from trio_stt.client.resuming_connection import ResumingStream, StreamEndedError
from trio_stt.dialects.events import Ack, Failure, Ready, Transcript, Translation
from trio_stt.transcribe.losses import Losses
from trio_stt.transcribe.sound import SAMPLE_RATE, SourceError
from trio_stt.transcribe.sources import Sound

FIRST_ANSWER_S = 10.0
"""The first server is given up if it has not taken the stream by then."""

BEAT_S = 0.5
"""How often the listener is told that time goes by."""

LAST_WORDS_S = 3.0
"""After an interrupt the last finals are waited for at most so long."""

READ_WORDS_S = 0.1
"""If there is no server then, what has come already is taken: that waits for nobody else."""


class Listener(Protocol):
    """Is told what comes back. Its methods may take their time: meanwhile the server waits."""

    async def on_ready(self) -> None:
        """A server has taken the stream, or goes on with it after another was lost."""

    async def on_partial(self, transcript: Transcript) -> None:
        """The open utterance's text so far."""

    async def on_final(self, transcript: Transcript) -> None:
        """An utterance's text; also its last partial (`is_final` False) if no final will ever come."""

    async def on_translation(self, translation: Translation) -> None:
        """A translation of a final that was told before."""

    async def on_translations_lost(self) -> None:
        """The server cannot translate now."""

    async def on_beat(self) -> None:
        """Nothing came for `BEAT_S` although there is a server."""

    def on_progress(self, done_s: float) -> None:
        """The server is done with the first `done_s` seconds."""

    def on_message(self, text: str) -> None:
        """Something the user should read."""


@frozen
class Outcome:
    """How it ended.

    `sent_s`: seconds of sound taken from the source; `done_s`: of these, up to where captions have come; `lost`: why no
    more will come, if so; `source_error`: what failed in the source, if anything.
    """

    sent_s: float
    done_s: float
    lost: str | None
    source_error: SourceError | None


async def stream_captions(
    sound: Sound,
    stream: ResumingStream,
    client_id: str | None,
    listener: Listener,
    interrupted: trio.Event,
    *,
    realtime: bool,
    first: str | None,
) -> Outcome:
    """Sends all of `sound`, then waits for the last transcript; tells `listener` of those of `client_id` (None: all).

    `realtime`: no faster than it was spoken. After `interrupted` nothing more is sent and what the server has is waited
    for, briefly; not at all while there is no server. `first`: the address of a server that was never reached, so
    that it is no use to wait for it: raises `ServerUnreachableError` if it does not answer. Raises `StreamRefusedError`
    if a server refuses the stream and that is its last word; with `first` also if it is not. May be cancelled.
    """
    streaming = _Streaming(stream, client_id, listener, interrupted, first=first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streaming.send, sound, realtime)
        nursery.start_soon(streaming.stop_after_interrupt, nursery.cancel_scope)
        await streaming.receive()
        nursery.cancel_scope.cancel()
    if streaming.failure is not None:
        raise streaming.failure
    return streaming.outcome()


class _Streaming:
    """One source on its way."""

    def __init__(
        self,
        stream: ResumingStream,
        client_id: str | None,
        listener: Listener,
        interrupted: trio.Event,
        *,
        first: str | None,
    ) -> None:
        self.failure: ServerUnreachableError | StreamRefusedError | None = None
        self._stream = stream
        self._client_id = client_id
        self._listener = listener
        self._interrupted = interrupted
        self._first = first
        self._sending = trio.CancelScope()
        self._all_given = False
        self._source_error: SourceError | None = None
        self._began_at = trio.current_time()
        self._began = False  # a server took the stream
        self._connected = False
        self._lost_at: float | None = None
        self._losses = Losses()
        self._done_samples = 0
        self._unfinished: Transcript | None = None  # the open utterance
        self._unheard = False  # some samples will not be captioned
        self._over = False
        self._lost: str | None = None

    def outcome(self) -> Outcome:
        """How it ended, once it has."""
        sent_s, done_s = self._stream.given_samples / SAMPLE_RATE, self._done_samples / SAMPLE_RATE
        return Outcome(sent_s, done_s, self._lost, self._source_error)

    # ── there ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, sound: Sound, realtime: bool) -> None:
        """Gives all of `sound` to the stream, and its end; or as much as there is when the user interrupts."""
        try:
            with self._sending:
                await self._send_frames(sound, realtime)
        except SourceError as error:
            self._source_error = error
        except StreamEndedError:
            return  # the receiver reads on to the end, and says why
        try:
            await self._stream.end()
        except StreamEndedError:
            return
        self._all_given = True

    async def _send_frames(self, sound: Sound, realtime: bool) -> None:
        began = trio.current_time()
        async for frame in sound.frames:
            if realtime:
                with trio.move_on_at(began + (self._stream.given_samples + len(frame)) / SAMPLE_RATE):
                    await self._interrupted.wait()
            if self._interrupted.is_set():
                return
            await self._stream.send_audio(frame.astype("<i2", copy=False).tobytes())

    async def stop_after_interrupt(self, streaming: trio.CancelScope) -> None:
        """Waits for the interrupt, and then, briefly, for the last words."""
        await self._interrupted.wait()
        self._sending.cancel()  # it may be waiting for room
        await trio.sleep(LAST_WORDS_S if self._connected else READ_WORDS_S)
        streaming.cancel()

    # ── back ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def receive(self) -> None:
        """Tells the listener what comes, until the stream is over. An utterance left open is told as it stands."""
        try:
            while not self._over:
                event: ResumingEvent | None = None
                with trio.move_on_after(BEAT_S):
                    event = await anext(self._stream)
                if event is not None:
                    await self._take(event)
                elif self._connected:
                    await self._listener.on_beat()
                elif self._first and not self._began and trio.current_time() >= self._began_at + FIRST_ANSWER_S:
                    self._fail(ServerUnreachableError(f"{self._first}: no WebSocket answer in {FIRST_ANSWER_S:g} s"))
        finally:
            if self._unfinished is not None:
                with trio.CancelScope(deadline=trio.current_time() + LAST_WORDS_S, shield=True):
                    await self._listener.on_final(self._unfinished)

    async def _take(self, event: ResumingEvent) -> None:
        match event:
            case Ready() | Resumed() | Restarted():
                await self._take_connection()
            case Interrupted():
                self._take_loss(event)
            case Transcript(client_id=speaker) | Translation(client_id=speaker) if self._client_id not in (
                None,
                speaker,
            ):
                pass  # somebody else's, in the same session
            case Transcript():
                await self._take_transcript(event)
            case Translation(is_final=True):
                await self._listener.on_translation(event)
            case Ack():
                self._done(event.sample)
                self._listener.on_progress(event.sample / SAMPLE_RATE)
                await self._listener.on_beat()
            case Failure(code="translation_unavailable"):
                self._listener.on_message(f"No translations: {event.message}.")
                await self._listener.on_translations_lost()
            case Failure():
                self._listener.on_message(f"The server reports: {event.message} ({event.code}).")
            case Lost():
                self._unheard = True
            case Ended():
                self._take_end(event)

    async def _take_transcript(self, transcript: Transcript) -> None:
        if not transcript.is_final:
            # Of a whole call, other clients' open utterances go on without us.
            self._unfinished = None if self._client_id is None else transcript
            await self._listener.on_partial(transcript)
            return
        self._unfinished = None
        if self._client_id is not None:
            self._done(transcript.end_sample)
        await self._listener.on_final(transcript)

    def _done(self, samples: int) -> None:
        self._done_samples = max(self._done_samples, samples)
        self._losses.progress()

    async def _take_connection(self) -> None:
        now = trio.current_time()
        self._losses.connected(now)
        if self._lost_at is not None:
            self._listener.on_message(f"Connected again after {now - self._lost_at:.1f} s.")
        self._began, self._connected, self._lost_at = True, True, None
        await self._listener.on_ready()

    def _take_loss(self, loss: Interrupted) -> None:
        self._connected = False
        if not self._began and self._first:
            if loss.failure is not None:
                self._fail(loss.failure)
            return
        self._lost_at = trio.current_time()
        if self._losses.lost(self._lost_at):
            self._give_up(f"again and again at the same place, at last: {loss.why}")
        elif self._interrupted.is_set():
            self._over = True
        else:
            self._listener.on_message(f"The connection is lost ({loss.why}). It goes on when there is a server again.")

    def _take_end(self, ended: Ended) -> None:
        if ended.status is not None and not self._began:
            self._fail(StreamRefusedError(ended.status, ended.code, ended.message, None, None))
        elif ended.reason is EndReason.UNREACHABLE and self._first and not self._began:
            self._fail(ServerUnreachableError(f"{self._first}: {ended.message}"))
        elif ended.reason is not EndReason.FINISHED:
            self._give_up(_in_words(ended))
        elif self._unheard or not self._all_given or ended.message:
            self._give_up("the server ended the stream before all sound was heard (its time limits?)")
        self._over = True

    def _fail(self, failure: ServerUnreachableError | StreamRefusedError) -> None:
        self.failure, self._over = failure, True

    def _give_up(self, why: str) -> None:
        self._lost, self._over = why, True


def _in_words(ended: Ended) -> str:
    if ended.reason is EndReason.REPLACED:
        return "another client of that name came into the call"
    if ended.close is None:
        return ended.message
    return f"the server closed the connection: {ended.close.code} {ended.message}".rstrip()
