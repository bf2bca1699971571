"""The sound of one subscribed track, as the server's models want it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from livekit import rtc

from agent.voice import SAMPLE_RATE

FRAME_MS: Final = 50

CAPACITY: Final = 600
"""Frames that may wait for us: half a minute, 1 MB a track. Five seconds were too few on a machine without time for us.
"""

CLOSE_S: Final = 5.0


class HeardTrack:
    """Reads a track from now on, until `close`. `hear` gets its samples: signed 16-bit, mono, `SAMPLE_RATE`."""

    def __init__(self, track: rtc.Track, hear: Callable[[bytes], None], log: structlog.stdlib.BoundLogger) -> None:
        self.drops = 0
        """Frames that were lost because they were not read in time."""
        self._log = log
        self._stream = rtc.AudioStream(
            track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=FRAME_MS, capacity=CAPACITY
        )
        self._count_drops()
        self._reading = asyncio.create_task(self._read(hear))

    async def close(self) -> None:
        """Reads nothing more, and gives back what the native library holds for it. Not to be cancelled."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        closing = asyncio.create_task(self._stream.aclose())
        await asyncio.wait([closing], timeout=CLOSE_S)
        if not closing.done():
            self._log.warning("track_not_closed_in_time")
        elif (error := closing.exception()) is not None:
            self._log.warning("track_not_closed", error=type(error).__name__)

    async def _read(self, hear: Callable[[bytes], None]) -> None:
        async for event in self._stream:
            hear(bytes(event.frame.data))

    def _count_drops(self) -> None:
        """The SDK's queue drops the oldest frame without a word; what it is given goes through us."""
        queue: Any = self._stream._queue
        put = queue.put

        def counted(event: object) -> None:
            if len(queue._queue) >= CAPACITY:
                self.drops += 1
            put(event)

        queue.put = counted
