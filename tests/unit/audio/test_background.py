"""What is shown to a detector: what stands out, the moments before, and what follows until nothing is like speech."""

import numpy as np
import pytest

from trio_stt.audio.background import HOLD_WINDOWS, LOOK_BACK_WINDOWS, Background
from trio_stt.audio.samples import WINDOW_SAMPLES, Samples

DICE = np.random.default_rng(0)


def noise(windows: int, level: float = 100.0) -> Samples:
    """White noise, shape (n, 512)."""
    return DICE.normal(0, level, (windows, WINDOW_SAMPLES)).astype(np.int16)


def shown(background: Background, windows: Samples, probability: float = 0.0) -> int:
    """How many windows a detector that always answers the same was shown, when three come at a time."""
    count = 0
    for begin in range(0, len(windows), 3):
        judged, _ = background.to_judge(windows[begin : begin + 3])
        if len(judged):
            background.judged(np.full(len(judged), probability, np.float32))
        count += len(judged)
    return count


@pytest.fixture
def calm() -> Background:
    """A stream of which five seconds of noise were heard."""
    background = Background()
    shown(background, noise(156))
    return background


@pytest.mark.parametrize("level", [0.0, 1.0, 100.0, 5000.0])
def test_steady_noise_of_any_level_is_soon_shown_no_more(level: float) -> None:
    background = Background()
    assert 0 < shown(background, noise(60, level)) < 60
    assert shown(background, noise(120, level)) == 0


def test_what_stands_out_is_shown_with_the_moments_before_it(calm: Background) -> None:
    before, loud = noise(30), noise(3, 150.0)
    assert shown(calm, before) == 0
    judged, earlier = calm.to_judge(loud)
    assert earlier == LOOK_BACK_WINDOWS
    assert np.array_equal(judged, np.concatenate((before[-LOOK_BACK_WINDOWS:], loud)))


def test_moments_are_shown_once(calm: Background) -> None:
    calm.to_judge(noise(3, 300.0))
    calm.judged(np.zeros(11, np.float32))
    assert calm.to_judge(noise(3))[1] == 0


def test_what_is_like_speech_is_shown_on_and_what_follows_for_a_while(calm: Background) -> None:
    shown(calm, noise(3, 300.0), probability=0.9)
    assert shown(calm, noise(90), probability=0.9) == 90
    assert HOLD_WINDOWS <= shown(calm, noise(90)) <= HOLD_WINDOWS + 3


def test_a_stream_that_begins_within_a_word_has_no_background_yet() -> None:
    assert shown(Background(), noise(30, 3000.0)) == 30


def test_noise_that_sets_in_becomes_background(calm: Background) -> None:
    louder = noise(260, 400.0)
    assert 120 <= shown(calm, louder) <= 180
    assert shown(calm, noise(60, 400.0)) == 0
    assert shown(calm, noise(60, 100.0)) == 0
    assert shown(calm, noise(3, 200.0)) > 0


def test_rumble_below_voices_does_not_count(calm: Background) -> None:
    time = np.arange(30 * WINDOW_SAMPLES) / 16000
    hum = (300 * np.sin(2 * np.pi * 30 * time)).astype(np.int16).reshape(-1, WINDOW_SAMPLES)
    assert shown(calm, noise(30) + hum) == 0
