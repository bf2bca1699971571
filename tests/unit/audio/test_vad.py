import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trio_stt.audio.samples import WINDOW_SAMPLES, Samples
from trio_stt.audio.vad import Detector, DetectorError, Energy, Silero, WebRtc, detectors

MAKERS: list[Callable[[], Detector[Any]]] = [lambda: Silero("cpu"), WebRtc, Energy]


def windows(seed: int, count: int) -> Samples:
    """Something voiced that comes and goes: a buzz with three formants over a little noise, shape (count, 512)."""
    random = np.random.default_rng(seed)
    times = np.arange(count * WINDOW_SAMPLES) / 16_000
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * times) / harmonic for harmonic in range(1, 30))
    loudness = 6000 * (np.sin(2 * np.pi * (1 + seed % 3) * times) > 0)
    return (buzz * loudness + random.normal(0, 20, len(times))).astype(np.int16).reshape(-1, WINDOW_SAMPLES)


@pytest.mark.parametrize("make", MAKERS)
def test_windows_of_many_streams_in_one_call_are_judged_as_if_each_stood_alone(
    make: Callable[[], Detector[Any]],
) -> None:
    detector = make()
    streams = [windows(seed, 12) for seed in range(9)]
    alone = [detector.probabilities([(detector.new_state(), stream)])[0] for stream in streams]
    states = [detector.new_state() for _ in streams]
    together: list[list[float]] = [[] for _ in streams]
    begins = [0] * len(streams)
    random = np.random.default_rng(1)
    while any(begin < 12 for begin in begins):
        # Every stream brings another number of windows, some none at all; sometimes few streams, sometimes many.
        here = [index for index in range(len(streams)) if random.random() < 0.7]
        ends = {index: min(begins[index] + int(random.integers(0, 5)), 12) for index in here}
        answers = detector.probabilities(
            [(states[index], streams[index][begins[index] : ends[index]]) for index in here]
        )
        for index, answer in zip(here, answers, strict=True):
            together[index] += answer.tolist()
            begins[index] = ends[index]
    np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("make", MAKERS)
def test_digital_silence_is_no_speech_and_no_windows_have_no_probabilities(make: Callable[[], Detector[Any]]) -> None:
    detector = make()
    quiet = np.zeros((40, WINDOW_SAMPLES), np.int16)
    assert detector.probabilities([(detector.new_state(), quiet)])[0].max() < 0.35
    assert detector.probabilities([(detector.new_state(), quiet[:0])])[0].shape == (0,)
    assert detector.probabilities([]) == []


@pytest.mark.parametrize("make", [WebRtc, Energy])
def test_something_loud_after_silence_is_speech_to_the_simple_detectors(make: Callable[[], Detector[Any]]) -> None:
    detector = make()
    state = detector.new_state()
    detector.probabilities([(state, np.zeros((10, WINDOW_SAMPLES), np.int16))])
    assert detector.probabilities([(state, windows(0, 12))])[0].max() >= 0.5


def test_energy_gets_used_to_steady_noise() -> None:
    energy = Energy()
    noise = np.random.default_rng(0).normal(0, 1000, (1200, WINDOW_SAMPLES)).astype(np.int16)
    judged = energy.probabilities([(energy.new_state(), noise)])[0]
    assert judged[0] >= 0.5
    assert judged[-200:].max() < 0.35


def test_the_detectors_stand_in_order_of_preference() -> None:
    assert [detector.name for detector in detectors("auto", "cpu")[0]] == ["silero", "webrtc", "energy"]
    assert [detector.name for detector in detectors("webrtc", "cpu")[0]] == ["webrtc", "energy"]
    assert [detector.name for detector in detectors("energy", "cpu")[0]] == ["energy"]


def test_without_sileros_package_auto_goes_on_with_the_next_and_silero_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, missing = detectors("auto", "auto")
    assert [detector.name for detector in found] == ["webrtc", "energy"]
    assert "./scripts/setup.sh" in str(missing[0])
    with pytest.raises(DetectorError, match=r"\./scripts/setup\.sh"):
        detectors("silero", "auto")


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_missing_or_broken_model_names_the_command(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    if content is not None:
        (tmp_path / "data" / "silero_vad_16k_sequence.onnx").write_bytes(content)
    spec = ModuleSpec("silero_vad", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DetectorError, match=r"silero_vad_16k_sequence\.onnx.*\./scripts/setup\.sh"):
        Silero("cpu")


def test_cuda_that_cannot_be_had_is_an_error_only_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert Silero("auto").device == "cpu"
    for engine in ("auto", "silero"):
        with pytest.raises(DetectorError, match="VAD_DEVICE=cuda"):
            detectors(engine, "cuda")
