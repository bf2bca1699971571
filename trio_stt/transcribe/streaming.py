"""Sends a source through an open stream while its transcripts come back."""

from __future__ import annotations

from typing import Protocol

import trio
from attrs import define, frozen

from trio_stt.client.connection import CaptionStream, StreamClosedError
from trio_stt.client.native_client import WireError
from trio_stt.dialects.events import Ack, Failure, GoAway, Pong, Transcript, Translation
from trio_stt.transcribe.sound import SAMPLE_RATE, SourceError
from trio_stt.transcribe.sources import Sound

SILENT_SERVER_S = 10.0
"""A server that says nothing for so long is lost: it sends something every half a second (`heartbeat_ms`)."""

LAST_WORDS_S = 3.0
"""After an interrupt the last finals are waited for at most so long."""


class Listener(Protocol):
    """Is told what comes back. Its methods may take their time: meanwhile the server waits."""

    async def on_partial(self, transcript: Transcript) -> None:
        """The open utterance's text so far."""

    async def on_final(self, transcript: Transcript) -> None:
        """An utterance's text; also its last partial (`is_final` False) if no final will ever come."""

    async def on_translation(self, translation: Translation) -> None:
        """A translation of a final that was told before."""

    async def on_translations_lost(self) -> None:
        """The server cannot translate now."""

    async def on_beat(self) -> None:
        """The server is there: it says so every half a second."""

    def on_progress(self, done_s: float) -> None:
        """The server is done with the first `done_s` seconds."""

    def on_message(self, text: str) -> None:
        """Something the user should read."""


@frozen
class Outcome:
    """How it ended: seconds sent; why the connection was lost, if it was; what failed in the source, if it did."""

    sent_s: float
    lost: str | None
    source_error: SourceError | None


@define
class _Progress:
    all_sent: bool = False
    lost: str | None = None
    source_error: SourceError | None = None


async def stream_captions(
    sound: Sound,
    stream: CaptionStream,
    client_id: str | None,
    listener: Listener,
    interrupted: trio.Event,
    *,
    realtime: bool,
) -> Outcome:
    """Sends all of `sound`, then waits for the last transcript; tells `listener` of those of `client_id` (None: all).

    `realtime`: no faster than it was spoken. After `interrupted` nothing more is sent and what the server has is waited
    for, briefly. May be cancelled.
    """
    progress = _Progress()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, sound, stream, interrupted, progress, realtime)
        nursery.start_soon(_give_up_after_interrupt, interrupted, nursery.cancel_scope)
        await _receive(stream, client_id, listener, progress)
        nursery.cancel_scope.cancel()
    return Outcome(stream.sent_samples / SAMPLE_RATE, progress.lost, progress.source_error)


async def _send(
    sound: Sound, stream: CaptionStream, interrupted: trio.Event, progress: _Progress, realtime: bool
) -> None:
    began = trio.current_time()
    try:
        async for frame in sound.frames:
            if realtime:
                with trio.move_on_at(began + (stream.sent_samples + len(frame)) / SAMPLE_RATE):
                    await interrupted.wait()
            if interrupted.is_set():
                break
            await stream.send_audio(frame.astype("<i2", copy=False).tobytes())
    except SourceError as error:
        progress.source_error = error
    except StreamClosedError:
        return  # the receiver reads on to the close, and says why
    try:
        await stream.end()
    except StreamClosedError:
        return
    progress.all_sent = True


async def _give_up_after_interrupt(interrupted: trio.Event, waiting: trio.CancelScope) -> None:
    await interrupted.wait()
    await trio.sleep(LAST_WORDS_S)
    waiting.cancel()


async def _receive(stream: CaptionStream, client_id: str | None, listener: Listener, progress: _Progress) -> None:
    """Tells `listener` what comes, until the server has closed. An utterance left open is told as it stands."""
    unfinished: Transcript | None = None
    try:
        while True:
            with trio.fail_after(SILENT_SERVER_S):
                event = await anext(stream)
            match event:
                case Transcript(client_id=speaker) | Translation(client_id=speaker) if client_id not in (None, speaker):
                    pass  # somebody else's, in the same session
                case Transcript(is_final=True):
                    unfinished = None
                    await listener.on_final(event)
                case Transcript():
                    # Of a whole call, other clients' open utterances go on without us.
                    unfinished = None if client_id is None else event
                    await listener.on_partial(event)
                case Translation(is_final=True):
                    await listener.on_translation(event)
                case Ack():
                    listener.on_progress(event.sample / SAMPLE_RATE)
                    await listener.on_beat()
                case Pong():
                    await listener.on_beat()
                case Failure(code="translation_unavailable"):
                    listener.on_message(f"No translations: {event.message}.")
                    await listener.on_translations_lost()
                case Failure():
                    listener.on_message(f"The server reports: {event.message} ({event.code}).")
                case GoAway():
                    listener.on_message(f"The server will stop in {event.deadline_ms / 1000:g} s ({event.reason}).")
    except StopAsyncIteration:
        if not progress.all_sent:
            progress.lost = "the server ended the stream before all sound was sent (its time limits?)"
    except StreamClosedError as closed:
        progress.lost = str(closed)
    except WireError as error:
        progress.lost = str(error)
    except trio.TooSlowError:
        progress.lost = f"the server said nothing for {SILENT_SERVER_S:g} s"
    finally:
        if unfinished is not None:
            with trio.CancelScope(deadline=trio.current_time() + LAST_WORDS_S, shield=True):
                await listener.on_final(unfinished)
