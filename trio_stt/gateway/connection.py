"""What every WebSocket's connection is, whatever its dialect: from the upgrade to the close frame.

Tasks of one connection, all in one nursery: *receive* (socket → dialect → backlog, and nothing else, because a handler
that does not receive is not told that the peer has gone), *stream* (backlog → outbox, shielded: what was received is
dealt with even when the connection is cancelled), *send* (outbox → socket), and the timers.
"""

from __future__ import annotations

import math
import secrets
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import ClassVar, Generic

import structlog
import trio
from attrs import frozen

from trio_stt.dialects.events import Close, Failure, StreamRequest
from trio_stt.gateway.admission import Admission, Place, Readiness
from trio_stt.gateway.connections import Connections
from trio_stt.gateway.quotas import Quotas
from trio_stt.gateway.socket import Socket
from trio_stt.operations.metrics import Metrics
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.outbox import Event, Outbox
from trio_stt.sessions.session import READS_TOO_SLOWLY
from trio_stt.settings import Settings

IDLE = Close(1000, "Idle timeout")
TOO_LONG = Close(1000, "Max duration reached")
OUR_FAULT = Close(1011, "internal error")
RESTARTING = Close(1012, "restarting")
TOKEN_EXPIRED = Close(
    1008, "token_expired", Failure("token_expired", "the access token has expired; connect again with a new one")
)
QUOTA_USED_UP = Close(
    1008, "quota_used_up", Failure("quota_used_up", "the audio that may be sent in a day (UTC) is used up")
)

CLOCK_LOOK_S = 60.0
"""How long a step of the wall clock, or a machine that slept, may keep a token alive."""

FINISH_S = 10.0
"""The longest that a stream whose peer has gone, or that hangs, may take to deal with what was received."""

MAX_RUN_MS = 400
"""Most audio that the stream takes from its backlog at once: larger runs cost less each second when it is behind."""


@frozen
class Surroundings:
    """What every connection is given; the same for all of them."""

    settings: Settings
    admission: Admission
    connections: Connections
    metrics: Metrics
    quotas: Quotas


class Connection(ABC, Generic[Event]):
    """One admitted connection. `run` is its whole life; `stop` ends it from outside. A dialect adds what it means."""

    dialect: ClassVar[str]
    """The dialect's name, for the log."""

    def __init__(
        self, request: StreamRequest, socket: Socket, around: Surroundings, *, expires_at: float | None = None
    ) -> None:
        """`expires_at`: when its right to be here ends, in Unix seconds; None: never."""
        self.request = request
        self.stream_id = secrets.token_hex(6)
        self.opened_at = time.monotonic()
        self._socket = socket
        self._around = around
        self._settings = around.settings
        self._outbox: Outbox[Event] = Outbox()
        self._backlog = Backlog(**self._backlog_bounds(request.sample_rate))
        self._finishing = trio.CancelScope(shield=True)
        self._is_lost = False  # the peer has gone without a goodbye
        self._nobody_reads = False  # the peer has gone, or is closed because it reads too slowly
        self._listening_since = math.inf
        self._sending_since: float | None = None
        self._sent_at = trio.current_time()
        self._expires_at = expires_at
        self._close = Close(1006, "")
        self._held = ExitStack()
        self._place: Place | None = None
        self._log = structlog.get_logger().bind(
            stream_id=self.stream_id, session_id=request.session_id, client_id=request.client_id
        )
        if request.tenant:
            self._log = self._log.bind(tenant=request.tenant)

    # ── what a dialect adds ──────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def _enter(self, held: ExitStack) -> None:
        """The socket is accepted: joins what the client is part of; `held` leaves it again. May be cancelled.

        Raises `trio.EndOfChannel` if the peer has gone and must not be joined any more.
        """

    @abstractmethod
    async def _take(self, frame: bytes | str) -> None:
        """Puts what a frame means into the backlog."""

    @abstractmethod
    async def _converse(self) -> Close:
        """Deals with the backlog until the stream ends; returns how. Whatever it raises closes with 1011."""

    @abstractmethod
    def _encode(self, event: Event) -> str:
        """The text message for what the stream put into the outbox."""

    @property
    def _continuous(self) -> bool:
        """Whether everything is decoded, silence too, even where there is a speech gate."""
        return False

    @property
    @abstractmethod
    def _received_s(self) -> float:
        """How much audio has come, in seconds."""

    def _start_timers(self, nursery: trio.Nursery) -> None:
        """Starts tasks that belong to the dialect."""

    @property
    def resumable(self) -> bool:
        """Whether another connection may go on with its stream."""
        return False

    @property
    def parked(self) -> bool:
        """Whether the peer has gone, and the stream waits for its client to come back."""
        return False

    def send_away(self, deadline_ms: int, reason: str) -> None:
        """Tells the client to be elsewhere by then, if the dialect can say so. Returns at once."""

    def _on_lost(self) -> None:
        """The peer has gone without a goodbye."""

    @property
    def _resume_window_s(self) -> float:
        """How long a stream whose peer has gone is kept for another connection to go on with."""
        return 0.0

    def _give_up(self) -> None:
        """The stream will not come back: captions what is known of its open utterance, if the dialect can."""

    # ── the same for all ─────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, close: Close) -> None:
        """Ends the connection: what was received is captioned, then the close frame is sent. Returns at once."""
        if close is READS_TOO_SLOWLY:
            self._outbox.abandon(close)
            self._nobody_reads = True
        self._backlog.finish(close)
        self._bound_finishing()

    def cut(self) -> None:
        """Ends the stream now, whatever it still has to caption; its close frame is sent. Returns at once."""
        self._finishing.cancel()

    def hang_up(self, close: Close) -> None:
        """Ends the connection while its stream hangs in a recogniser call. Returns at once.

        Everything is given back but the task that waits for the call, and the recogniser that the call is using.
        """
        self._log.error("stream_hung", code=close.code, unread_samples=self._backlog.samples)
        self._close = close
        self.cut()
        self._give_up()
        self._outbox.close(close)
        self._held.close()

    async def run(self) -> None:
        """From accepting the socket to the close frame, by whatever road. Everything is released when it returns."""
        around = self._around
        with self._held as held:
            # Entered before anybody else is admitted, left as soon as the stream is over: a peer that does not take its
            # close frame holds nothing.
            place = around.admission.place(self.request, self.stream_id, continuous=self._continuous)
            self._place = held.enter_context(place)
            await self._socket.accept()
            around.metrics.connections.inc()
            around.connections.add(self)
            if around.admission.readiness is Readiness.DRAINING:  # since it was admitted
                self.stop(RESTARTING)
            held.callback(lambda: around.connections.remove(self, self._close))
            try:
                await self._enter(held)
            except trio.EndOfChannel:
                self._log.info("connection_abandoned")
                return
            self._log.info(
                "stream_opened",
                dialect=self.dialect,
                speak=self.request.speak,
                sample_rate=self.request.sample_rate,
            )
            try:
                await self._run_tasks(held)
            except* Exception:  # noqa: BLE001  (a boundary, as below)
                self._log.exception("connection_failed")
                await self._socket.close(OUR_FAULT)

    async def _run_tasks(self, held: ExitStack) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._send, nursery)
            nursery.start_soon(self._watch_slow_reader)
            self._start_timers(nursery)
            if self.request.idle_timeout_s is not None:
                nursery.start_soon(self._watch_idle, self.request.idle_timeout_s)
            if self.request.max_duration_s is not None:
                nursery.start_soon(self._expire, self.request.max_duration_s)
            if self._expires_at is not None:
                nursery.start_soon(self._watch_token, self._expires_at)
            with self._finishing:
                self._close = await self._run_stream()
            if self._finishing.cancelled_caught:
                self._close = self._close_of_unfinished()
                self._log.error("stream_unfinished", unread_samples=self._backlog.samples)
            self._outbox.close(self._close)
            held.close()
            self._log.info(
                "stream_closed",
                code=self._close.code,
                reason=self._close.label,
                duration_s=round(time.monotonic() - self.opened_at, 3),
                audio_s=round(self._received_s, 3),
            )

    async def _run_stream(self) -> Close:
        try:
            return await self._converse()
        except Exception:  # noqa: BLE001  (a boundary: whatever it was, this client is told 1011 and the others go on)
            # Logged here: what is raised while the connection is being cancelled is lost further up.
            self._log.exception("stream_failed")
            return OUR_FAULT

    def _close_of_unfinished(self) -> Close:
        """A stream that did not end properly must not be told 1000: its client would take everything as captioned."""
        meant = self._backlog.close
        return OUR_FAULT if meant is None or meant.code == 1000 else meant

    async def _receive(self) -> None:
        try:
            while True:
                self._listening_since = trio.current_time()
                messages = await self._socket.receive_some()
                self._listening_since = math.inf
                for message in messages:
                    if not self._backlog.finished:  # else it is read so that the peer can read our close frame
                        await self._take(message)
        except trio.EndOfChannel:
            self._nobody_reads = True
            if not self._backlog.finished:
                self._is_lost = True
                self._on_lost()
            self.stop(self._socket.peer_close)
        finally:
            # Nobody will feed the stream any more. It is shielded, so it must be told: also when another task failed.
            if not self._backlog.finished:
                self.stop(OUR_FAULT)

    async def _watch_idle(self, limit_s: float) -> None:
        # A timer around each message would cost more than the message.
        while not self._backlog.finished:
            now = trio.current_time()
            if now - self._listening_since >= limit_s:
                self.stop(IDLE)
            else:
                await trio.sleep_until(min(self._listening_since, now) + limit_s)

    async def _send(self, nursery: trio.Nursery) -> None:
        while True:
            event = await self._outbox.take()
            if isinstance(event, Close):
                break
            await self._transmit(self._encode(event))
        await self._socket.close(event)
        nursery.cancel_scope.cancel()

    async def _transmit(self, text: str) -> None:
        self._sending_since = trio.current_time()
        await self._socket.send(text)
        self._sending_since = None
        self._sent_at = trio.current_time()

    async def _watch_slow_reader(self) -> None:
        limit = self._settings.slow_reader_timeout_s
        while not self._outbox.closed:
            since = self._sending_since
            now = trio.current_time()
            if since is not None and now - since >= limit:
                self.stop(READS_TOO_SLOWLY)
                return
            await trio.sleep(limit / 4)

    async def _expire(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self.stop(TOO_LONG)

    async def _watch_token(self, expires_at: float) -> None:
        while (left_s := expires_at - time.time()) > 0:  # noqa: ASYNC110  (it is the wall clock that ends it)
            await trio.sleep(min(left_s, CLOCK_LOOK_S))
        self.stop(TOKEN_EXPIRED)

    def _spend(self, audio_s: float) -> None:
        """Counts audio that was received; ends the stream when its tenant has no more for today."""
        self._around.metrics.audio_seconds.inc(audio_s)
        self._around.quotas.spend(self.request.tenant, audio_s)
        if self._around.quotas.is_used_up(self.request.tenant):
            self.stop(QUOTA_USED_UP)

    def _bound_finishing(self) -> None:
        most_s = FINISH_S + self._resume_window_s
        self._finishing.deadline = min(self._finishing.deadline, trio.current_time() + most_s)

    def _backlog_bounds(self, sample_rate: int) -> dict[str, int]:
        return {
            "max_ahead_samples": self._settings.max_ahead_ms * sample_rate // 1000,
            "max_run_samples": MAX_RUN_MS * sample_rate // 1000,
        }
