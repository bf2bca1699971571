"""One run of `transcribe`: its sources one after another, what is written of them, and the exit code."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import BinaryIO, TypeVar

import attrs
import trio
from attrs import frozen

from trio_stt.client.refusal import ServerUnreachableError, StreamRefusedError
from trio_stt.client.resuming_connection import ResumingStream, open_resuming_stream
from trio_stt.dialects.events import StreamRequest, Transcript, Translation
from trio_stt.settings import Secret
from trio_stt.transcribe.bilingual import Bilingual, Captioned
from trio_stt.transcribe.display import Display
from trio_stt.transcribe.exit_codes import ExitCode
from trio_stt.transcribe.formats import CaptionFormat
from trio_stt.transcribe.sound import SourceError
from trio_stt.transcribe.sources import Sound, Source
from trio_stt.transcribe.streaming import Outcome, stream_captions

PATIENCE_S = 60.0
"""Long enough for a server that is replaced: it drains (`DRAIN_TIMEOUT_S`, 10) and the next one loads its models."""


@frozen
class LanguageFile:
    """A file for one language; None: what was said."""

    language: str | None
    caption_format: CaptionFormat
    path: Path


@frozen
class Job:
    """What to do. `request` is opened at a server once for each source; `realtime`: no faster than it was spoken.

    With `files` these are written, and nothing to standard output. `whole_call`: captions of all clients are written,
    with their times since we came, not only our own. `token`: what the server is shown, if it asks for one.
    `patience_s`: for how long a server that was lost is waited for.
    """

    sources: Sequence[Source]
    request: StreamRequest
    caption_format: CaptionFormat
    realtime: bool
    files: Sequence[LanguageFile] = ()
    whole_call: bool = False
    token: Secret | None = None
    patience_s: float = PATIENCE_S


class ServerStartError(Exception):
    """A server of our own could not be started. The message says why and what to do."""


class _OutputError(Exception):
    """Standard output cannot be written; `code` is what to exit with."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Transcription:
    """The run itself. It is also the listener of the streams: it writes finals and shows partials."""

    def __init__(self, job: Job, output: BinaryIO, display: Display, interrupted: trio.Event) -> None:
        self._job = job
        self._output = output
        self._display = display
        self._interrupted = interrupted
        self._source_name = ""
        self._offset_s = 0.0
        self._began_at = time.time()
        self._bilingual = Bilingual(())
        self._header_written = False
        self._streaming = False
        self._served = False  # by any server, ever

    async def run(self, server: str) -> ExitCode:
        """Transcribes all sources at the server with that address. A source that cannot be read is left out."""
        worst = ExitCode.OK
        for source in self._job.sources:
            code = await self._transcribe(source, server)
            if warning := source.warning():
                self._display.message(f"Warning: {warning}")
            if self._interrupted.is_set():
                return ExitCode.INTERRUPTED
            if code not in (ExitCode.OK, ExitCode.SOURCE):
                return code
            worst = max(worst, code)
        return worst

    async def _transcribe(self, source: Source, server: str) -> ExitCode:
        code = ExitCode.INTERRUPTED
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_interrupted, source, nursery.cancel_scope)
            try:
                code = await self._open_and_stream(source, server)
            except SourceError as error:
                self._display.message(f"Error: {error}")
                code = ExitCode.SOURCE
            except ServerUnreachableError as error:
                self._display.message(
                    f"Error: {error}. Is it running ('trio-stt serve')? Without --server one is started for you."
                )
                code = ExitCode.SERVER
            except StreamRefusedError as error:
                self._display.message(f"Error: the server refused: {error}.{_advice_on(error)}")
                code = ExitCode.SERVER
            nursery.cancel_scope.cancel()
        return code

    async def _stop_when_interrupted(self, source: Source, transcribing: trio.CancelScope) -> None:
        await self._interrupted.wait()
        source.stop()
        if not self._streaming:  # while streaming, the last words are waited for
            transcribing.cancel()

    async def _open_and_stream(self, source: Source, server: str) -> ExitCode:
        self._bilingual = Bilingual(self._job.request.target if self._job.request.translation else ())
        token = None if self._job.token is None else self._job.token.text
        async with source.open() as sound:
            self._source_name = source.name
            async with open_resuming_stream(
                server, self._job.request, token=token, live=False, patience_s=self._job.patience_s
            ) as stream:
                outcome = await self._stream(sound, stream, source.name, server)
        self._offset_s += outcome.sent_s
        if outcome.source_error is not None:
            raise outcome.source_error
        if outcome.lost is not None:
            self._display.message(
                f"Error: the connection was lost after {outcome.done_s:.0f} s of {source.name}: {outcome.lost}. "
                "What was recognised until then has been written; run again for the rest."
            )
            return ExitCode.CONNECTION
        return ExitCode.OK

    async def _stream(self, sound: Sound, stream: ResumingStream, name: str, server: str) -> Outcome:
        self._streaming = True
        try:
            with self._display.showing(name, sound.duration_s):
                outcome = await stream_captions(
                    sound,
                    stream,
                    None if self._job.whole_call else self._job.request.client_id,
                    self,
                    self._interrupted,
                    realtime=self._job.realtime,
                    first=None if self._served else server,
                )
                await self.on_translations_lost()  # none comes any more
                return outcome
        finally:
            self._streaming = False

    async def on_ready(self) -> None:
        """Writes what stands before everything."""
        self._served = True
        self._bilingual.wait_anew(trio.current_time())
        await self._write("")

    async def on_partial(self, transcript: Transcript) -> None:
        """Shows the words so far."""
        self._display.partial(transcript.text)

    async def on_final(self, transcript: Transcript) -> None:
        """Writes the utterance, as soon as its translations are there."""
        self._display.partial("")
        self._bilingual.final(transcript, trio.current_time())
        await self.on_beat()

    async def on_translation(self, translation: Translation) -> None:
        """Writes the utterance with it."""
        self._bilingual.translation(translation)
        await self.on_beat()

    async def on_translations_lost(self) -> None:
        """Writes what waited for translations without them."""
        self._bilingual.give_up()
        await self.on_beat()

    async def on_beat(self) -> None:
        """Writes what waited in vain for a translation."""
        for caption in self._bilingual.ready(trio.current_time()):
            await self._write_caption(caption)

    def on_progress(self, done_s: float) -> None:
        """Moves the progress bar."""
        self._display.progress(done_s)

    def on_message(self, text: str) -> None:
        """Shows what the server has to say."""
        self._display.message(text)

    async def _write_caption(self, caption: Captioned) -> None:
        transcript = caption.transcript
        offset_s = self._offset_s
        if self._job.whole_call:  # each stream has a clock of its own; what they have in common is the time of day
            offset_s = transcript.timestamp - self._began_at - transcript.end_sample / transcript.sample_rate
        if not self._job.files:
            await self._write(self._job.caption_format.caption(self._source_name, caption, offset_s))
        for file in self._job.files:
            if file.language is None:
                own = Captioned(transcript)
            elif file.language in caption.translations:
                text = caption.translations[file.language]
                own = Captioned(attrs.evolve(transcript, text=text, words=(), language=file.language))
            else:
                continue
            await self._append(file, file.caption_format.caption(self._source_name, own, offset_s))

    async def _append(self, file: LanguageFile, text: str) -> None:
        try:
            await trio.to_thread.run_sync(_append_all, file.path, text.encode(), abandon_on_cancel=True)
        except OSError as error:
            raise _OutputError(ExitCode.OUTPUT, f"{file.path} cannot be written: {error.strerror}.") from error

    async def _write(self, text: str) -> None:
        if self._job.files:
            if not self._header_written:
                self._header_written = True
                for file in self._job.files:
                    file.path.unlink(missing_ok=True)
                    await self._append(file, file.caption_format.header())
            return
        if not self._header_written:
            self._header_written = True
            text = self._job.caption_format.header() + text
        if not text:
            return
        try:
            with self._display.making_room():
                # In a thread, and left behind if need be: a reader that stands still holds up neither Ctrl-C nor a
                # server in this process.
                await trio.to_thread.run_sync(_write_all, self._output, text.encode(), abandon_on_cancel=True)
        except BrokenPipeError:
            raise _OutputError(ExitCode.OUTPUT_CLOSED, "") from None
        except OSError as error:
            message = f"standard output cannot be written: {error.strerror}."
            raise _OutputError(ExitCode.OUTPUT, message) from error


def _advice_on(refusal: StreamRefusedError) -> str:
    if refusal.status == 401:
        return " Its operator makes tokens with 'trio-stt token'; put yours into ACCESS_TOKEN."
    return "" if refusal.retry_after_s is None else f" Try again in {refusal.retry_after_s:g} s."


def _write_all(output: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) :]
    output.flush()


def _append_all(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def run_job(
    job: Job, open_server: Callable[[], AbstractAsyncContextManager[str]], output: BinaryIO, display: Display
) -> ExitCode:
    """Does the job and returns the exit code; everything that goes wrong is told on `display`.

    `open_server`: gives the server's ``ws://`` address while its block runs, or raises `ServerStartError`. `output`: a
    raw (unbuffered) stream for the results. Ctrl-C ends it with what was recognised so far, a second one at once. Runs
    in the main thread only.
    """
    code = ExitCode.INTERRUPTED
    interrupted = trio.Event()
    transcription = _Transcription(job, output, display, interrupted)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_interrupts, interrupted, nursery.cancel_scope)
            async with open_server() as server:
                code = await transcription.run(server)
            nursery.cancel_scope.cancel()
    except* ServerStartError as group:
        for start_error in _leaves(group):
            display.message(f"Error: no server could be started: {start_error}")
        code = ExitCode.SERVER
    except* _OutputError as group:
        for output_error in _leaves(group):
            if str(output_error):
                display.message(f"Error: {output_error}")
            code = output_error.code
    return code


async def _watch_interrupts(
    interrupted: trio.Event, running: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if interrupted.is_set():
                running.cancel()
            interrupted.set()


_Leaf = TypeVar("_Leaf", bound=Exception)


def _leaves(group: BaseExceptionGroup[_Leaf]) -> Iterator[_Leaf]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
