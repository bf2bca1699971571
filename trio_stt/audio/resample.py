"""A stream's own rate to 16 kHz, and the two clocks: which sample of the one is which of the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import soxr
from attrs import frozen

from trio_stt.audio.samples import MODEL_RATE, NO_SAMPLES, Samples

LOWEST_RATE, HIGHEST_RATE = 8_000, 48_000
"""Samples a second that a stream may have."""

_QUALITY = "HQ"
_KNOWN_FLUSHES = 64
"""Flushes that the clocks remember exactly: far more than happen within the longest utterance."""


@frozen
class _Meeting:
    """A point where both clocks are known to agree: the stream's first sample, and the end of every flush."""

    stream: int
    model: int


class Resampler:
    """Resamples one stream to 16 kHz. At 16 kHz samples pass through, not copied.

    Positions count from the stream's first sample, on either clock. Up to a flush the model clock is the stream's,
    scaled and rounded once; a flush brings out round(position × 16000 ÷ rate) samples in all, so the two never drift
    apart however often it happens. From that meeting on both clocks count anew, so that the two positions of a flush
    are exactly each other's.
    """

    def __init__(self, rate: int) -> None:
        """`rate`: samples a second of the stream, 8000 to 48000; ValueError otherwise."""
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ValueError(f"sample rate {rate}: expected {LOWEST_RATE} to {HIGHEST_RATE}")
        self._rate = rate
        self._filter = _new_filter(rate)
        self._pushed = 0
        self._given = 0
        self._meetings: deque[_Meeting] = deque([_Meeting(0, 0)], maxlen=_KNOWN_FLUSHES)

    def push(self, samples: Samples) -> Samples:
        """The samples at 16 kHz that are ready now; the filter holds back the newest (up to 100 ms at 8 kHz)."""
        self._pushed += len(samples)
        if self._filter is None:
            return samples
        if not len(samples):
            return NO_SAMPLES
        ready: Samples = self._filter.resample_chunk(np.ascontiguousarray(samples))
        self._given += len(ready)
        return ready

    def flush(self) -> Samples:
        """All that the filter still held: everything pushed is out now. What is pushed later meets a fresh filter."""
        last = self._meetings[-1]
        if self._filter is None or self._pushed == last.stream:
            return NO_SAMPLES
        rest: Samples = self._filter.resample_chunk(NO_SAMPLES, last=True)
        self._filter = _new_filter(self._rate)
        due = max(_scaled(self._pushed, MODEL_RATE, self._rate), self._given)
        rest = _of_length(rest, due - self._given)
        self._given = due
        self._meetings.append(_Meeting(self._pushed, due))
        return rest

    def to_stream(self, model_sample: int) -> int:
        """The stream's position at the model position `model_sample`, to the nearest sample; never decreasing."""
        if self._filter is None:
            return model_sample
        before, after = self._around(lambda meeting: meeting.model <= model_sample)
        position = before.stream + _scaled(model_sample - before.model, self._rate, MODEL_RATE)
        return position if after is None else min(position, after.stream)

    def to_model(self, stream_sample: int) -> int:
        """The model position at the stream's position `stream_sample`, to the nearest sample; never decreasing."""
        if self._filter is None:
            return stream_sample
        before, after = self._around(lambda meeting: meeting.stream <= stream_sample)
        position = before.model + _scaled(stream_sample - before.stream, MODEL_RATE, self._rate)
        return position if after is None else min(position, after.model)

    def _around(self, reached: Callable[[_Meeting], bool]) -> tuple[_Meeting, _Meeting | None]:
        """The last meeting that is `reached` (else the oldest known), and the one after it."""
        after = None
        for meeting in reversed(self._meetings):
            if reached(meeting):
                return meeting, after
            after = meeting
        return self._meetings[0], after


def _new_filter(rate: int) -> soxr.ResampleStream | None:
    return None if rate == MODEL_RATE else soxr.ResampleStream(rate, MODEL_RATE, 1, dtype="int16", quality=_QUALITY)


def _scaled(count: int, to_rate: int, from_rate: int) -> int:
    """`count` samples at `from_rate`, counted at `to_rate`: nearest whole number, halves upwards, without floats."""
    return (2 * count * to_rate + from_rate) // (2 * from_rate)


def _of_length(samples: Samples, length: int) -> Samples:
    """`samples` with its end cut or repeated: the filter's own rounding is off by a sample after many flushes."""
    if len(samples) >= length:
        return samples[:length]
    missing = length - len(samples)
    last = samples[-1:] if len(samples) else np.zeros(1, np.int16)
    return np.concatenate((samples, np.repeat(last, missing)))
