"""One client's stream: what it sent is dealt with in order, until it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_stt.dialects.events import (
    Ack,
    Close,
    Configure,
    Configured,
    End,
    Failure,
    Flush,
    Misuse,
    Ping,
    Pong,
    StreamRequest,
)
from trio_stt.sessions.backlog import AudioRun, Backlog
from trio_stt.sessions.captioner import Captioner
from trio_stt.sessions.publisher import Publisher
from trio_stt.sessions.session import READS_TOO_SLOWLY, REPLACED, RESUMED, Member

STARVED_S = 1.0
"""An open utterance ends after so long without any samples (the wire's "Ends")."""

SILENT_ACK_S = 0.5
"""In silence an ack moves at least so often; the wire promises once a second."""

LAST_TRANSLATIONS_S = 2.0
"""After `eof`, translations of the last finals are waited for so long (the wire's promise)."""

ENDED = Close(1000, "")


async def _nothing_to_translate() -> None:
    """Where nobody translates, nothing is waited for."""


class Stream:
    """The order of things for one connection; listeners have no `captioner`. Run it once."""

    def __init__(
        self,
        member: Member,
        backlog: Backlog,
        captioner: Captioner | None,
        publisher: Publisher | None,
        *,
        check_language: Callable[[str], Failure | None],
        change_language: Callable[[str], Awaitable[Failure | None]],
        check_translation: Callable[[StreamRequest], Failure | None] = lambda request: None,
        wait_translated: Callable[[], Awaitable[None]] = _nothing_to_translate,
        is_lost: Callable[[], bool] = lambda: False,
        resume_window_s: float = 0.0,
        acked: int = 0,
    ) -> None:
        """`publisher`: where the captioner's captions go. `acked`: the position of the last ack.

        `is_lost`: whether the peer has gone; then another connection may go on with the stream within
        `resume_window_s`, and until then its open utterance is left as it is. 0: none can.

        `check_language` says why a speaker cannot speak that language here, or None. `change_language` has the
        captioner hear that language from now on, or says why it cannot. `check_translation` says why the translations
        of a changed request cannot be had; `wait_translated` returns when this stream's captions so far are translated.
        """
        self._member = member
        self._backlog = backlog
        self._captioner = captioner
        self._publisher = publisher
        self._check_language = check_language
        self._check_translation = check_translation
        self._wait_translated = wait_translated
        self._change_language = change_language
        self._is_lost = is_lost
        self._resume_window_s = resume_window_s
        self._superseded: Close | None = None
        self._decided = trio.Event()  # what becomes of a stream whose peer has gone
        self._heard_at = 0.0
        self._addressed_at = 0.0  # some other message came
        self._acked = acked
        self._acked_at = trio.current_time()

    @property
    def acked(self) -> int:
        """The `sample` of the last ack."""
        return self._acked

    def decide(self, close: Close) -> None:
        """If the peer has gone, the stream need not wait for it any more. Returns at once."""
        if self._superseded is None:
            self._superseded = close
            self._decided.set()

    async def run(self) -> Close:
        """Deals with the backlog until the stream ends; returns how. The last final and the ack are queued by then.

        Cancelled, it leaves the open utterance unfinished: finish the backlog instead.
        """
        while True:
            # A client that asks faster than its answers are sent is read more slowly, not closed.
            await self._member.outbox.wait_for_room()
            item = await self._next()
            if item is None:
                await self._finish()
                self._ack_if_seq()
            elif isinstance(item, AudioRun):
                await self._hear(item)
            elif isinstance(item, Flush):
                await self._finish()
                await self._confirm()
                self._ack(from_finalize=True, id=item.id)
            elif isinstance(item, End):
                await self._finish()
                if self._member.request.translation:
                    with trio.move_on_after(LAST_TRANSLATIONS_S):
                        await self._wait_translated()
                await self._confirm()
                self._ack()
                return ENDED
            elif isinstance(item, Close):
                if await self._is_resumed_elsewhere(item):
                    return item
                await self._finish()
                if item is not REPLACED:  # that final went to the connection which replaced this one
                    await self._confirm()
                    self._ack_if_seq()
                if item.failure is not None:
                    self._member.deliver(item.failure)
                return item
            elif isinstance(item, Configure):
                await self._configure(item)
            elif isinstance(item, Ping):
                self._member.deliver(Pong(item.id))
            elif isinstance(item, Misuse):
                if item.close_code is not None:
                    await self._finish()
                self._member.deliver(item.failure)
                if item.close_code is not None:
                    return Close(item.close_code, item.failure.code)
            if not isinstance(item, AudioRun):
                # Many small messages at once need nothing that waits: let the others, and our own sender, have a turn.
                await trio.lowlevel.checkpoint()

    async def _is_resumed_elsewhere(self, close: Close) -> bool:
        """Whether another connection goes on with the stream: then its open utterance is void, and nothing is said."""
        waits = (self._is_lost() or close is READS_TOO_SLOWLY) and close is not RESUMED
        if waits and self._resume_window_s and self._captioner is not None:
            with trio.move_on_after(self._resume_window_s):
                await self._decided.wait()
        resumed = RESUMED in (close, self._superseded)
        if resumed and self._captioner is not None:
            self._captioner.discard()
        return resumed

    async def _next(self) -> object:
        """The next thing to do; None when an open utterance has starved."""
        if self._captioner is None:
            return await self._backlog.take()
        if not self._captioner.speaking:
            item = await self._backlog.take(self._captioner.patient_until)
        else:
            with trio.move_on_at(self._starves_at) as starving:
                item = await self._backlog.take(self._captioner.patient_until)
            if starving.cancelled_caught:
                return None
        if not isinstance(item, AudioRun | Close):
            self._addressed_at = trio.current_time()
        return item

    @property
    def _starves_at(self) -> float:
        """Without a sign of life it may be the connection that is broken: then a resume is waited for."""
        silent = self._resume_window_s and self._addressed_at <= self._heard_at
        return self._heard_at + (max(self._resume_window_s, STARVED_S) if silent else STARVED_S)

    async def _hear(self, run: AudioRun) -> None:
        if self._captioner is None:
            raise RuntimeError("audio from a client that does not speak")
        ended_before = self._captioner.ended
        await self._captioner.hear(run)
        if any(frame.count for frame in run.frames):
            self._heard_at = trio.current_time()
        ended = self._captioner.ended > ended_before
        silent = not self._captioner.speaking and trio.current_time() - self._acked_at >= SILENT_ACK_S
        if ended or silent:
            self._ack_if_seq()

    async def _finish(self) -> None:
        if self._captioner is not None:
            await self._captioner.finish()

    async def _confirm(self) -> None:
        """Before an ack that the client waits for, and that should move: waits, for a while, for the bus."""
        if self._publisher is not None:
            await self._publisher.wait_confirmed()

    def _ack_if_seq(self) -> None:
        if self._member.request.framing == "seq":
            self._ack()

    def _ack(self, *, from_finalize: bool = False, id: str | int | None = None) -> None:
        if self._captioner is not None and (self._publisher is None or self._publisher.confirmed):
            self._acked = max(self._acked, self._captioner.settled)
        self._acked_at = trio.current_time()
        self._member.deliver(Ack(self._acked, from_finalize, id))

    async def _configure(self, event: Configure) -> None:
        request = self._member.request
        changes = dict(event.changes)
        failure = self._check_translation(attrs.evolve(request, **changes))
        if failure is not None:
            self._member.deliver(failure)
            return
        language = changes.get("language", request.language)
        if self._captioner is not None and language != request.language:
            failure = await self._speak_in(str(language))
            if failure is not None:
                self._member.deliver(failure)
                return
        self._member.request = attrs.evolve(request, **changes)
        self._member.deliver(Configured(values_in_force(self._member.request)))

    async def _speak_in(self, language: str) -> Failure | None:
        failure = self._check_language(language)
        if failure is not None:
            return failure
        await self._finish()  # its final shall not wait until another model is loaded
        return await self._change_language(language)


def values_in_force(request: StreamRequest) -> dict[str, object]:
    """What `configure` can change, as it stands."""
    return {
        "transcript": request.transcript,
        "translation": request.translation,
        "language": request.language,
        "read_language": request.read_language,
        "target": list(request.target),
        "partials": request.partials,
    }
