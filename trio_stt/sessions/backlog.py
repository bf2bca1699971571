"""What one client sent and the stream has not dealt with yet, in order: bounded in seconds of audio."""

from __future__ import annotations

import math
from collections import deque

import trio
from attrs import frozen

from trio_stt.dialects.events import Audio, ClientEvent, Close

MAX_EVENTS = 2048
"""Events that may wait, whatever their size: a flood of tiny frames meets this bound before that of seconds."""


@frozen
class AudioRun:
    """Audio frames that arrived one after another; `arrived_at` is when the first did, on Trio's clock."""

    frames: tuple[Audio, ...]
    arrived_at: float


class Backlog:
    """A queue with one writer and one reader. A full one makes `put` wait: the socket is not read (back-pressure)."""

    def __init__(self, *, max_ahead_samples: int, max_run_samples: int) -> None:
        """`max_ahead_samples`: audio held before `put` waits. `max_run_samples`: most audio handed out at once."""
        self._max_ahead = max_ahead_samples
        self._max_run = max_run_samples
        self._waiting: deque[tuple[ClientEvent, float]] = deque()
        self._samples = 0
        self._others = 0  # events waiting that are not audio
        self._changed = trio.Event()
        self._room = trio.Event()
        self._close: Close | None = None

    def bound(self, *, max_ahead_samples: int, max_run_samples: int) -> None:
        """Sets both bounds anew, when the rate of what comes next has changed. What waits already stays."""
        self._max_ahead = max_ahead_samples
        self._max_run = max_run_samples

    @property
    def samples(self) -> int:
        """Samples that wait, at the stream's own rate."""
        return self._samples

    @property
    def full(self) -> bool:
        """Whether the next `put` would wait."""
        return self._samples >= self._max_ahead or len(self._waiting) >= MAX_EVENTS

    @property
    def close(self) -> Close | None:
        """What `finish` was called with, if it was."""
        return self._close

    @property
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return self._close is not None

    @property
    def oldest_arrival(self) -> float | None:
        """When the oldest waiting audio arrived, on Trio's clock; None if none waits."""
        return next((at for event, at in self._waiting if isinstance(event, Audio)), None)

    @property
    def _pressing(self) -> bool:
        """Whether what waits must not wait for more."""
        return self._samples >= self._max_run or self._others > 0 or self._close is not None or self.full

    async def put(self, event: ClientEvent) -> None:
        """Adds `event`, once there is room. After `finish` it is dropped. May be cancelled: it is not added then."""
        while self.full and self._close is None:
            self._room = trio.Event()
            await self._room.wait()
        if self._close is not None:
            return
        self._waiting.append((event, trio.current_time()))
        if isinstance(event, Audio):
            self._samples += event.count
        else:
            self._others += 1
        if len(self._waiting) == 1 or self._pressing:
            self._changed.set()

    def finish(self, close: Close) -> None:
        """Nothing more comes; `take` hands out what waits and then `close`. The first call counts."""
        if self._close is None:
            self._close = close
            self._changed.set()
            self._room.set()

    async def take(self, patient_until: float = -math.inf) -> AudioRun | ClientEvent | Close:
        """What is next: a run of audio, another event, at last the `Close`. May be cancelled: nothing is lost.

        Until `patient_until` (Trio's clock) audio waits for more of it: for a whole run, or an event behind it.
        """
        while not self._pressing:
            patient = self._waiting and trio.current_time() < patient_until
            if self._waiting and not patient:
                break
            self._changed = trio.Event()
            with trio.move_on_at(patient_until if patient else math.inf):
                await self._changed.wait()
        if not self._waiting:
            assert self._close is not None  # noqa: S101  (else the loop above would go on)
            return self._close
        event, arrived_at = self._waiting.popleft()
        if not isinstance(event, Audio):
            self._others -= 1
            self._room.set()
            return event
        frames, count = [event], event.count
        while self._waiting and count < self._max_run and isinstance(self._waiting[0][0], Audio):
            frame = self._waiting.popleft()[0]
            assert isinstance(frame, Audio)  # noqa: S101  (as the condition says)
            frames.append(frame)
            count += frame.count
        self._samples -= count
        self._room.set()
        return AudioRun(tuple(frames), arrived_at)
