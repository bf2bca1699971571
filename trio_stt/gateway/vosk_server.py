"""``/vosk-server``: a client of vosk-server, which need not notice that this is another server."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

import structlog
import trio
from attrs import frozen

from trio_stt.dialects.events import Audio, Close, Configure, StreamRequest
from trio_stt.dialects.request import Refusal
from trio_stt.dialects.vosk_server import StreamConfig, VoskServerDialect
from trio_stt.gateway.auth import ANYONE, Grant
from trio_stt.gateway.connection import Connection, Surroundings
from trio_stt.gateway.socket import Socket
from trio_stt.recognition.lock_step import Reply
from trio_stt.sessions.backlog import AudioRun, Backlog
from trio_stt.sessions.lock_step import Listener, LockStepStream
from trio_stt.settings import Settings

CLIENT = "vosk-server"
"""What these clients are called, who give no name: `client_id` in logs and statistics."""


@frozen
class VoskServerSurroundings(Surroundings):
    """What a client of vosk-server needs besides. `models`: the names that clients may ask for."""

    models: frozenset[str]
    open_listener: Callable[
        [StreamConfig, StreamRequest, str, Backlog, structlog.stdlib.BoundLogger], Awaitable[Listener]
    ]


def request_of(settings: Settings, grant: Grant) -> StreamRequest | Refusal:
    """What a client asks for by connecting: to be heard, alone. Its name is its token's, unless that is a service's."""
    if grant.sessions is not None:
        message = f"vosk-server's clients are in no session: their access token needs session {ANYONE}"
        return Refusal(403, "wrong_session", message)
    return StreamRequest(
        client_id=CLIENT if grant.is_service else grant.subject,
        session_id=f"{CLIENT}-{secrets.token_hex(6)}",
        language=settings.language,
        sample_rate=settings.vosk_sample_rate,
        max_duration_s=settings.max_stream_duration,
        idle_timeout_s=settings.max_client_idle_time,
        tenant=grant.tenant,
    )


def decodes_silence(settings: Settings) -> bool:
    """Whether these clients' audio is all decoded, as vosk-server does, even where there is a speech gate."""
    return not settings.vosk_server_gate


class VoskServerConnection(Connection[Reply]):
    """One speaker, answered frame by frame."""

    dialect = "vosk-server"

    def __init__(
        self, request: StreamRequest, socket: Socket, around: VoskServerSurroundings, *, expires_at: float | None = None
    ) -> None:
        super().__init__(request, socket, around, expires_at=expires_at)
        self._vosk = around
        self._dialect = VoskServerDialect(around.models)
        self._sample_rate = request.sample_rate
        self._partials = around.metrics.captions.labels("partial")
        self._finals = around.metrics.captions.labels("final")

    async def _enter(self, held: ExitStack) -> None:
        """There is nothing to join."""

    async def _take(self, frame: bytes | str) -> None:
        event = self._dialect.receive(frame)
        if event is None:
            return
        if isinstance(event, Configure) and "sample_rate" in event.changes and not self._dialect.received_samples:
            self._sample_rate = event.changes["sample_rate"]
            self._backlog.bound(**self._backlog_bounds(self._sample_rate))
        await self._backlog.put(event)
        if isinstance(event, Audio):
            self._spend(event.count / self._sample_rate)

    async def _converse(self) -> Close:
        stream = LockStepStream(
            StreamConfig(
                self.request.sample_rate,
                words=self._vosk.settings.vosk_show_words,
                max_alternatives=self._vosk.settings.vosk_alternatives,
            ),
            self._backlog,
            self._outbox,
            open_listener=lambda config: self._vosk.open_listener(
                config, self.request, self.stream_id, self._backlog, self._log
            ),
            nobody_reads=lambda: self._nobody_reads,
            on_heard=self._count,
            log=self._log,
        )
        try:
            return await stream.run()
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    def _encode(self, event: Reply) -> str:
        return event.text

    @property
    def _continuous(self) -> bool:
        return decodes_silence(self._settings)

    @property
    def _received_s(self) -> float:
        return self._dialect.received_samples / self._sample_rate

    def _count(self, run: AudioRun, replies: Sequence[Reply]) -> None:
        self._around.metrics.reply_seconds.observe(trio.current_time() - run.arrived_at)
        finals = sum(reply.is_final for reply in replies)
        if finals:
            self._finals.inc(finals)
        if finals < len(replies):
            self._partials.inc(len(replies) - finals)
