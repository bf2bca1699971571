"""One voice in the room on its way through the server: its sound goes there while it is loud, its finals come back.

The stream to the server is opened when the voice is first heard, survives lost servers, and ends after long silence:
a microphone that is open and silent costs nothing. Sound and finals do not depend on LiveKit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from agent.energy_gate import Edge, EnergyGate
from agent.settings import AgentSettings
from trio_stt.client.asyncio_connection import ResumingStream, StreamEndedError, open_resuming_stream
from trio_stt.client.resume_events import Ended, EndReason, Interrupted, Lost, Restarted, Resumed
from trio_stt.dialects.events import Failure, StreamRequest, Transcript

SAMPLE_RATE: Final = 16000

SILENCE_S: Final = 30.0
"""After so much silence the stream ends; the next word opens another."""

MUTED_S: Final = 1.0
"""Without any sound for so long, a track whose gate is open is as good as muted."""

LAST_WORDS_S: Final = 15.0
"""How long the last finals of a stream that was told to end are waited for."""

REFUSED_S: Final = 15.0
"""After the server refused a stream, or ended it for good, no other is opened for so long."""

HELD_S: Final = 120.0
"""So much sound is kept for a stream that cannot be opened yet; then the oldest is dropped, and counted."""


class _Pause:
    """What was given before it is an utterance: its final may come."""


class Voice:
    """One voice. `heard` is called with each final of it, `begins` when it is heard after silence."""

    def __init__(
        self,
        settings: AgentSettings,
        call: str,
        client: str,
        language: str,
        heard: Callable[[Transcript], None],
        begins: Callable[[], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.client = client
        self.language = language
        self.state = "silent"
        self.heard_s = 0.0
        self.sent_s = 0.0
        self.lost_s = 0.0
        self.finals = 0
        self._settings = settings
        self._call = call
        self._heard = heard
        self._begins = begins
        self._log = log
        self._gate = EnergyGate(settings.gate_dbfs, SAMPLE_RATE)
        self._waiting: asyncio.Queue[bytes | _Pause] = asyncio.Queue()
        self._waiting_s = 0.0
        self._heard_at = 0.0
        self._ending = False

    # ── the sound ────────────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, samples: bytes) -> None:
        """The track's next samples: signed 16-bit, mono, `SAMPLE_RATE`."""
        self._heard_at = asyncio.get_running_loop().time()
        self.heard_s += len(samples) / 2 / SAMPLE_RATE
        passed = self._gate.feed(samples)
        if passed is None:
            return
        if passed.edge is Edge.OPENS:
            self._begins()
        self._put(passed.samples)
        if passed.edge is Edge.CLOSES:
            self._waiting.put_nowait(_Pause())

    def pause(self) -> None:
        """The track is muted, gone or stuck: what was said so far is an utterance."""
        if self._gate.close():
            self._waiting.put_nowait(_Pause())

    def tick(self) -> None:
        """Call about every half second: a track that sends nothing any more was muted without a word."""
        if self._gate.is_open and asyncio.get_running_loop().time() - self._heard_at > MUTED_S:
            self.pause()

    def end(self) -> None:
        """No more sound comes: `run` returns when the last finals are there."""
        self.pause()
        self._ending = True
        self._waiting.put_nowait(_Pause())

    @property
    def is_silent(self) -> bool:
        """Whether no stream is open and nothing waits for one."""
        return self.state == "silent" and self._waiting.empty()

    def speaks(self, language: str) -> None:
        """From the next utterance on the voice speaks this language."""
        if language != self.language:
            self.language = language
            self.pause()

    def _put(self, samples: bytes) -> None:
        self._waiting.put_nowait(samples)
        self._waiting_s += len(samples) / 2 / SAMPLE_RATE
        while self._waiting_s > HELD_S:
            oldest = self._waiting.get_nowait()
            if isinstance(oldest, bytes):
                self.lost_s += len(oldest) / 2 / SAMPLE_RATE
                self._waiting_s -= len(oldest) / 2 / SAMPLE_RATE

    # ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Keeps the voice captioned until `end`, or cancelled."""
        while not (self._ending and self._waiting.empty()):
            first = await self._waiting.get()
            if isinstance(first, _Pause):
                continue
            ended = await self._speak(first)
            if ended is None or ended.reason is EndReason.FINISHED:
                continue
            self._log.warning(
                "voice_refused", client=self.client, reason=ended.reason.value, code=ended.code, message=ended.message
            )
            self.state = f"refused: {ended.code or ended.reason.value}"
            if self._ending:
                break
            await asyncio.sleep(REFUSED_S)
            self.state = "silent"
        self.state = "ended"

    async def _speak(self, first: bytes) -> Ended | None:
        """One stream, from the first sound to long silence. Returns why the server ended it, if it did."""
        self.state = "open"
        request = StreamRequest(
            client_id=self.client,
            session_id=self._call,
            language=self.language,
            sample_rate=SAMPLE_RATE,
            framing="seq",
            partials=False,
        )
        token = self._settings.stt_token(self._call)
        async with open_resuming_stream(self._settings.stt_url, request, token=token, live=True) as stream:
            reader = asyncio.create_task(self._read(stream))
            try:
                await self._feed(stream, first)
                async with asyncio.timeout(LAST_WORDS_S):
                    await reader
            except StreamEndedError:
                await reader  # there is the reason, too
            except TimeoutError:
                self._log.warning("last_words_not_there", client=self.client)
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                self.state = "silent"
            return stream.ended

    async def _feed(self, stream: ResumingStream, first: bytes) -> None:
        """Gives sound until long silence, another language or `end`, and then the end of the stream."""
        language = self.language
        item: bytes | _Pause = first
        while True:
            if isinstance(item, bytes):
                self._waiting_s -= len(item) / 2 / SAMPLE_RATE
                await stream.send_audio(item)
                self.sent_s += len(item) / 2 / SAMPLE_RATE
            else:
                await stream.finalize()
                if self.language != language or (self._ending and self._waiting.empty()):
                    break
            try:
                async with asyncio.timeout(SILENCE_S):
                    item = await self._waiting.get()
            except TimeoutError:
                break
        await stream.end()

    async def _read(self, stream: ResumingStream) -> None:
        async for event in stream:
            match event:
                case Transcript(client_id=self.client, is_final=True):
                    self.finals += 1
                    self._heard(event)
                case Lost(first, last):
                    self.lost_s += (last - first) / SAMPLE_RATE
                    self._log.warning("sound_lost", client=self.client, seconds=round((last - first) / SAMPLE_RATE, 2))
                case Interrupted(why):
                    self.state = "waiting for a server"
                    self._log.info("voice_interrupted", client=self.client, why=why)
                case Resumed() | Restarted():
                    self.state = "open"
                    self._log.info("voice_goes_on", client=self.client, how=type(event).__name__.lower())
                case Failure(code=code):
                    self._log.warning("voice_failure", client=self.client, code=code)
                case _:
                    pass
