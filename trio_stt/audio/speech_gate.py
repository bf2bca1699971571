"""Where one stream's utterances begin and end, and which of its samples are decoded. Sans-IO: windows in, events out.

Positions are model samples (16 kHz) counted from the gate's first. The life of a gate::

    silence ──speech──▶ candidate ──min_speech──▶ open, speaking ◀──speech── open, in hangover ──hangover──▶ silence
       ▲                    │ two windows of silence        │   └───silence──▶┘
       └────────────────────┘                               └─ max_utterance: TooLong, then the owner calls `cut`

While an utterance is in its hangover, what lies past its post-roll is withheld: speech that resumes releases it, the
end of the hangover drops it. So the recogniser is given exactly [start, end) of each utterance, and no silence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from trio_stt.audio.samples import MODEL_RATE, WINDOW_SAMPLES, Probabilities, Samples, joined

HYSTERESIS = 0.15
"""Speech goes on down to this much below the threshold at which it begins (as in Silero's own `VADIterator`)."""

SILENCE_PEAK = 8
"""A window whose peak is no higher is silence whatever a detector says: −72 dBFS, dither at most. A muted microphone
or an ended file so closes an utterance without a detector's lag. (−60 dBFS split the speech of a talker 40 dB too
quiet: 15 utterances where this, and no rule at all, made 12.)"""

CONTEXT_SAMPLES = MODEL_RATE
"""Sound before a cut that the next utterance is given again, so that its first word is heard in context."""

KEPT_SAMPLES = 5 * MODEL_RATE
"""Newest sound of an open utterance that is kept for a cut."""

TAIL_SAMPLES = 2 * MODEL_RATE
"""Newest sound of an utterance within which it is cut."""


@frozen
class GateConfig:
    """When speech begins and ends. Defaults are those of the settings ``VAD_*`` and ``MAX_UTTERANCE_S``."""

    threshold: float = 0.5
    min_speech_ms: int = 64
    hangover_ms: int = 300
    pre_roll_ms: int = 400
    post_roll_ms: int = 128
    max_utterance_s: float = 30.0
    enabled: bool = True
    """False: everything is speech; utterances end by `finish` and `cut` alone."""


@frozen
class Opened:
    """An utterance begins at `start`. Of the `Speech` that follows, the first `context` samples lie before `start`."""

    start: int
    context: int = 0


@frozen(eq=False)
class Speech:
    """The next samples of the open utterance, to be decoded now."""

    samples: Samples


@frozen
class Ended:
    """The open utterance ends at `end`; all its samples were given."""

    end: int


@frozen
class TooLong:
    """The open utterance may grow no longer; its sound up to `position` was given. The owner must call `cut` next."""

    position: int


GateEvent = Opened | Speech | Ended | TooLong


class SpeechGate:
    """The gate of one stream. Not a coroutine in sight: every call returns the events it caused, in order.

    After `TooLong` only `cut` may be called; anything else raises RuntimeError. Windows behind it in the same `push`
    wait for the cut.
    """

    def __init__(self, config: GateConfig, *, goes_on: bool = False) -> None:
        """`goes_on`: what is heard first is the middle of something: speech under way needs no minimum length."""
        self._threshold = config.threshold
        self._min_speech = _samples(config.min_speech_ms)
        # Windows are judged as a whole: the last one of speech is, on average, half silence already.
        self._hangover = max(_samples(config.hangover_ms) - WINDOW_SAMPLES // 2, 1)
        self._pre_roll = _samples(config.pre_roll_ms)
        self._post_roll = min(_samples(config.post_roll_ms), _samples(config.hangover_ms))
        self._max_utterance = int(config.max_utterance_s * MODEL_RATE)
        self._enabled = config.enabled
        self._kept = _Kept()
        self._now = 0  # end of the newest window judged
        self._waiting: deque[tuple[float, int]] = deque()  # (probability, peak) of windows not judged yet
        self._floor = 0  # no utterance begins before this: the end of the last one
        self._speaking = False  # the newest window is speech
        self._speech_end = 0  # end of the newest window of speech
        self._at_once = goes_on  # speech under way at a forced end opens again without a minimum length
        self._under_way = goes_on  # since a forced end, or the beginning, that came in speech no window was judged
        self._candidate: _Candidate | None = None
        self._start: int | None = None  # of the open utterance
        self._given = 0  # up to here the open utterance's sound was given
        self._due = 0  # up to here it is to be given
        self._cut_due = False

    @property
    def is_open(self) -> bool:
        """Whether an utterance has begun and not ended."""
        return self._start is not None

    @property
    def is_ending(self) -> bool:
        """Whether an utterance is in its hangover: each further window may end it."""
        return self._start is not None and not self._speaking

    @property
    def position(self) -> int:
        """The end of all that was judged so far."""
        return self._now

    @property
    def kept_samples(self) -> int:
        """Samples held now: at most 5 s, or hangover and a push, while open; else pre-roll, candidate and a push."""
        return self._kept.end - self._kept.start

    @property
    def settled(self) -> int:
        """Every `Opened.start` from now on is this or later; never decreasing. Sound before it needs no keeping."""
        if self._start is not None:
            return self._start
        begin = self._now if self._candidate is None else self._candidate.start
        return max(self._floor, begin - self._pre_roll)

    def push(self, samples: Samples, probabilities: Probabilities | Sequence[float]) -> list[GateEvent]:
        """Judges the next windows: `samples` of shape (512 × n,), and for each window its probability of being speech.

        Raises ValueError when the two do not fit together.
        """
        self._require_no_cut_due()
        if len(samples) != WINDOW_SAMPLES * len(probabilities):
            raise ValueError(f"{len(samples)} samples do not make {len(probabilities)} windows of {WINDOW_SAMPLES}")
        if not len(samples):
            return []
        self._kept.append(samples)
        windows = samples.reshape(-1, WINDOW_SAMPLES)
        # Of the two extremes apart: the absolute value of −32768 has no place in 16 bits.
        peaks = np.maximum(windows.max(axis=1), -1 - windows.min(axis=1))
        self._waiting.extend(zip(np.asarray(probabilities).tolist(), peaks.tolist(), strict=True))
        return self._judge_waiting([])

    def finish(self, rest: Samples) -> list[GateEvent]:
        """Ends what is open here and now (``finalize``, ``eof``, a time-out); `rest`: the samples that fill no window.

        Speech too short to have opened an utterance is opened and ended, so that no short last word is lost. Speech
        that goes on behind it opens the next utterance exactly here, without a minimum length. None begins before here.
        Between two such ends in the same speech nothing is left out, though it fills no window that could be judged.
        """
        self._require_no_cut_due()
        if len(rest) >= WINDOW_SAMPLES:
            raise ValueError(f"a rest of {len(rest)} samples holds a whole window: push that first")
        self._kept.append(rest)
        self._now += len(rest)
        events: list[GateEvent] = []
        goes_on = self._under_way and len(rest) > 0 and _peak(rest) > SILENCE_PEAK
        self._speaking = self._speaking or not self._enabled or goes_on
        if self._start is None and (self._candidate is not None or goes_on or (not self._enabled and len(rest))):
            self._open(events)
        if self._start is not None:
            if self._speaking:
                self._speech_end = self._now
            self._end(self._end_of_speech(self._start), events)
            self._at_once = True
            self._under_way = self._speaking
        self._floor = self._now
        self._forget()
        return events

    def tail(self) -> tuple[int, Samples]:
        """The newest 2 s (or less) given of the open utterance, and the position of their first sample."""
        begin = max(self._given - TAIL_SAMPLES, self._kept.start, self._start or 0)
        return begin, self._kept.between(begin, self._given)

    def cut(self, at: int) -> list[GateEvent]:
        """Ends the utterance that is `TooLong` at `at` and begins the next there, with up to 1 s before it as context.

        `at` must lie inside the utterance and in what is kept of it, 5 s at least; else ValueError.
        """
        if self._start is None or not self._cut_due:
            raise RuntimeError("cut() without TooLong before it")
        if not max(self._start, self._kept.start) < at <= self._given:
            raise ValueError(f"cut at {at}: expected a position inside the utterance, up to {self._given}")
        context = min(CONTEXT_SAMPLES, at - max(self._start, self._kept.start))
        events: list[GateEvent] = [
            Ended(at),
            Opened(at, context),
            Speech(self._kept.between(at - context, self._given)),
        ]
        self._cut_due = False
        self._floor = self._start = at
        return self._judge_waiting(events)

    def _require_no_cut_due(self) -> None:
        if self._cut_due:
            raise RuntimeError("the utterance is too long: cut() comes first")

    # ── one window after the other ───────────────────────────────────────────────────────────────────────────────

    def _judge_waiting(self, events: list[GateEvent]) -> list[GateEvent]:
        while self._waiting and not self._cut_due:
            probability, peak = self._waiting.popleft()
            self._now += WINDOW_SAMPLES
            self._under_way = False
            self._speaking = self._is_speech(probability, peak)
            if self._start is None:
                self._while_silent(events)
            else:
                self._while_open(self._start, events)
        self._give(events)
        self._forget()
        return events

    def _is_speech(self, probability: float, peak: int) -> bool:
        if not self._enabled:
            return True
        return peak > SILENCE_PEAK and probability >= self._threshold - (HYSTERESIS if self._speaking else 0.0)

    def _while_silent(self, events: list[GateEvent]) -> None:
        if self._speaking:
            if self._candidate is None:
                self._candidate = _Candidate(self._now - WINDOW_SAMPLES)
            self._candidate.speech += WINDOW_SAMPLES
            self._speech_end = self._now
            if self._at_once or not self._enabled or self._candidate.speech >= self._min_speech:
                self._open(events)
        else:
            self._at_once = False
            if self._candidate is not None:
                self._candidate.dips += 1
                if self._candidate.dips > 1:
                    self._candidate = None

    def _while_open(self, start: int, events: list[GateEvent]) -> None:
        if self._speaking:
            if self._now - start > self._max_utterance:
                # Speech resumes in the hangover where there is no room left: the silence before it is the best cut.
                self._end(self._due, events)
                self._at_once = True
                self._while_silent(events)
                return
            self._speech_end = self._due = self._now
            # The next window, or the rest that a finish brings, would not fit.
            if self._now + WINDOW_SAMPLES - start > self._max_utterance:
                self._give(events)
                self._cut_due = True
                events.append(TooLong(self._now))
            return
        end = self._end_of_speech(start)
        if self._now - self._speech_end >= self._hangover or end == start + self._max_utterance:
            self._end(end, events)
        else:
            self._due = end

    def _end_of_speech(self, start: int) -> int:
        return min(self._now, self._speech_end + self._post_roll, start + self._max_utterance)

    def _open(self, events: list[GateEvent]) -> None:
        begin = self._floor if self._candidate is None else self._candidate.start - self._pre_roll
        self._start = self._given = max(self._floor, begin)
        self._due = self._now
        self._candidate = None
        self._at_once = False
        events.append(Opened(self._start))

    def _end(self, end: int, events: list[GateEvent]) -> None:
        self._due = end
        self._give(events)
        self._start = None
        self._floor = end
        events.append(Ended(end))

    def _give(self, events: list[GateEvent]) -> None:
        if self._start is not None and self._due > self._given:
            events.append(Speech(self._kept.between(self._given, self._due)))
            self._given = self._due

    def _forget(self) -> None:
        self._kept.forget_before(self.settled if self._start is None else min(self._given, self._now - KEPT_SAMPLES))


class _Candidate:
    """Speech that is too short, so far, to open an utterance."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.speech = 0
        self.dips = 0


class _Kept:
    """The newest samples of a stream, as the arrays they came in: nothing is copied until a stretch is asked for."""

    def __init__(self) -> None:
        self._pieces: deque[Samples] = deque()
        self.start = 0
        self.end = 0

    def append(self, samples: Samples) -> None:
        if len(samples):
            self._pieces.append(samples)
            self.end += len(samples)

    def between(self, begin: int, end: int) -> Samples:
        found: list[Samples] = []
        position = self.start
        for piece in self._pieces:
            if position >= end:
                break
            if position + len(piece) > begin:
                found.append(piece[max(begin - position, 0) : end - position])
            position += len(piece)
        return joined(found)

    def forget_before(self, position: int) -> None:
        while self._pieces and self.start + len(self._pieces[0]) <= position:
            self.start += len(self._pieces.popleft())


def _peak(samples: Samples) -> int:
    return int(max(samples.max(), -1 - samples.min()))


def _samples(milliseconds: float) -> int:
    return int(milliseconds * MODEL_RATE / 1000)
