"""Detectors: how likely each window of sound is speech. Synchronous, and several streams' windows in one call.

All judge windows of 512 samples at 16 kHz, so that the gate does not care which one is at work.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
import webrtcvad

from trio_stt.audio.samples import MODEL_RATE, WINDOW_SAMPLES, Probabilities, Samples

State = TypeVar("State")
Floats = npt.NDArray[np.float32]


class DetectorError(Exception):
    """A detector cannot be had, or gave no sense. The message says why and, where something is missing, what to do."""


class Detector(Protocol[State]):
    """Judges windows. One object for all streams; what is remembered of a stream lies in its `State`."""

    @property
    def name(self) -> str:
        """Its name in settings, logs and health."""

    @property
    def window_samples(self) -> int:
        """Samples in a window, at 16 kHz."""

    def new_state(self) -> State:
        """What is remembered of a stream that begins."""

    def probabilities(self, batch: Sequence[tuple[State, Samples]]) -> list[Probabilities]:
        """For each of several streams, the speech probability of each of its next windows, shape (n,).

        `batch` holds each stream's state, which is updated, and its windows of shape (n, `window_samples`). Raises
        whatever fails; the states are then worth nothing.
        """


def detectors(engine: str, device: str) -> tuple[list[Detector[Any]], list[DetectorError]]:
    """The detectors for ``VAD_ENGINE`` and ``VAD_DEVICE``, best first, and why any better ones are missing.

    `engine` names the first choice and is followed by the simpler ones. Raises `DetectorError` when the one that was
    named, or the device that was named, cannot be had; for `auto` a missing Silero is reported in the second list.
    """
    missing: list[DetectorError] = []
    found: list[Detector[Any]] = []
    if engine in ("auto", "silero"):
        try:
            found.append(Silero(device))
        except DetectorError as error:
            if engine == "silero" or device == "cuda":
                raise
            missing.append(error)
    if engine != "energy":
        found.append(WebRtc())
    found.append(Energy())
    return found, missing


# ── Silero ───────────────────────────────────────────────────────────────────────────────────────────────────────

_CONTEXT_SAMPLES = 64
"""Samples before each window that Silero is given with it (its `OnnxWrapper` at 16 kHz)."""

_BATCH_STREAMS = 5
"""From so many streams in one call, `_step` is cheaper than one `_sequence` call for each (table at `Silero`)."""


class SileroState:
    """A stream's memory: the recurrent layer's hidden and cell state, and the end of the last window."""

    def __init__(self) -> None:
        self.recurrent: Floats = np.zeros((2, 1, 128), np.float32)
        self.context: Floats = np.zeros(_CONTEXT_SAMPLES, np.float32)


class Silero:
    """Silero VAD 6 in ONNX Runtime: two sessions (about 20 MB) for all streams, by which a batch is judged cheaply.

    The wheel carries the same network twice: one file takes one window of several streams, the other several
    consecutive windows of one stream. Microseconds a window of CPU, 3 windows (a 100 ms frame) a stream, one thread,
    probabilities equal to 1e-6:

    ====================  =====  =====  =====  =====  =====  =====  =====  =====
    streams in the call       1      2      3      4      6      8     16     32
    ====================  =====  =====  =====  =====  =====  =====  =====  =====
    window by window      104.4   76.0   65.5   59.8   54.4   52.4   47.4   44.9
    stream by stream       58.5   58.4   58.2   58.4   58.4   58.6   58.7   58.9
    ====================  =====  =====  =====  =====  =====  =====  =====  =====

    So few streams are judged stream by stream and many window by window. Neither ONNX Runtime's memory arena nor its
    patterns made a measurable difference; without them memory stays low. (`silero_vad_half.onnx` judged 26 of 772
    windows otherwise.)
    """

    name = "silero"
    window_samples = WINDOW_SAMPLES

    def __init__(self, device: str = "auto") -> None:
        """`device`: `cpu`, `cuda`, or `auto` (CUDA where it works, else the CPU).

        Raises `DetectorError` when the model is missing or broken, or CUDA was asked for and cannot be had.
        """
        folder = _silero_folder()
        self._sequence, self.device = _session(folder / "silero_vad_16k_sequence.onnx", device)
        self._step, _ = _session(folder / "silero_vad_16k_op15.onnx", self.device)
        self._rate = np.array(MODEL_RATE, np.int64)

    def new_state(self) -> SileroState:
        """A stream of which nothing was heard yet."""
        return SileroState()

    def probabilities(self, batch: Sequence[tuple[SileroState, Samples]]) -> list[Probabilities]:
        """See `Detector`. No state may stand in `batch` twice."""
        found: list[Probabilities] = [np.zeros(len(windows), np.float32) for _, windows in batch]
        inputs = [_with_context(state, windows) for state, windows in batch]
        longest_first = sorted(range(len(batch)), key=lambda index: -len(inputs[index]))
        done = self._judge_by_window(batch, inputs, found, longest_first)
        for index in longest_first:
            state, rows = batch[index][0], inputs[index][done:]
            if len(rows):
                hidden, cell = state.recurrent[0:1], state.recurrent[1:2]
                found[index][done:], hidden, cell = self._sequence.run(None, {"input": rows, "h": hidden, "c": cell})
                state.recurrent = np.concatenate((hidden, cell))
        return found

    def _judge_by_window(
        self,
        batch: Sequence[tuple[SileroState, Samples]],
        inputs: list[Floats],
        found: list[Probabilities],
        longest_first: list[int],
    ) -> int:
        """Judges the first, second … window of all streams that have one, while they are many; returns how many."""
        if len(batch) < _BATCH_STREAMS:
            return 0
        done = len(inputs[longest_first[_BATCH_STREAMS - 1]])
        recurrent = np.concatenate([batch[index][0].recurrent for index in longest_first], axis=1)
        for window in range(done):
            now = [index for index in longest_first if len(inputs[index]) > window]
            rows = np.stack([inputs[index][window] for index in now])
            judged, recurrent[:, : len(now)] = self._step.run(
                None, {"input": rows, "state": recurrent[:, : len(now)], "sr": self._rate}
            )
            for index, probability in zip(now, judged[:, 0], strict=True):
                found[index][window] = probability
        for column, index in enumerate(longest_first):
            batch[index][0].recurrent = recurrent[:, column : column + 1].copy()
        return done


def _with_context(state: SileroState, windows: Samples) -> Floats:
    """Each window behind the end of the one before it, shape (n, 64 + 512), from −1 to 1; moves the context on."""
    rows = np.empty((len(windows), _CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
    if len(windows):
        np.multiply(windows, 1 / 32768, out=rows[:, _CONTEXT_SAMPLES:], dtype=np.float32)
        rows[0, :_CONTEXT_SAMPLES] = state.context
        rows[1:, :_CONTEXT_SAMPLES] = rows[:-1, -_CONTEXT_SAMPLES:]
        state.context = rows[-1, -_CONTEXT_SAMPLES:].copy()
    return rows


def _silero_folder() -> Path:
    # Only looked up: importing the package would import torch.
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise DetectorError(
            "the Python package silero-vad, which carries Silero's model, is missing: ./scripts/setup.sh"
        )
    return Path(spec.origin).parent / "data"


def _session(model: Path, device: str) -> tuple[onnxruntime.InferenceSession, str]:
    """A session of one thread, and the device it runs on."""
    if not model.is_file():
        raise DetectorError(f"Silero's model {model} is missing: ./scripts/setup.sh")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 4  # fatal: the rest is raised, and told by whoever catches it
    providers = ["CPUExecutionProvider"]
    cuda = "CUDAExecutionProvider"
    if device != "cpu" and cuda in onnxruntime.get_available_providers():
        providers.insert(0, cuda)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own share no base class
        raise DetectorError(f"Silero's model {model} cannot be loaded ({error}): ./scripts/setup.sh") from error
    # A provider that finds no graphics card is left out without an exception.
    used = "cuda" if session.get_providers()[0] == cuda else "cpu"
    if device == "cuda" and used != "cuda":
        raise DetectorError(
            "VAD_DEVICE=cuda, but ONNX Runtime finds no CUDA: install the extra trio-stt[cuda] and the card's driver, "
            "or set VAD_DEVICE=auto"
        )
    return session, used


# ── simpler ones, for when Silero fails ──────────────────────────────────────────────────────────────────────────

_WEBRTC_SAMPLES = 480


class WebRtc:
    """The detector of WebRTC, mode 2 of 0–3. It takes 30 ms: the first 480 of a window's 512 samples."""

    name = "webrtc"
    window_samples = WINDOW_SAMPLES

    def new_state(self) -> webrtcvad.Vad:
        """A stream of which nothing was heard yet."""
        return webrtcvad.Vad(2)

    def probabilities(self, batch: Sequence[tuple[webrtcvad.Vad, Samples]]) -> list[Probabilities]:
        """See `Detector`; each probability is 0 or 1."""
        return [
            np.array([vad.is_speech(window[:_WEBRTC_SAMPLES].tobytes(), MODEL_RATE) for window in windows], np.float32)
            for vad, windows in batch
        ]


_QUIETEST_DB = -70.0
_LEAST_SPEECH_DB = -50.0
_MARGIN_DB = 12.0
_FLOOR_RISE_DB = 0.05
"""A window: 1.6 dB a second. Noise that sets in is followed within seconds; speech's pauses pull the floor down."""


class EnergyState:
    """A stream's noise floor: the level of its quietest recent windows, in dBFS."""

    def __init__(self) -> None:
        self.floor_db = _QUIETEST_DB


class Energy:
    """Loudness over an adaptive noise floor: no library and no model, so it always works."""

    name = "energy"
    window_samples = WINDOW_SAMPLES

    def new_state(self) -> EnergyState:
        """A stream of which nothing was heard yet."""
        return EnergyState()

    def probabilities(self, batch: Sequence[tuple[EnergyState, Samples]]) -> list[Probabilities]:
        """See `Detector`. ½ stands for `_MARGIN_DB` over the floor, 0 for the floor itself, 1 for twice the margin."""
        return [self._judge(state, windows) for state, windows in batch]

    def _judge(self, state: EnergyState, windows: Samples) -> Probabilities:
        power = np.mean((windows / 32768.0) ** 2, axis=1)
        levels = np.maximum(10 * np.log10(power + 1e-12), _QUIETEST_DB)
        judged = np.zeros(len(windows), np.float32)
        for index, level in enumerate(levels.tolist()):
            state.floor_db = min(level, state.floor_db + _FLOOR_RISE_DB)
            if level > _LEAST_SPEECH_DB:
                judged[index] = min((level - state.floor_db) / (2 * _MARGIN_DB), 1.0)
        return judged
