"""Detectors, resampling and the gate together, on the recording of three sentences that the models are checked with."""

import numpy as np
import pytest
import soxr

from trio_stt.audio.resample import Resampler
from trio_stt.audio.samples import MODEL_RATE, Samples, Windows
from trio_stt.audio.speech_gate import Ended, GateConfig, Opened, SpeechGate
from trio_stt.audio.vad import Detector, Silero, WebRtc
from trio_stt.models.decode_recording import recording

SENTENCES_S = [(0.05, 4.34), (4.81, 9.04), (9.67, 13.65)]
"""Where the sentences lie: the stretches louder than 40 dB below the recording's peak."""


def utterances(detector: Detector, rate: int, sound: Samples) -> list[tuple[float, float, float]]:
    """Start, end, and when the end was told, in seconds; `sound` at `rate` comes in frames of 20 ms."""
    resampler, windows, gate = Resampler(rate), Windows(), SpeechGate(GateConfig())
    state = detector.new_state()
    found, start = [], 0.0
    frame = rate // 50
    for begin in range(0, len(sound), frame):
        whole = windows.push(resampler.push(sound[begin : begin + frame]))
        for event in gate.push(whole, detector.probabilities([(state, whole.reshape(-1, 512))])[0]):
            match event:
                case Opened(position):
                    start = resampler.to_stream(position) / rate
                case Ended(position):
                    found.append((start, resampler.to_stream(position) / rate, (begin + frame) / rate))
    return found


@pytest.mark.parametrize(("rate", "held_s"), [(8000, 0.12), (16000, 0.0), (44100, 0.04)])
@pytest.mark.parametrize(("make", "lag_s"), [(Silero, 0.15), (WebRtc, 0.3)])
def test_every_sentence_begins_and_ends_with_an_utterance_and_its_end_is_told_in_time(
    make: type[Silero] | type[WebRtc], lag_s: float, rate: int, held_s: float
) -> None:
    silence = np.zeros(MODEL_RATE, np.int16)
    sound = soxr.resample(np.concatenate((np.frombuffer(recording(), np.int16), silence)), MODEL_RATE, rate)
    found = utterances(make(), rate, sound)
    for first, last in SENTENCES_S:
        # A pause for breath may divide a sentence: its last utterance is the one that ends with it.
        own = [(start, end, told) for start, end, told in found if start < last and end > first]
        assert own[0][0] <= first
        _, end, told = own[-1]
        # The detector's lag behind the last sound, and the post-roll.
        assert last <= end <= last + lag_s + 0.128
        # The lag, the hangover, and what the resampling filter holds back.
        assert told - last <= lag_s + 0.3 + held_s
    assert len(found) <= len(SENTENCES_S) + 1
