"""One detector for all streams, with the next one behind it: whoever has windows asks, and is always answered.

Streams that ask in the same turn of the event loop are judged in one call of the detector. It is made on the event
loop itself: the hop to a thread costs more than it frees. Silero, CPU microseconds a stream's 3 windows (100 ms):

=================================  ===  ===  ===  ===  ===  ===
streams asking at once               1    2    5   10   30  100
=================================  ===  ===  ===  ===  ===  ===
on the event loop, gathered        238  225  219  184  164  162
in a thread, one hop for each      349  349  342  342  366  396
in a thread, one hop for all       354  272  238  191  158  149
=================================  ===  ===  ===  ===  ===  ===
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
import trio

from trio_stt.audio.background import Background
from trio_stt.audio.samples import WINDOW_SAMPLES, Probabilities, Samples
from trio_stt.audio.speech_gate import SILENCE_PEAK
from trio_stt.audio.vad import Detector, DetectorError

RETRY_S = 30.0
"""Seconds after which a better detector that failed is tried again."""

_REQUEST_WINDOWS = 32
"""Most windows of one stream in a call: about 1 s of sound and 2 ms of the event loop's time."""

_CALL_WINDOWS = 128
"""Most windows in a call, about 6 ms; who asked later is judged in the next one."""

EVERYTHING = "everything"
"""Name of the last resort: everything is speech."""


class VoiceActivity:
    """Judges the windows of all streams with the best detector that works. Used on the event loop's thread only."""

    def __init__(
        self, detectors: Sequence[Detector[Any]], log: structlog.typing.FilteringBoundLogger, retry_s: float = RETRY_S
    ) -> None:
        """`detectors`: best first. Which one is at work is logged whenever it changes."""
        self._detectors = tuple(detectors)
        self._log = log
        self._retry_s = retry_s
        self._active = 0  # index of the detector at work; len(detectors): everything is speech
        self._retry_at = 0.0  # on Trio's clock; matters only while a better one has failed
        self._requests: deque[_Request] = deque()
        self.cpu_s = 0.0
        """Processor time that judging has taken so far."""

    @property
    def active(self) -> str:
        """The name of the detector at work; `EVERYTHING` when all have failed and everything counts as speech."""
        return self._detectors[self._active].name if self._active < len(self._detectors) else EVERYTHING

    @property
    def degraded(self) -> bool:
        """Whether a better detector than the one at work has failed."""
        return self._active > 0

    def open(self) -> VoiceStream:
        """A new stream. It needs no closing."""
        return VoiceStream(self)

    async def _judged(self, request: _Request) -> Probabilities:
        """Judges what was asked, oldest first, until `request` is answered; with it whoever else fits into the call.

        A checkpoint: either it is cancelled before the request was made, or it answers.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._requests.append(request)
        # All who are ready in this turn of the loop ask before the first of them goes on, who then judges for all.
        await trio.lowlevel.cancel_shielded_checkpoint()
        while request.answer is None:
            self._judge(self._next_call())
        return request.answer

    def _next_call(self) -> list[_Request]:
        call = [self._requests.popleft()]
        room = _CALL_WINDOWS - len(call[0].windows)
        while self._requests and len(self._requests[0].windows) <= room:
            call.append(self._requests.popleft())
            room -= len(call[-1].windows)
        return call

    def _judge(self, call: list[_Request]) -> None:
        began_s = time.thread_time()
        self._judge_by_best(call)
        self.cpu_s += time.thread_time() - began_s

    def _judge_by_best(self, call: list[_Request]) -> None:
        if self._active and trio.current_time() >= self._retry_at:
            self._retry()
        while self._active < len(self._detectors):
            detector = self._detectors[self._active]
            try:
                answers = detector.probabilities(
                    [(request.memory.state(detector), request.windows) for request in call]
                )
                _check(answers, call)
            except Exception as error:  # noqa: BLE001  whatever a detector fails with, the next one takes over
                self._fail(detector, error)
                continue
            for request, answer in zip(call, answers, strict=True):
                request.answer = answer
            return
        for request in call:
            request.memory.forget()
            request.answer = np.ones(len(request.windows), np.float32)

    def _fail(self, detector: Detector[Any], error: Exception) -> None:
        self._active += 1
        self._retry_at = trio.current_time() + self._retry_s
        self._log.error("voice_detector_failed", detector=detector.name, replaced_by=self.active, exc_info=error)

    def _retry(self) -> None:
        """Returns to the best detector that judges a canned window again."""
        self._retry_at = trio.current_time() + self._retry_s
        for index, detector in enumerate(self._detectors[: self._active]):
            try:
                detector.probabilities([(detector.new_state(), _CANNED)])
            except Exception as error:  # noqa: BLE001  it still fails, as it may with anything
                self._log.debug("voice_detector_still_fails", detector=detector.name, error=repr(error))
            else:
                self._active = index
                self._log.info("voice_detector_back", detector=detector.name)
                return


class VoiceStream:
    """One stream's windows. Its `probabilities` must not be awaited by two tasks at once."""

    def __init__(self, activity: VoiceActivity) -> None:
        self._activity = activity
        self._memory = _Memory()
        self._background = Background()

    async def probabilities(self, windows: Samples) -> Probabilities:
        """How likely each of the next windows is speech; `windows` has shape (512 × n,) or (n, 512).

        Windows that are all digital silence, or the stream's background, are not shown to the detector: their
        probability is 0. Always answers. A checkpoint; cancelled, it has judged the first windows or none, and no other
        stream notices.
        """
        rows = windows.reshape(-1, WINDOW_SAMPLES)
        shown, earlier = self._to_judge(rows)
        answers = [
            await self._activity._judged(_Request(self._memory, shown[begin : begin + _REQUEST_WINDOWS]))
            for begin in range(0, len(shown), _REQUEST_WINDOWS)
        ]
        if not answers:
            await trio.lowlevel.checkpoint()
            return np.zeros(len(rows), np.float32)
        found = np.concatenate(answers)
        self._background.judged(found)
        return found[earlier:]

    def _to_judge(self, rows: Samples) -> tuple[Samples, int]:
        if rows.size and rows.min() >= -SILENCE_PEAK and rows.max() <= SILENCE_PEAK:
            return rows[:0], 0
        if self._activity.active == EVERYTHING:
            return rows, 0
        began_s = time.thread_time()
        shown = self._background.to_judge(rows)
        self._activity.cpu_s += time.thread_time() - began_s
        return shown


_CANNED: Samples = np.zeros((1, WINDOW_SAMPLES), np.int16)


class _Memory:
    """What the detector at work remembers of one stream; a detector that takes over begins anew."""

    def __init__(self) -> None:
        self._detector: Detector[Any] | None = None
        self._state: Any = None

    def state(self, detector: Detector[Any]) -> Any:
        if self._detector is not detector:
            self._detector, self._state = detector, detector.new_state()
        return self._state

    def forget(self) -> None:
        self._detector = self._state = None


class _Request:
    """Some windows of one stream, shape (n, 512), and in time their probabilities."""

    def __init__(self, memory: _Memory, windows: Samples) -> None:
        self.memory = memory
        self.windows = windows
        self.answer: Probabilities | None = None


def _check(answers: Sequence[Probabilities], call: Sequence[_Request]) -> None:
    """Raises `DetectorError` unless every window has its probability: nonsense must not be taken for silence."""
    for answer, request in zip(answers, call, strict=True):
        if len(answer) != len(request.windows) or not np.all((answer >= 0) & (answer <= 1)):
            raise DetectorError(f"{answer!r} are not the probabilities of {len(request.windows)} windows")
