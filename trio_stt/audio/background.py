"""The first stage of voice detection: what does not stand out from a stream's background is not shown to a detector.

A detector costs as much in silence as in speech, and in a call each speaker is silent most of the time. The background
is the quietest of the last seconds. What stands out from it wakes the detector: it is first shown the windows just
before, and then asked until it has heard nothing like speech for a while.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from trio_stt.audio.samples import MODEL_RATE, WINDOW_SAMPLES, Probabilities, Samples

MARGIN_DB: Final = 2.5
"""So much above the background a window stands out.

Silero behind this beside Silero alone, 4 min of conversation (38 % speech): as recorded, or with white or pink noise
5 dB below the speech, at most 0.04 % of the time in utterances went missing, with white noise as loud as the speech
0.1 %; Silero was shown 42 to 44 % of the windows. With 2 dB pink noise woke it half of the remaining time. 2 min of
speech without pauses: 0, at most 0.09 and 0.7 %.
"""

BACKGROUND_S: Final = 4.0
"""The background is the quietest window of so long a time: speech has a pause between words within it."""

LOOK_BACK_WINDOWS: Final = 8
"""Windows (0.26 s) before the one that stood out that the detector is shown as well, for its memory."""

HOLD_WINDOWS: Final = 8
"""Windows that neither stand out nor are like speech, after which the detector is asked no more."""

SPEECH_LIKE: Final = 0.2
"""A probability above this is like speech: well below that at which an utterance goes on."""

_LAG_SAMPLES: Final = 8
"""Loudness is that of the sound less itself half a millisecond earlier: rumble below 100 Hz, which varies most, counts
for little, voices for most."""

_LEAST_POWER: Final = 16.0
"""The background is never below that of dither (`SILENCE_PEAK`)."""

_BLOCK_WINDOWS: Final = 8
_BLOCKS: Final = round(BACKGROUND_S * MODEL_RATE / WINDOW_SAMPLES / _BLOCK_WINDOWS)
_LEAST_BLOCKS: Final = 4
"""Before so many (1 s) are known a stream has no background: it may have begun within a word."""

_MARGIN: Final = 10 ** (MARGIN_DB / 10)


class Background:
    """One stream's background, and whether its detector is being asked."""

    def __init__(self) -> None:
        self._minima: deque[float] = deque(maxlen=_BLOCKS)  # the quietest window of each of the last blocks
        self._minimum = math.inf  # of the block that is not full
        self._in_block = 0
        self._unseen: deque[Samples] = deque(maxlen=LOOK_BACK_WINDOWS)
        self._calm = 0  # windows since the last that stood out or was like speech
        self._asking = True

    def to_judge(self, windows: Samples) -> tuple[Samples, int]:
        """Of the next windows, shape (n, 512), what a detector is to be shown, and how many earlier ones come first.

        Nothing if all are background; else `judged` is to be told its answers.
        """
        differences = windows[:, _LAG_SAMPLES:].astype(np.float32) - windows[:, :-_LAG_SAMPLES]
        stands_out = False
        for power in np.square(differences).mean(axis=1).tolist():
            stands_out |= self._stands_out(power)
        if not stands_out and not self._asking:
            self._unseen.extend(windows)
            return windows[:0], 0
        self._asking = True
        earlier = list(self._unseen)
        self._unseen.clear()
        return (np.concatenate((np.stack(earlier), windows)) if earlier else windows), len(earlier)

    def judged(self, probabilities: Probabilities) -> None:
        """How likely the windows that were shown are speech."""
        like_speech = np.flatnonzero(probabilities > SPEECH_LIKE)
        if like_speech.size:
            self._calm = min(self._calm, len(probabilities) - 1 - int(like_speech[-1]))
        self._asking = self._calm < HOLD_WINDOWS

    def _stands_out(self, power: float) -> bool:
        self._minimum = min(self._minimum, power)
        background = max(min(self._minimum, *self._minima), _LEAST_POWER) if self._minima else _LEAST_POWER
        stands_out = len(self._minima) < _LEAST_BLOCKS or power > background * _MARGIN
        self._calm = 0 if stands_out else self._calm + 1
        self._in_block += 1
        if self._in_block == _BLOCK_WINDOWS:
            self._minima.append(self._minimum)
            self._minimum, self._in_block = math.inf, 0
        return stands_out
