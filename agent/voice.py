"""One voice in the room on its way through the server: its sound goes there while it is loud, its finals come back.

The stream to the server is opened when the voice is first heard, survives lost servers, and ends after long silence:
a microphone that is open and silent costs nothing. A stream that the server ends is followed by another one, which
begins with what the server said nothing of. Sound and finals do not depend on LiveKit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from agent.energy_gate import Edge, EnergyGate
from agent.settings import AgentSettings
from trio_stt.client.asyncio_connection import ResumingStream, StreamEndedError, open_resuming_stream
from trio_stt.client.resume_events import Ended, EndReason, Interrupted, Lost, Restarted, Resumed
from trio_stt.dialects.events import Failure, Ready, StreamRequest, Transcript

SAMPLE_RATE: Final = 16000

SILENCE_S: Final = 30.0
"""After so much silence the stream ends; the next word opens another."""

GONE_S: Final = 3.0
"""The same, where the track is gone."""

MUTED_S: Final = 1.0
"""Without any sound for so long, a track whose gate is open is as good as muted."""

LAST_WORDS_S: Final = 120.0
"""How long the last finals of a stream that was told to end are waited for: as long as its sound is kept."""

REFUSED_S: Final = 15.0
LONGEST_REFUSED_S: Final = 300.0
"""After the server refused a stream, or ended it for good, no other is opened for so long: from the first pause to
the longest, doubling. What can only change with the settings or the models waits for the longest at once."""

STEADY_S: Final = 5.0
"""A stream that lasted so long before the server ended it is followed by another one at once."""

HELD_S: Final = 120.0
"""So much sound is kept for a stream that cannot be opened yet; then the oldest is dropped, and counted."""


class _Pause:
    """What was given before it is an utterance: its final may come."""


class Voice:
    """One voice. `heard` is called with each final of it, `begins` when it is heard after silence.

    `given_up` is called when no final comes of what was said last: the server does not take the voice any more.
    """

    def __init__(
        self,
        settings: AgentSettings,
        call: str,
        client: str,
        language: str,
        heard: Callable[[Transcript], None],
        begins: Callable[[], None],
        log: structlog.stdlib.BoundLogger,
        given_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.client = client
        self.language = language
        self.state = "silent"
        """silent, open, waiting for a server, refused: CODE, ended."""
        self.heard_s = 0.0
        self.sent_s = 0.0
        self.lost_s = 0.0
        self.finals = 0
        self._settings = settings
        self._call = call
        self._heard = heard
        self._begins = begins
        self._given_up = given_up
        self._log = log
        self._gate = EnergyGate(settings.gate_dbfs, SAMPLE_RATE)
        self._waiting: deque[bytes | _Pause] = deque()
        self._waiting_samples = 0
        self._news = asyncio.Event()
        self._heard_at = 0.0
        self._patience_s = SILENCE_S
        self._refused_s = REFUSED_S
        self._refused_language: str | None = None
        self._ending = False

    # ── the sound ────────────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, samples: bytes) -> None:
        """The track's next samples: signed 16-bit, mono, `SAMPLE_RATE`."""
        self._heard_at = asyncio.get_running_loop().time()
        self._patience_s = SILENCE_S
        self.heard_s += _seconds(samples)
        passed = self._gate.feed(samples)
        if passed is None:
            return
        if passed.edge is Edge.OPENS:
            self._begins()
        self._put(passed.samples)
        if passed.edge is Edge.CLOSES:
            self._put(_Pause())

    def pause(self) -> None:
        """The track is muted or stuck: what was said so far is an utterance."""
        if self._gate.close():
            self._put(_Pause())

    def leave(self) -> None:
        """The track is gone; another one may come. The stream ends soon."""
        self._patience_s = GONE_S
        self._gate.close()
        self._put(_Pause())

    def tick(self) -> None:
        """Call about every half second: a track that sends nothing any more was muted without a word."""
        if self._gate.is_open and asyncio.get_running_loop().time() - self._heard_at > MUTED_S:
            self.pause()

    def end(self) -> None:
        """No more sound comes: `run` returns when the last finals are there."""
        self._ending = True
        self._gate.close()
        self._put(_Pause())

    @property
    def is_silent(self) -> bool:
        """Whether no stream is open and no sound waits for one."""
        return self.state != "open" and self.state != "waiting for a server" and not self._waiting_samples

    def speaks(self, language: str) -> None:
        """From the next utterance on the voice speaks this language."""
        if language != self.language:
            self.language = language
            self.pause()
            self._news.set()

    def _put(self, item: bytes | _Pause) -> None:
        if self.state.startswith("refused"):
            if isinstance(item, bytes):
                self.lost_s += _seconds(item)
        else:
            self._waiting.append(item)
            if isinstance(item, bytes):
                self._waiting_samples += len(item) // 2
                self._drop_oldest()
        self._news.set()

    def _put_back(self, samples: bytes) -> None:
        if samples:
            self._waiting.appendleft(samples)
            self._waiting_samples += len(samples) // 2

    def _take(self) -> bytes | _Pause | None:
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if isinstance(item, bytes):
            self._waiting_samples -= len(item) // 2
        return item

    def _drop_oldest(self) -> None:
        while self._waiting_samples > HELD_S * SAMPLE_RATE:
            oldest = self._take()
            if isinstance(oldest, bytes):
                self.lost_s += _seconds(oldest)

    # ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Keeps the voice captioned until `end`. May be cancelled; what the server has not captioned then is not."""
        clock = asyncio.get_running_loop().time
        while True:
            item = self._take()
            if item is None:
                if self._ending:
                    break
                self._news.clear()
                await self._news.wait()
            elif isinstance(item, bytes):
                began = clock()
                ended = await self._speak(item)
                if ended is not None:
                    await self._after(ended, clock() - began)
        self.state = "ended"

    async def _after(self, ended: Ended, lasted_s: float) -> None:
        """The server ended the stream, or refused it: waits until another one makes sense."""
        if ended.reason is EndReason.FINISHED:  # it was idle, or has lasted for as long as one may
            if lasted_s < STEADY_S:
                await self._wait(self._refused_s, lambda: False)
            return
        lasting = ended.reason is EndReason.REFUSED
        pause_s = LONGEST_REFUSED_S if lasting else self._refused_s
        self._refused_s = min(2 * self._refused_s, LONGEST_REFUSED_S)
        self.state = f"refused: {ended.code or ended.reason.value}"
        self._log.warning(
            "voice_refused",
            client=self.client,
            language=self.language,
            reason=ended.reason.value,
            code=ended.code,
            message=ended.message,
            again_in_s=pause_s,
        )
        self._given_up()
        self.lost_s += self._waiting_samples / SAMPLE_RATE
        self._waiting.clear()
        self._waiting_samples = 0
        language = self.language
        await self._wait(pause_s, lambda: self.language != language)
        self.state = "silent"

    async def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Waits so long, or until it is enough, or the voice ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._ending and not enough():
                    self._news.clear()
                    await self._news.wait()

    async def _speak(self, first: bytes) -> Ended | None:
        """One stream, from the first sound to long silence. Returns why the server ended it; None: we did."""
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
            reader.add_done_callback(lambda _: self._news.set())
            try:
                is_ended_by_us = await self._feed(stream, first)
                async with asyncio.timeout(LAST_WORDS_S):
                    await reader
            except TimeoutError:
                self._log.warning("last_words_not_there", client=self.client)
                return None
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                self.state = "silent"
            if is_ended_by_us and stream.ended is not None and stream.ended.reason is EndReason.FINISHED:
                return None
            self.lost_s -= _seconds(stream.unsettled)
            self._put_back(stream.unsettled)
            return stream.ended

    async def _feed(self, stream: ResumingStream, first: bytes) -> bool:
        """Gives sound until long silence, another language or `end`, and then ends the stream.

        False: the server ended it before; what it did not take waits again.
        """
        language = self.language
        item: bytes | _Pause | None = first
        try:
            while item is not None:
                if isinstance(item, bytes):
                    await stream.send_audio(item)
                    self.sent_s += _seconds(item)
                else:
                    with suppress(ValueError):  # the server has been away for so long that a thousand wait already
                        await stream.finalize()
                    if self.language != language or (self._ending and not self._waiting):
                        break
                item = None  # it is taken: `_next` may raise
                item = await self._next(stream)
            await stream.end()
        except StreamEndedError:
            if isinstance(item, bytes):
                self._put_back(item)
            return False
        return True

    async def _next(self, stream: ResumingStream) -> bytes | _Pause | None:
        """What is to be sent next; None after long silence. Raises `StreamEndedError`."""
        until = asyncio.get_running_loop().time() + self._patience_s
        while True:
            if stream.ended is not None:
                raise StreamEndedError(stream.ended)
            item = self._take()
            if item is not None:
                return item
            self._news.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return None

    async def _read(self, stream: ResumingStream) -> None:
        async for event in stream:
            match event:
                case Transcript(client_id=self.client, is_final=True):
                    self.finals += 1
                    self._heard(event)
                case Lost(first, last):
                    self.lost_s += (last - first) / SAMPLE_RATE
                case Interrupted(why):
                    self.state = "waiting for a server"
                    self._log.info("voice_interrupted", client=self.client, why=why)
                case Ready() | Resumed() | Restarted():
                    self._refused_s = REFUSED_S
                    if self.state == "waiting for a server":
                        self._log.info("voice_goes_on", client=self.client, how=type(event).__name__.lower())
                    self.state = "open"
                case Failure(code=code):
                    self._log.warning("voice_failure", client=self.client, code=code)
                case _:
                    pass


def _seconds(samples: bytes) -> float:
    return len(samples) / 2 / SAMPLE_RATE
