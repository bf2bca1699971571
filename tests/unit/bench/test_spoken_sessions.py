import random

import numpy as np
import pytest

from trio_stt.bench.sound_conditions import CONDITIONS, at_model_rate, by_telephone, under, with_gain, with_noise
from trio_stt.bench.speech import Clip
from trio_stt.bench.spoken_sessions import continuous_session, conversation_session

TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.int16)
CLIPS = [Clip(f"clip{seconds}", np.tile(TONE, seconds), (f"{seconds}",) * seconds) for seconds in (1, 2, 3, 4)]


def level_db(samples) -> float:
    return 10 * np.log10(np.mean(np.square(samples.astype(float))))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("seconds", [3, 10, 60])
def test_a_session_is_about_as_long_as_asked_for_and_has_the_words_of_whole_clips(seconds, seed):
    session = continuous_session(CLIPS, seconds, random.Random(seed))
    assert session.seconds == pytest.approx(seconds, rel=0.15)
    assert len(session.words) == session.seconds


@pytest.mark.parametrize("seed", range(5))
def test_in_a_conversation_so_much_is_speech_and_the_rest_a_quiet_room(seed):
    session = conversation_session(CLIPS, 30, 0.38, random.Random(seed))
    assert session.seconds == pytest.approx(30, rel=0.15)
    loud = np.abs(session.samples.reshape(-1, 1)) > 200
    speech_s = len(session.words)  # each clip has a word a second
    assert speech_s == pytest.approx(0.38 * session.seconds, abs=0.01)
    quiet = session.samples[~loud.any(axis=1)]
    assert quiet.any()


def test_sessions_differ_and_the_same_dice_make_the_same_ones():
    made = [continuous_session(CLIPS, 20, random.Random(seed)).name for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_gain_moves_the_level_and_clips_what_is_too_loud():
    assert level_db(with_gain(TONE, -20)) == pytest.approx(level_db(TONE) - 20, abs=0.1)
    assert with_gain(TONE, 20).max() == 32767


def test_noise_is_as_far_below_the_speech_as_asked_for():
    added = with_noise(TONE, 15).astype(float) - TONE
    assert level_db(added) == pytest.approx(level_db(TONE) - 15, abs=0.3)


def test_by_telephone_half_the_samples_remain_in_256_steps_at_the_same_level():
    heard = by_telephone(TONE)
    assert len(heard) == len(TONE) // 2
    assert len(np.unique(heard)) <= 256
    assert level_db(heard) == pytest.approx(level_db(TONE), abs=0.5)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_under_every_condition_a_clip_keeps_its_length_and_words(condition):
    heard = under(condition, CLIPS[1])
    assert heard.seconds == pytest.approx(2)
    assert heard.words == CLIPS[1].words
    wide = at_model_rate(heard)
    assert wide.sample_rate == 16000
    assert wide.seconds == pytest.approx(2)
