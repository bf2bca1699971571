"""Reads any sound or video file, or a pipe, as mono 16 kHz samples. FFmpeg's libraries (PyAV) do the decoding.

Files are opened here and handed to FFmpeg as open files: a name is never taken for an address or a filter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from attrs import frozen
from av.container import InputContainer

from trio_stt.transcribe.pipe import PIPE_READ_BYTES, Pipe
from trio_stt.transcribe.sound import SAMPLE_RATE, Samples, SourceError

FILE_READ_BYTES = 32768
"""Bytes that FFmpeg asks of a file at once."""

MAX_LEADING_SILENCE_S = 3600
"""A later start of the sound than this, in a video, is taken for a broken time stamp."""


@frozen
class Media:
    """An opened source: how long it is in seconds (None: not known), and its samples in blocks of any length.

    Taking the next block reads and decodes, so it blocks; it raises `SourceError`.
    """

    duration_s: float | None
    blocks: Iterator[Samples]


@contextlib.contextmanager
def open_media(source: Path | BinaryIO | Pipe, name: str, *, raw_rate: int | None = None) -> Iterator[Media]:
    """Opens a file, an open file that can be rewound, or a pipe; `name` is what messages call it. Blocks.

    `raw_rate`: the source is headerless mono s16le at so many samples a second. Raises `SourceError`.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path):
            try:
                source = stack.enter_context(source.open("rb"))
            except OSError as error:
                raise SourceError(f"{name} cannot be read: {error.strerror}.") from error
        container = stack.enter_context(_open_container(source, name, raw_rate))
        if container.streams.best("audio") is None:
            raise SourceError(f"{name} holds no sound: FFmpeg finds no audio stream in it.")
        yield Media(_duration_s(container), _decode(container, name))


def _open_container(file: BinaryIO | Pipe, name: str, raw_rate: int | None) -> InputContainer:
    options = {} if raw_rate is None else {"sample_rate": str(raw_rate), "ch_layout": "mono"}
    try:
        return av.open(
            file,
            mode="r",
            format=None if raw_rate is None else "s16le",
            options=options,
            buffer_size=PIPE_READ_BYTES if isinstance(file, Pipe) else FILE_READ_BYTES,
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        raise SourceError(
            f"{name} is not a sound or video file that FFmpeg reads ({error.strerror}). "
            "For headerless samples on standard input give their rate with --raw."
        ) from error


def _duration_s(container: InputContainer) -> float | None:
    return None if container.duration is None else container.duration / av.time_base


def _decode(container: InputContainer, name: str) -> Iterator[Samples]:
    """The sound of the container's best audio stream, from the container's own time 0 on."""
    stream = container.streams.best("audio")
    resampler = _Resampler()
    decoded_any = False
    damage: av.FFmpegError | None = None
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError as error:  # one damaged packet: players go on with the next, and so do we
                damage = error
                continue
            for frame in frames:
                if not isinstance(frame, av.AudioFrame):
                    continue
                if not decoded_any:
                    yield _silence_before(frame, container)
                decoded_any = True
                yield from resampler.push(frame)
    except av.FFmpegError as error:
        raise SourceError(f"{name} cannot be read to its end: {error.strerror}.") from error
    if damage is not None and not decoded_any:
        raise SourceError(f"{name} is damaged: nothing of its sound can be decoded ({damage.strerror}).") from damage
    yield from resampler.flush()


def _silence_before(frame: av.AudioFrame, container: InputContainer) -> Samples:
    """In a video the sound may begin later than the picture; captions have to fit the picture."""
    if frame.time is None or container.start_time is None:
        return np.zeros(0, np.int16)
    late_s = frame.time - container.start_time / av.time_base
    return np.zeros(round(late_s * SAMPLE_RATE) if 0 < late_s < MAX_LEADING_SILENCE_S else 0, np.int16)


class _Resampler:
    """FFmpeg's resampler, made anew when the rate or the channels change within a file."""

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[int, str, str] | None = None

    def push(self, frame: av.AudioFrame) -> Iterator[Samples]:
        found = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._resampler is None or found != self._format:
            yield from self.flush()
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            self._format = found
        for out in self._resampler.resample(frame):
            yield _samples(out)

    def flush(self) -> Iterator[Samples]:
        if self._resampler is not None:
            for out in self._resampler.resample(None):
                yield _samples(out)


def _samples(frame: av.AudioFrame) -> Samples:
    return frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
