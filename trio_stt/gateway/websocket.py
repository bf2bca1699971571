"""``/ws/vosk/``: a client of the native dialect, member of a call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import attrs
import structlog
import trio
from attrs import frozen

from trio_stt.dialects.events import Ack, Audio, Close, Failure, GoAway, Pong, Ready, ServerEvent, StreamRequest
from trio_stt.dialects.native import NativeDialect, encode
from trio_stt.dialects.request import Refusal, language_unavailable, primary_subtag
from trio_stt.gateway.connection import Connection, Surroundings
from trio_stt.gateway.socket import Socket
from trio_stt.recognition.shelved_model import Loan
from trio_stt.recognition.speaker import SpeakerRecogniser
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.captioner import Captioner
from trio_stt.sessions.journal import Journal
from trio_stt.sessions.publisher import Publisher
from trio_stt.sessions.session import REPLACED, Member, Session, Sessions
from trio_stt.sessions.stream import Stream

FIRST_EPOCH = 1
"""Of a connection that begins a stream: nobody can have taken a higher one."""


@frozen
class CallSurroundings(Surroundings):
    """What a member of a call needs besides."""

    sessions: Sessions
    journal: Journal
    make_captioner: Callable[
        [StreamRequest, str, Session, Publisher, Backlog, Loan, structlog.stdlib.BoundLogger], Captioner
    ]
    """The captioner closes the loan."""
    change_model: Callable[[StreamRequest, str, structlog.stdlib.BoundLogger], Awaitable[SpeakerRecogniser | Refusal]]
    """A recogniser for what an open stream asks to speak from now on; waits for its model for a bounded time."""
    check_translation: Callable[[StreamRequest], Refusal | None]


class NativeConnection(Connection[ServerEvent]):
    """A speaker or listener in a call."""

    dialect = "native"

    def __init__(
        self,
        request: StreamRequest,
        socket: Socket,
        around: CallSurroundings,
        model: Loan | None = None,
        *,
        expires_at: float | None = None,
    ) -> None:
        """`model`: what hears a speaker; whoever lent it closes it if this never came to hear."""
        super().__init__(request, socket, around, expires_at=expires_at)
        self._call = around
        self._model = model
        self._dialect = NativeDialect(request)
        self._member = Member(request, self._outbox, self.stop)
        self._captioner: Captioner | None = None
        self._stream: Stream | None = None

    def send_away(self, deadline_ms: int, reason: str) -> None:
        """Sends `goaway`. Returns at once."""
        self._outbox.put(GoAway(deadline_ms, reason))

    def _give_up(self) -> None:
        if self._captioner is not None:
            self._captioner.give_up()

    async def _enter(self, held: ExitStack) -> None:
        held.callback(lambda: self._call.sessions.leave(self._member))
        self._outbox.put(self._ready())
        self._session = await self._call.sessions.join(self._member)

    def _start_timers(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._beat)

    async def _take(self, frame: bytes | str) -> None:
        for event in self._dialect.receive(frame):
            await self._backlog.put(event)
            if isinstance(event, Audio):
                self._spend(event.count / self.request.sample_rate)

    async def _converse(self) -> Close:
        captioner = publisher = None
        try:
            if self._model is not None:
                journal = self._call.journal.open(
                    self._session.call, self.stream_id, fenced=lambda: self.stop(REPLACED), epoch=FIRST_EPOCH
                )
                publisher = Publisher(self._member, self._session, journal)
                captioner = self._captioner = self._call.make_captioner(
                    self.request, self.stream_id, self._session, publisher, self._backlog, self._model, self._log
                )
            self._stream = Stream(
                self._member,
                self._backlog,
                captioner,
                publisher,
                check_language=self._check_language,
                change_language=self._change_language,
                check_translation=self._check_translation,
                wait_translated=lambda: self._session.wait_translated(self.stream_id),
            )
            return await self._stream.run()
        finally:
            # They refer back here: kept, all that a stream took would wait for the garbage collector's last generation.
            self._captioner = self._stream = None
            if captioner is not None:
                captioner.give_up()
            if publisher is not None:
                publisher.close()
            if captioner is not None:
                with trio.CancelScope(shield=True):
                    await captioner.aclose()

    def _encode(self, event: ServerEvent) -> str:
        return encode(event, timestamp=time.time(), words=self.request.words)

    @property
    def _received_s(self) -> float:
        return self._dialect.received_samples / self.request.sample_rate

    def _ready(self) -> Ready:
        return Ready(
            session_id=self.request.session_id,
            client_id=self.request.client_id,
            stream_id=self.stream_id,
            language=self.request.language,
            sample_rate=self.request.sample_rate,
            encoding=self.request.encoding,
            epoch=FIRST_EPOCH,
            from_sample=0,
            resume_token=None,
            heartbeat_ms=self._settings.heartbeat_ms,
            resume_window_ms=0,
            max_ahead_ms=self._settings.max_ahead_ms,
            instance=self._settings.instance,
        )

    def _check_language(self, language: str) -> Failure | None:
        return None if self._around.admission.knows(language) else language_unavailable(language).failure()

    async def _change_language(self, language: str) -> Failure | None:
        captioner = self._captioner
        if captioner is None:
            raise RuntimeError("a listener needs no model")
        if primary_subtag(language) == primary_subtag(captioner.language):
            captioner.language = language
            return None
        request = attrs.evolve(self._member.request, language=language)
        recogniser = await self._call.change_model(request, self.stream_id, self._log)
        if isinstance(recogniser, Refusal):
            return recogniser.failure()
        await captioner.change_recogniser(recogniser, language)
        return None

    def _check_translation(self, request: StreamRequest) -> Failure | None:
        refusal = self._call.check_translation(request)
        return None if refusal is None else attrs.evolve(refusal, code="bad_value").failure()

    async def _beat(self) -> None:
        if self.request.framing != "seq":
            return
        every_s = self._settings.heartbeat_ms / 1000
        while not self._outbox.closed:
            due = self._sent_at + every_s
            if trio.current_time() >= due:
                if not len(self._outbox):  # else something is about to be sent anyway
                    stream = self._stream if self.request.speak else None
                    self._outbox.put(Pong() if stream is None else Ack(stream.acked))
                due = trio.current_time() + every_s
            await trio.sleep_until(due)
