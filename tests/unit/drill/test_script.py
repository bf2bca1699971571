"""What counts as speech in a drill."""

import numpy as np

from tests.unit.fakes import silence, sound
from trio_stt.bench.speech import load_speech
from trio_stt.drill.script import loud_phrases, write_scripts


def test_loud_sound_is_a_phrase_and_short_pauses_are_part_of_it():
    parts = [silence(0.5), sound(0.6), silence(0.2), sound(0.5), silence(0.4), sound(0.3), silence(0.5)]
    assert loud_phrases(np.concatenate(parts)) == ((8000, 28800), (35200, 40000))


def test_clicks_and_silence_are_no_phrases():
    assert loud_phrases(silence(1)) == ()
    assert loud_phrases(np.concatenate([silence(0.5), sound(0.05), silence(0.5)])) == ()


def test_parts_are_long_enough_spoken_for_their_share_and_the_same_for_the_same_seed():
    clips = load_speech()
    scripts = write_scripts(clips, 3, 40, seed=7)
    assert [each.clip.words for each in scripts] == [each.clip.words for each in write_scripts(clips, 3, 40, seed=7)]
    assert scripts[0].clip.words != scripts[1].clip.words
    for script in scripts:
        assert 40 <= script.clip.seconds <= 60
        speech_s = sum(end - begin for begin, end in script.phrases) / 16000
        assert 0.2 < speech_s / script.clip.seconds < 0.4
