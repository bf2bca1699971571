"""``/ws/vosk/``: one connection from the upgrade to the close frame.

Tasks of one connection, all in one nursery: *receive* (socket → dialect → backlog, and nothing else, because a handler
that does not receive is not told that the peer has gone), *stream* (backlog → captions, shielded: what was received is
captioned even when the peer has vanished), *send* (outbox → socket), and the timers.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack

import structlog
import trio
from attrs import frozen

from trio_stt.dialects.events import Ack, Audio, Close, Failure, GoAway, Pong, Ready, StreamRequest
from trio_stt.dialects.native import NativeDialect, encode
from trio_stt.dialects.request import language_unavailable, primary_subtag
from trio_stt.gateway.admission import Admission, Readiness
from trio_stt.gateway.connections import Connections
from trio_stt.gateway.hypercorn_websocket import CLOSE_LINGER_S
from trio_stt.gateway.socket import Socket
from trio_stt.operations.metrics import Metrics
from trio_stt.sessions.backlog import Backlog
from trio_stt.sessions.captioner import Captioner
from trio_stt.sessions.outbox import Outbox
from trio_stt.sessions.session import READS_TOO_SLOWLY, Member, Session, Sessions
from trio_stt.sessions.stream import Stream
from trio_stt.settings import Settings

IDLE = Close(1000, "Idle timeout")
TOO_LONG = Close(1000, "Max duration reached")
OUR_FAULT = Close(1011, "internal error")
RESTARTING = Close(1012, "restarting")

FINISH_S = 10.0
"""The longest that a stream whose peer has gone, or that hangs, may take to caption what was received."""

MAX_RUN_MS = 400
"""Most audio that the stream takes from its backlog at once: larger runs cost less each second when it is behind."""


@frozen
class Surroundings:
    """What every connection is given; the same for all of them."""

    settings: Settings
    admission: Admission
    sessions: Sessions
    connections: Connections
    metrics: Metrics
    make_captioner: Callable[[StreamRequest, str, Session, Backlog, structlog.stdlib.BoundLogger], Captioner]


class Connection:
    """One admitted connection. `run` is its whole life; `stop` ends it from outside."""

    def __init__(self, request: StreamRequest, socket: Socket, around: Surroundings) -> None:
        self.request = request
        self.stream_id = secrets.token_hex(6)
        self.opened_at = time.monotonic()
        self._socket = socket
        self._around = around
        self._settings = around.settings
        self._dialect = NativeDialect(request)
        self._outbox = Outbox()
        rate_per_ms = request.sample_rate / 1000
        self._backlog = Backlog(
            max_ahead_samples=round(around.settings.max_ahead_ms * rate_per_ms),
            max_run_samples=round(MAX_RUN_MS * rate_per_ms),
        )
        self._member = Member(request, self._outbox, self.stop)
        self._finishing = trio.CancelScope(shield=True)
        self._peer_gone = trio.Event()
        self._said_goodbye = False
        self._sending_since: float | None = None
        self._sent_at = trio.current_time()
        self._close = Close(1006, "")
        self._captioner: Captioner | None = None
        self._held = ExitStack()
        self._log = structlog.get_logger().bind(
            stream_id=self.stream_id, session_id=request.session_id, client_id=request.client_id
        )

    def stop(self, close: Close) -> None:
        """Ends the connection: what was received is captioned, then the close frame is sent. Returns at once."""
        if close is READS_TOO_SLOWLY:
            self._outbox.abandon(close)
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
        if self._captioner is not None:
            self._captioner.give_up()
        self._outbox.close(close)
        self._held.close()

    def send_away(self, deadline_ms: int, reason: str) -> None:
        """Tells the client to be elsewhere by then. Returns at once."""
        self._outbox.put(GoAway(deadline_ms, reason))

    async def run(self) -> None:
        """From accepting the socket to the close frame, by whatever road. Everything is released when it returns."""
        around = self._around
        with self._held as held:
            # Entered before anybody else is admitted, left as soon as the stream is over: a peer that does not take its
            # close frame holds nothing.
            held.enter_context(around.admission.place(self.request, self.stream_id))
            await self._socket.accept()
            around.metrics.connections.inc()
            around.connections.add(self)
            if around.admission.readiness is Readiness.DRAINING:  # since it was admitted
                self.stop(RESTARTING)
            held.callback(lambda: around.connections.remove(self, self._close))
            held.callback(lambda: around.sessions.leave(self._member))
            self._outbox.put(self._ready())
            session = around.sessions.join(self._member)
            self._log.info("stream_opened", speak=self.request.speak, sample_rate=self.request.sample_rate)
            try:
                await self._run_tasks(session, held)
            except* Exception:  # noqa: BLE001  (a boundary, as below)
                self._log.exception("connection_failed")
                await self._say_goodbye(OUR_FAULT)

    async def _run_tasks(self, session: Session, held: ExitStack) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._send, nursery)
            nursery.start_soon(self._watch_slow_reader)
            nursery.start_soon(self._beat)
            if self.request.max_duration_s is not None:
                nursery.start_soon(self._expire, self.request.max_duration_s)
            with self._finishing:
                self._close = await self._run_stream(session)
            if self._finishing.cancelled_caught:
                self._close = self._close_of_unfinished()
                self._log.error("stream_unfinished", unread_samples=self._backlog.samples)
            self._outbox.close(self._close)
            held.close()
            self._log.info(
                "stream_closed",
                code=self._close.code,
                reason=self._close.reason,
                duration_s=round(time.monotonic() - self.opened_at, 3),
                audio_s=round(self._dialect.received_samples / self.request.sample_rate, 3),
            )

    async def _run_stream(self, session: Session) -> Close:
        captioner = None
        if self.request.speak:
            captioner = self._captioner = self._around.make_captioner(
                self.request, self.stream_id, session, self._backlog, self._log
            )
        self._stream = Stream(self._member, self._backlog, captioner, check_language=self._check_language)
        try:
            return await self._stream.run()
        except Exception:  # noqa: BLE001  (a boundary: whatever it was, this client is told 1011 and the others go on)
            # Logged here: what is raised while the connection is being cancelled is lost further up.
            self._log.exception("stream_failed")
            return OUR_FAULT
        finally:
            if captioner is not None:
                captioner.give_up()
                with trio.CancelScope(shield=True):
                    await captioner.aclose()

    def _close_of_unfinished(self) -> Close:
        """A stream that did not end properly must not be told 1000: its client would take everything as captioned."""
        meant = self._backlog.close
        return OUR_FAULT if meant is None or meant.code == 1000 else meant

    def _ready(self) -> Ready:
        return Ready(
            session_id=self.request.session_id,
            client_id=self.request.client_id,
            stream_id=self.stream_id,
            language=self.request.language,
            sample_rate=self.request.sample_rate,
            encoding=self.request.encoding,
            epoch=1,
            from_sample=0,
            resume_token=None,
            heartbeat_ms=self._settings.heartbeat_ms,
            resume_window_ms=0,
            max_ahead_ms=self._settings.max_ahead_ms,
            instance=self._settings.instance,
        )

    def _check_language(self, language: str) -> Failure | None:
        if primary_subtag(language) in self._around.admission.languages:
            return None
        return language_unavailable(language).failure()

    async def _receive(self) -> None:
        try:
            while not self._backlog.finished:
                with trio.move_on_after(self._idle_s()) as idle:
                    frame = await self._socket.receive()
                if idle.cancelled_caught:
                    self.stop(IDLE)
                    break
                for event in self._dialect.receive(frame):
                    if isinstance(event, Audio):
                        self._around.metrics.audio_seconds.inc(event.count / self.request.sample_rate)
                    await self._backlog.put(event)
            while True:
                # Frames that come after the end are read and thrown away, so that the peer can read our close frame.
                await self._socket.receive()
        except trio.EndOfChannel:
            self.stop(self._socket.peer_close)
            self._peer_gone.set()
        finally:
            # Nobody will feed the stream any more. It is shielded, so it must be told: also when another task failed.
            self.stop(OUR_FAULT)

    def _idle_s(self) -> float:
        return float("inf") if self.request.idle_timeout_s is None else self.request.idle_timeout_s

    async def _send(self, nursery: trio.Nursery) -> None:
        while True:
            event = await self._outbox.take()
            if isinstance(event, Close):
                break
            await self._transmit(encode(event, timestamp=time.time(), words=self.request.words))
        await self._say_goodbye(event)
        with trio.move_on_after(CLOSE_LINGER_S):
            await self._peer_gone.wait()
        nursery.cancel_scope.cancel()

    async def _say_goodbye(self, close: Close) -> None:
        """Sends the close frame, unless one is out or the peer has gone. Quart would say 1000, whatever went wrong."""
        if not self._said_goodbye and not self._peer_gone.is_set():
            self._said_goodbye = True
            await self._socket.close(close)

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

    async def _beat(self) -> None:
        if self.request.framing != "seq":
            return
        every_s = self._settings.heartbeat_ms / 1000
        while not self._outbox.closed:
            due = self._sent_at + every_s
            if trio.current_time() >= due:
                if not len(self._outbox):  # else something is about to be sent anyway
                    self._outbox.put(Ack(self._stream.acked) if self.request.speak else Pong())
                due = trio.current_time() + every_s
            await trio.sleep_until(due)

    async def _expire(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self.stop(TOO_LONG)

    def _bound_finishing(self) -> None:
        self._finishing.deadline = min(self._finishing.deadline, trio.current_time() + FINISH_S)
