"""How the instance does less for each stream as it gets busier: four named levels, decided here and nowhere else.

`Level` is what the others read; `Degradation` decides which one holds. No clock and no event loop: times are passed in.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import frozen

from trio_stt.recognition.decoders import MAX_CHUNK_MS

THINNED_PARTIALS_MS: Final = 400
SPARSE_PARTIALS_MS: Final = 800
"""Audio between two partials of a stream once partials are fewer, and once chunks are larger too."""

HOLD_S: Final = 5.0
"""A level is left only after so long below its bounds: what it saves would else bring it back at once."""

REFUSAL_HOLD_S: Final = 1.0
"""The same for refusing: places fall free with every stream that ends, and each newcomer is counted before it costs."""


@frozen
class Level:
    """What each stream gets now."""

    name: str
    """`full`, `fewer_partials`, `larger_chunks` or `refuse_new`."""
    number: int
    """0 to 3, in that order."""
    partial_every_ms: int
    """Least audio between two partials of a stream, in ms; 0: one with each recogniser call."""
    chunk_ms: int
    """Least audio for a recogniser call that is not an utterance's last, in ms."""
    admits: bool
    """Whether new speakers are let in."""


@frozen
class _Bounds:
    """A level is entered when either figure reaches its bound, and left when both are below theirs."""

    enter_delay_s: float
    enter_load: float
    leave_delay_s: float
    leave_load: float
    hold_s: float = HOLD_S


# Delay: against a promise of 1.0 s at p99, of which the mean is a small part. Load: larger chunks and fewer partials
# save about a fifth, so leaving lies more than that below entering. New speakers are refused here for delay alone: what
# load has room for, admission counts stream by stream.
_BOUNDS: Final = (
    _Bounds(enter_delay_s=0.06, enter_load=0.80, leave_delay_s=0.02, leave_load=0.60),
    _Bounds(enter_delay_s=0.12, enter_load=0.90, leave_delay_s=0.04, leave_load=0.70),
    _Bounds(enter_delay_s=0.25, enter_load=math.inf, leave_delay_s=0.10, leave_load=math.inf, hold_s=REFUSAL_HOLD_S),
)


class Degradation:
    """Up at once and as far as needed, down one level at a time and only after a while of quiet."""

    def __init__(self, chunk_ms: int) -> None:
        """`chunk_ms`: the least audio for a call while the instance is at ease."""
        longest = max(chunk_ms, MAX_CHUNK_MS)
        self._levels = (
            Level("full", 0, 0, chunk_ms, admits=True),
            Level("fewer_partials", 1, THINNED_PARTIALS_MS, chunk_ms, admits=True),
            Level("larger_chunks", 2, SPARSE_PARTIALS_MS, longest, admits=True),
            Level("refuse_new", 3, SPARSE_PARTIALS_MS, longest, admits=False),
        )
        self.level = self._levels[0]
        """The level that holds."""
        self._busy_at = -math.inf  # when this level's bounds were last reached

    def update(self, now: float, *, delay_s: float, load: float) -> Level:
        """Decides anew. `delay_s`: how late recogniser calls begin; `load`: used share of the capacity, 1 is all."""
        reached = 0
        for number, bounds in enumerate(_BOUNDS, 1):
            if delay_s >= bounds.enter_delay_s or load >= bounds.enter_load:
                reached = number
        current = self.level.number
        if reached > current:
            self.level = self._levels[reached]
            self._busy_at = now
        elif current:
            bounds = _BOUNDS[current - 1]
            if delay_s >= bounds.leave_delay_s or load >= bounds.leave_load:
                self._busy_at = now
            elif now - self._busy_at >= bounds.hold_s:
                self.level = self._levels[current - 1]
                self._busy_at = now
        return self.level
