import random

import numpy as np
import pytest

from trio_stt.bench.script import continuous, conversation, separate
from trio_stt.bench.speech import Clip

CLIPS = [Clip(f"clip{n}", np.full(16000 * n, n, np.int16), ()) for n in (1, 2, 3)]


def samples_of(script):
    return np.frombuffer(b"".join(script.frames), np.int16)


@pytest.mark.parametrize("frame_ms", [20, 100])
def test_frames_are_of_one_length_and_hold_all_samples(frame_ms):
    script = continuous(CLIPS, 10.05, frame_ms, random.Random(1))
    assert {len(frame) for frame in script.frames[:-1]} == {32 * frame_ms}
    assert script.samples == len(samples_of(script)) == 160_800


def test_continuous_speech_has_no_silence():
    assert samples_of(continuous(CLIPS, 20, 100, random.Random(1))).all()


def test_each_separate_clip_stands_where_the_script_says_with_silence_around_it():
    script = separate(CLIPS, 5, 1.2, 100, random.Random(1))
    samples = samples_of(script)
    assert len(script.clips) == 5
    ends_before = 0
    for clip in script.clips:
        assert clip.start - ends_before >= 1.2 * 16000
        assert not samples[ends_before : clip.start].any()
        assert (samples[clip.start : clip.end] == int(clip.name[-1])).all()
        ends_before = clip.end
    assert script.samples - ends_before >= 2.4 * 16000


def test_in_a_conversation_exactly_one_speaks_at_a_time():
    scripts = conversation(CLIPS, 3, 30, 100, random.Random(1))
    voices = np.stack([samples_of(script) for script in scripts])
    assert voices.shape == (3, 480_000)
    assert (np.count_nonzero(voices, axis=0) == 1).all()


def test_two_seeds_give_two_courses_and_one_seed_always_the_same():
    one, same, other = (continuous(CLIPS, 60, 100, random.Random(seed)).frames for seed in (1, 1, 2))
    assert one == same != other
