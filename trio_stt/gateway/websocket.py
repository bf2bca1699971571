"""``/ws/vosk/``: a client of the native dialect, member of a call."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import attrs
import structlog
import trio
from attrs import evolve, frozen

from trio_stt.dialects.events import (
    Ack,
    Audio,
    Close,
    Failure,
    GoAway,
    Misuse,
    Pong,
    Ready,
    Resume,
    ServerEvent,
    StreamRequest,
)
from trio_stt.dialects.native import NativeDialect, encode
from trio_stt.dialects.request import Refusal, language_unavailable, primary_subtag
from trio_stt.gateway.connection import OUR_FAULT, RESTARTING, Connection, Surroundings
from trio_stt.gateway.resume_tokens import ResumableStream, ResumeTokens
from trio_stt.gateway.socket import Socket
from trio_stt.recognition.shelved_model import Loan
from trio_stt.recognition.speaker import SpeakerRecogniser
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.bus import Bus
from trio_stt.sessions.captioner import BEGINNING, Captioner, Origin
from trio_stt.sessions.journal import Journal, StreamJournal
from trio_stt.sessions.publisher import Publisher
from trio_stt.sessions.resume import Asked, take_up
from trio_stt.sessions.session import READS_TOO_SLOWLY, RESUMED, Member, Session, Sessions, call_of
from trio_stt.sessions.stream import Stream

FIRST_EPOCH = 1
"""Of a connection that begins a stream: nobody can have taken a higher one."""

FIRST_MESSAGE_S = 10.0
"""With ``resume=true`` the first message has to be there so soon."""

NO_FIRST_MESSAGE = Close(1013, "no resume came")
"""It may be this process that was frozen, or the network slow: the client should try again, which 1008 would forbid."""

NOT_KEPT = Close(1006, "too many streams wait for their clients")
"""What becomes of a parked stream that is ended before its time."""

RENEWED_AT = 0.4
"""A resume token is replaced when this share of its life is over; the wire promises half."""


@frozen
class StreamIds:
    """What a stream is called, on the wire and in captions; and its connection, which is another after a resume."""

    stream: str
    connection: str


@frozen
class CallSurroundings(Surroundings):
    """What a member of a call needs besides."""

    sessions: Sessions
    bus: Bus
    journal: Journal
    resume_tokens: ResumeTokens
    make_captioner: Callable[
        [StreamRequest, StreamIds, Session, Publisher, Backlog, Loan, Origin, structlog.stdlib.BoundLogger], Captioner
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
        on_parked: Callable[[], None] = lambda: None,
    ) -> None:
        """`model`: what hears a speaker; whoever lent it closes it if this never came to hear.

        `on_parked` is called when the peer has gone and the stream is kept.
        """
        super().__init__(request, socket, around, expires_at=expires_at)
        self._call = around
        self._model = model
        self._dialect = NativeDialect(request)
        self._member = Member(request, self._outbox, self.stop, self.stream_id)
        self._captioner: Captioner | None = None
        self._stream: Stream | None = None
        self._journal: StreamJournal | None = None
        self._resumable = ResumableStream(self.stream_id, FIRST_EPOCH, time.time())
        self._origin = BEGINNING
        self._acked = 0  # where a stream that goes on was acknowledged as it began here
        self._renew_at = math.inf
        self._on_parked = on_parked
        self._parked = False

    def stop(self, close: Close) -> None:
        """Ends the connection. Returns at once."""
        super().stop(close)
        if self._stream is not None and close is not self._backlog.close:  # it was ending already
            self._stream.decide(close)
        if self._backlog.close is READS_TOO_SLOWLY:
            self._park()

    @property
    def parked(self) -> bool:
        """Whether the peer has gone, and the stream waits for its client to come back."""
        return self._parked

    def _park(self) -> None:
        """The peer has gone: if a stream waits for its client to come back, its place does not."""
        if self._stream is None or self._place is None or self._parked or not self._resume_window_s:
            return
        self._parked = True
        self._on_parked()
        self._place.park(self._end_parked)

    def _end_parked(self) -> None:
        self._log.info("parked_stream_ended")
        self.stop(NOT_KEPT)

    def send_away(self, deadline_ms: int, reason: str) -> None:
        """Sends `goaway`. Returns at once."""
        self._outbox.put(GoAway(deadline_ms, reason))

    def _on_lost(self) -> None:
        if self._resume_window_s:
            self._outbox.close(self._socket.peer_close)  # what is told from now on, another connection is told
            self._park()

    @property
    def resumable(self) -> bool:
        """Whether another connection may go on with its stream."""
        return self.request.speak and self.request.framing == "seq"

    @property
    def _resume_window_s(self) -> float:
        return self._settings.resume_window_s if self.resumable else 0.0

    def _give_up(self) -> None:
        if self._captioner is not None:
            self._captioner.give_up()

    async def _enter(self, held: ExitStack) -> None:
        held.callback(lambda: self._call.sessions.leave(self._member))
        if not self.request.resume:
            self._outbox.put(self._ready())
            # This process may have been frozen since the client asked, and the client have gone elsewhere meanwhile.
            self._session = await self._call.sessions.join(self._member, is_gone=self._socket.is_abandoned)

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
            if self.request.resume:
                refused = await self._go_on()
                if refused is not None:
                    return refused
            if self._model is not None:
                if self._journal is None:
                    self._journal = self._call.journal.open(
                        self._session.call, self._resumable.stream_id, fenced=self._fenced
                    )
                publisher = Publisher(self._member, self._session, self._journal)
                captioner = self._captioner = self._call.make_captioner(
                    self.request,
                    StreamIds(self._resumable.stream_id, self.stream_id),
                    self._session,
                    publisher,
                    self._backlog,
                    self._model,
                    self._origin,
                    self._log,
                )
            self._stream = Stream(
                self._member,
                self._backlog,
                captioner,
                publisher,
                check_language=self._check_language,
                change_language=self._change_language,
                check_translation=self._check_translation,
                wait_translated=lambda: self._session.wait_translated(self._resumable.stream_id),
                is_lost=lambda: self._is_lost,
                resume_window_s=self._resume_window_s,
                acked=self._acked,
            )
            if self._is_lost:  # while it was taken up
                self._park()
            return await self._stream.run()
        except trio.Cancelled:
            if captioner is not None and self._is_about_to_resume:
                captioner.discard()  # it has the sound: a final of the words known so far would keep the others from it
            raise
        finally:
            # They refer back here: kept, all that a stream took would wait for the garbage collector's last generation.
            journal, self._journal = self._journal, None
            self._captioner = self._stream = None
            if captioner is not None:
                captioner.give_up()
            if journal is not None:
                journal.close()
            if captioner is not None:
                with trio.CancelScope(shield=True):
                    await captioner.aclose()

    @property
    def _is_about_to_resume(self) -> bool:
        """Whether the client, told how its connection ends if that is cut now, goes on with its stream elsewhere."""
        is_there = bool(self._resume_window_s) and not self._is_lost
        return is_there and self._close_of_unfinished() in (OUR_FAULT, RESTARTING, READS_TOO_SLOWLY, RESUMED)

    def _fenced(self) -> None:
        self.stop(RESUMED)

    async def _go_on(self) -> Close | None:
        """Takes up the stream that the first message names; else how this connection ends."""
        asked: object = NO_FIRST_MESSAGE
        with trio.move_on_after(FIRST_MESSAGE_S):
            asked = await self._backlog.take()
        if isinstance(asked, Close):
            return asked
        if isinstance(asked, Misuse):
            self._outbox.put(asked.failure)
            return Close(asked.close_code or 1008, asked.failure.code)
        if not isinstance(asked, Resume):
            failure = Failure("bad_message", "with resume=true the first message is resume")
            self._outbox.put(failure)
            return Close(1008, failure.code)
        if self._backlog.close is not None:  # nobody waits for the answer: it must fence no newer connection
            return self._backlog.close
        known = self._call.resume_tokens.read(asked.token, self.request)
        if isinstance(known, str):
            failure = Failure("resume_refused", f"the stream cannot be resumed: {known}", {"reason": known})
            self._outbox.put(failure)
            return Close(1008, failure.code)
        await self._take_up(known, asked)
        return None

    async def _take_up(self, known: ResumableStream, asked: Resume) -> None:
        call, sessions = call_of(self.request), self._call.sessions
        session = sessions.find(call.tenant, call.session_id)
        older = None if session is None else session.find(self.request.client_id)
        if older is None or older.stream_id != known.stream_id:
            await self._take_up_from_elsewhere(known, asked)
            return
        older.handed_over = True
        older.stop(RESUMED)
        try:
            await self._take_up_from_elsewhere(known, asked)
        finally:
            older.handed_over = False
            sessions.leave(older)

    async def _take_up_from_elsewhere(self, known: ResumableStream, asked: Resume) -> None:
        call = call_of(self.request)
        stands = Asked(asked.from_sample, asked.accepted)
        journal = self._call.journal.take_over(call, known.stream_id, fenced=self._fenced, epoch=known.epoch)
        self._journal = journal
        taken = await take_up(self._call.bus, call, known.stream_id, known.epoch, stands, journal)
        journal.begin(taken.epoch, taken.from_sample)
        self._resumable = evolve(known, epoch=taken.epoch)
        began_at = trio.current_time() - (time.time() - known.began_at)
        self._origin = Origin(taken.from_sample, asked.accepted, began_at, f".{taken.epoch}")
        self._dialect.go_on_at(taken.from_sample)
        self._member.stream_id = self._member.goes_on_with = known.stream_id
        self._outbox.put(self._ready())
        for one in taken.finals:
            self._outbox.put(evolve(one.final, follows=one.follows, history=False))
        self._acked = taken.acked
        self._outbox.put(Ack(taken.acked))
        self._session = await self._call.sessions.join(self._member)
        self._log.info(
            "stream_resumed",
            resumed_stream_id=known.stream_id,
            epoch=taken.epoch,
            from_sample=taken.from_sample,
            finals=len(taken.finals),
        )

    def _encode(self, event: ServerEvent) -> str:
        return encode(event, timestamp=time.time(), words=self.request.words)

    @property
    def _received_s(self) -> float:
        return self._dialect.received_samples / self.request.sample_rate

    def _ready(self) -> Ready:
        return Ready(
            session_id=self.request.session_id,
            client_id=self.request.client_id,
            stream_id=self._resumable.stream_id,
            language=self.request.language,
            sample_rate=self.request.sample_rate,
            encoding=self.request.encoding,
            epoch=self._resumable.epoch,
            from_sample=self._origin.sample,
            resume_token=self._new_token() if self.resumable else None,
            heartbeat_ms=self._settings.heartbeat_ms,
            resume_window_ms=round(1000 * self._resume_window_s),
            max_ahead_ms=self._settings.max_ahead_ms,
            instance=self._settings.instance,
        )

    def _new_token(self) -> str:
        tokens = self._call.resume_tokens
        self._renew_at = trio.current_time() + RENEWED_AT * tokens.life_s
        return tokens.issue(self.request, self._resumable)

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
            stream = self._stream if self.request.speak else None
            if stream is not None and trio.current_time() >= self._renew_at:
                self._outbox.put(Ack(stream.acked, resume_token=self._new_token()))
            if trio.current_time() >= due:
                if not len(self._outbox):  # else something is about to be sent anyway
                    if stream is not None:
                        self._outbox.put(Ack(stream.acked))
                    elif not self.request.resume:  # else nothing comes before `ready`
                        self._outbox.put(Pong())
                due = trio.current_time() + every_s
            await trio.sleep_until(due)
