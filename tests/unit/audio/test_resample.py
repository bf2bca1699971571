import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_stt.audio.resample import Resampler
from trio_stt.audio.samples import MODEL_RATE, joined

RATES = st.sampled_from([8000, 8001, 11025, 16000, 22050, 24000, 44100, 48000])


def tone(rate: int, hertz: float, seconds: float) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


def test_at_the_models_rate_samples_pass_uncopied() -> None:
    sound = tone(16000, 440, 0.1)
    resampler = Resampler(16000)
    assert resampler.push(sound) is sound
    assert not len(resampler.flush())
    assert resampler.to_stream(123) == resampler.to_model(123) == 123


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_a_tone_stays_the_same_tone_at_the_same_time(rate: int) -> None:
    resampler = Resampler(rate)
    pushed = tone(rate, 440, 1)
    pieces = [resampler.push(pushed[begin : begin + rate // 10]) for begin in range(0, rate, rate // 10)]
    resampled = joined([*pieces, resampler.flush()]).astype(float)
    expected = tone(MODEL_RATE, 440, 1).astype(float)
    middle = slice(1600, -1600)
    assert len(resampled) == MODEL_RATE
    assert np.abs(resampled[middle] - expected[middle]).max() < 8000 * 0.01


@pytest.mark.parametrize("rate", [7999, 48001, 0])
def test_other_rates_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="8000 to 48000"):
        Resampler(rate)


@settings(max_examples=50, deadline=None)
@given(RATES, st.lists(st.lists(st.integers(0, 3000), max_size=4), max_size=12))
def test_flushes_bring_out_all_and_the_clocks_agree_at_each(rate: int, segments: list[list[int]]) -> None:
    resampler = Resampler(rate)
    stream = model = 0
    meetings = [(0, 0)]
    for chunks in segments:
        for length in chunks:
            model += len(resampler.push(np.zeros(length, np.int16)))
            stream += length
        model += len(resampler.flush())
        assert abs(model - stream * MODEL_RATE / rate) <= 1  # no drift, however many flushes
        meetings.append((stream, model))
    for stream_position, model_position in meetings:
        assert resampler.to_stream(model_position) <= stream_position  # several stream samples may meet one
        assert resampler.to_model(stream_position) == model_position
    assert resampler.to_stream(model) == stream


@settings(max_examples=50, deadline=None)
@given(RATES, st.lists(st.integers(1, 3000), min_size=1, max_size=8))
def test_the_clocks_never_run_backwards_and_are_each_others_inverse(rate: int, segments: list[int]) -> None:
    resampler = Resampler(rate)
    for length in segments:
        resampler.push(np.zeros(length, np.int16))
        resampler.flush()
    stream_positions = [resampler.to_stream(position) for position in range(5000)]
    model_positions = [resampler.to_model(position) for position in range(5000)]
    for positions in (stream_positions, model_positions):
        assert all(before <= after for before, after in itertools.pairwise(positions))
    for position in range(0, 5000, 7):
        # One rounding each way: at most half a sample of the coarser clock, and half of the finer.
        assert abs(resampler.to_stream(resampler.to_model(position)) - position) <= rate / MODEL_RATE + 1
        assert abs(resampler.to_model(resampler.to_stream(position)) - position) <= MODEL_RATE / rate + 1


def test_the_clocks_keep_pace_after_more_flushes_than_are_remembered() -> None:
    resampler = Resampler(44100)
    model = 0
    for _ in range(500):
        model += len(resampler.push(np.zeros(7, np.int16))) + len(resampler.flush())
    assert model == round(3500 * MODEL_RATE / 44100)
    assert resampler.to_stream(model) == 3500
    assert abs(resampler.to_stream(model // 2) - 1750) <= 3
