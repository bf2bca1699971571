"""One client's stream in a dialect that answers every frame: exactly one reply for each, in order."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import attrs
import structlog
import trio

from trio_stt.dialects.events import Close, Configure, End, Flush, Misuse
from trio_stt.dialects.vosk_server import StreamConfig
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.recognition.lock_step import LockStepRecogniser, Reply
from trio_stt.sessions.backlog import AudioRun, Backlog
from trio_stt.sessions.outbox import Outbox

ENDED = Close(1000, "")
RECOGNITION_FAILED = Close(1011, "recognition failed")


FRAME_DUE_S = 0.15
"""A client that sent one frame and none in so long waits for its reply: its frames are never made to gather again."""


class Listener(Protocol):
    """What hears one stream. Used by one task."""

    @property
    def patient_until(self) -> float:
        """Until when (Trio's clock) audio that arrives should wait for more of it."""

    async def hear(self, run: AudioRun) -> list[Reply]:
        """Takes the next frames and returns the answer to each. Raises `EngineError`."""

    async def finish(self) -> Reply:
        """Ends what was heard and not ended yet. Raises `EngineError`."""

    async def aclose(self) -> None:
        """Frees what it holds; to be shielded."""


class PlainListener:
    """Has every frame decoded as it comes; with many speakers those of a client that waits for no reply together.

    See `Listener`.
    """

    def __init__(
        self,
        recogniser: LockStepRecogniser,
        *,
        next_beat: Callable[[], float] = lambda: -math.inf,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """`next_beat`: until when (Trio's clock) frames are to gather; −∞ while every frame is decoded by itself."""
        self._recogniser = recogniser
        self._next_beat = next_beat
        self._on_close = on_close
        self._gathering = False
        self._waits_for_replies = False
        self.finish = recogniser.finish

    @property
    def patient_until(self) -> float:
        """Until when audio that arrives should wait for more of it."""
        until = -math.inf if self._waits_for_replies else self._next_beat()
        self._gathering = until > -math.inf
        return until

    async def hear(self, run: AudioRun) -> list[Reply]:
        """Takes the next frames and returns the answer to each."""
        if len(run.frames) > 1:
            self._waits_for_replies = False
        elif self._gathering and trio.current_time() - run.arrived_at >= FRAME_DUE_S:
            self._waits_for_replies = True  # its next frame would have come
        return await self._recogniser.hear(run.frames, run.arrived_at, together=self._gathering)

    async def aclose(self) -> None:
        """Frees the recogniser. Shield it."""
        self._on_close()
        await self._recogniser.aclose()


class LockStepStream:
    """The order of things for one connection. Run it once, then close it."""

    def __init__(
        self,
        config: StreamConfig,
        backlog: Backlog,
        outbox: Outbox[Reply],
        *,
        open_listener: Callable[[StreamConfig], Awaitable[Listener]],
        nobody_reads: Callable[[], bool],
        on_heard: Callable[[AudioRun, Sequence[Reply]], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`config`: what holds until the client says otherwise. `open_listener` raises `ModelError`.

        `on_heard` is told of each run of frames when its replies are queued.
        """
        self._config = config
        self._backlog = backlog
        self._outbox = outbox
        self._open_listener = open_listener
        self._nobody_reads = nobody_reads
        self._on_heard = on_heard
        self._log = log
        self._listener: Listener | None = None
        self._unended = False

    async def run(self) -> Close:
        """Deals with the backlog until the stream ends; returns how. All replies are queued by then.

        Once the peer has gone, what still waits is left alone: nobody is there to read the replies.
        """
        try:
            while not self._nobody_reads():
                # Who does not take the replies is not read: a reply is never dropped.
                await self._outbox.wait_for_room()
                close = await self._deal_with_next()
                if close is not None:
                    return close
        except ModelError as error:
            self._log.error("model_unavailable", error=str(error))
            return Close(1011, str(error))
        except EngineError as error:
            self._log.warning("decode_failed", error=str(error))
            return RECOGNITION_FAILED
        return self._backlog.close or ENDED

    async def aclose(self) -> None:
        """Frees the recogniser. Shield it."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.aclose()

    async def _deal_with_next(self) -> Close | None:
        item = await self._backlog.take(-math.inf if self._listener is None else self._listener.patient_until)
        if isinstance(item, AudioRun):
            await self._hear(item)
        elif isinstance(item, Configure):
            await self._configure(item)
        elif isinstance(item, Flush | End):
            await self._finish()
            return ENDED if isinstance(item, End) else None
        elif isinstance(item, Misuse):
            await self._finish_unasked()
            return Close(item.close_code or ENDED.code, item.failure.message, item.failure)
        elif isinstance(item, Close):
            await self._finish_unasked()
            return item
        return None

    async def _hear(self, run: AudioRun) -> None:
        listener = await self._ready()
        replies = await listener.hear(run)
        for reply in replies:
            self._outbox.put(reply)
        self._unended = not replies[-1].is_final
        self._on_heard(run, replies)

    async def _finish(self) -> None:
        listener = await self._ready()
        self._outbox.put(await listener.finish())
        self._unended = False

    async def _finish_unasked(self) -> None:
        """The stream ends otherwise than by the client's wish: what was heard since the last final is not lost."""
        if self._unended and not self._nobody_reads():
            await self._finish()

    async def _configure(self, event: Configure) -> None:
        changes = dict(event.changes)
        self._config = attrs.evolve(self._config, **changes)
        if "model" in changes:  # the only one that counts once there has been sound: all begins anew, as in vosk-server
            await self.aclose()
            self._unended = False
        await trio.lowlevel.checkpoint()  # many at once let the others have their turn

    async def _ready(self) -> Listener:
        if self._listener is None:
            self._listener = await self._open_listener(self._config)
        return self._listener
