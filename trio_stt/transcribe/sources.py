"""What is transcribed: a file, standard input or a microphone, opened and read without holding up Trio."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import trio
from attrs import frozen

from trio_stt.transcribe.media import Media, open_media
from trio_stt.transcribe.microphone import Microphone, open_microphone
from trio_stt.transcribe.pipe import Pipe
from trio_stt.transcribe.sound import SAMPLE_RATE, Samples


@frozen
class Sound:
    """An opened source: its length in seconds (None: not known) and its samples, in frames ready to be sent.

    Iterating `frames` raises `SourceError`.
    """

    duration_s: float | None
    frames: AsyncGenerator[Samples, None]


class Source(Protocol):
    """Something to transcribe, once."""

    @property
    def name(self) -> str:
        """What messages and results call it."""

    def open(self) -> contextlib.AbstractAsyncContextManager[Sound]:
        """Opens it. Raises `SourceError`. May be cancelled only while it waits for the start of the sound."""

    def stop(self) -> None:
        """Makes opening it, and its frames, end soon, although more sound may follow."""

    def warning(self) -> str | None:
        """What a user should know once it is over, if anything."""


class MediaSource:
    """A file, an open file that can be rewound, or a pipe."""

    def __init__(self, media: Path | BinaryIO | Pipe, name: str, *, frame_ms: int, raw_rate: int | None = None) -> None:
        """`frame_ms`: the length of the frames; `raw_rate`: headerless s16le at so many samples a second."""
        self.name = name
        self._media = media
        self._frame_samples = SAMPLE_RATE * frame_ms // 1000
        self._raw_rate = raw_rate
        self._stopped = False

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Sound]:
        """See `Source.open`."""
        opening = open_media(self._media, self.name, raw_rate=self._raw_rate)
        media = await trio.to_thread.run_sync(opening.__enter__)
        try:
            async with contextlib.aclosing(self._frames(media)) as frames:
                yield Sound(media.duration_s, frames)
        finally:
            opening.__exit__(None, None, None)

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped = True
        if isinstance(self._media, Pipe):
            self._media.stop()

    def warning(self) -> str | None:
        """Nothing: a file has either been read or not."""
        return None

    async def _frames(self, media: Media) -> AsyncGenerator[Samples, None]:
        frames = reframed(media.blocks, self._frame_samples)
        while not self._stopped:
            # Not abandoned on cancel: FFmpeg must not be closed under a thread that still reads.
            frame = await trio.to_thread.run_sync(next, frames, None)
            if frame is None:
                return
            yield frame


class MicrophoneSource:
    """A microphone; it ends when it is stopped."""

    name = "microphone"

    def __init__(self, device: str | None) -> None:
        """`device`: a part of the microphone's name; None: the system's choice."""
        self._device = device
        self._stopped = False
        self._microphone: Microphone | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Sound]:
        """See `Source.open`."""
        async with open_microphone(self._device) as self._microphone, contextlib.aclosing(self._frames()) as frames:
            yield Sound(None, frames)

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped = True
        if self._microphone is not None:
            self._microphone.stop()

    def warning(self) -> str | None:
        """How much sound was lost because the server did not take it for too long."""
        if self._microphone is None or not self._microphone.lost_s:
            return None
        return f"{self._microphone.lost_s:.1f} s of sound were lost: the server was too slow."

    async def _frames(self) -> AsyncGenerator[Samples, None]:
        assert self._microphone is not None  # noqa: S101 (open() has set it)
        async for block in self._microphone.blocks():
            if self._stopped:
                return
            yield block


class CallSource:
    """Nothing of our own: who only listens to a call sends no sound. It ends when it is stopped."""

    def __init__(self, session_id: str) -> None:
        self.name = session_id
        self._stopped = trio.Event()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Sound]:
        """See `Source.open`."""
        async with contextlib.aclosing(self._frames()) as frames:
            yield Sound(None, frames)

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped.set()

    def warning(self) -> str | None:
        """Nothing."""
        return None

    async def _frames(self) -> AsyncGenerator[Samples, None]:
        await self._stopped.wait()
        silence: list[Samples] = []
        for block in silence:
            yield block


def reframed(blocks: Iterator[Samples], frame_samples: int) -> Iterator[Samples]:
    """The same samples in frames of `frame_samples`; the last one may be shorter."""
    held: list[Samples] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count < frame_samples:
            continue
        joined = np.concatenate(held)
        whole = count // frame_samples * frame_samples
        for start in range(0, whole, frame_samples):
            yield joined[start : start + frame_samples]
        held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)
