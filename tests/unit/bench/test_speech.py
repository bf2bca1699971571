import wave

import numpy as np
import pytest

from trio_stt.bench.speech import Clip, SpeechError, load_speech, trimmed, words_of


def write_wav(file, samples, rate=16000):
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())


def test_clips_come_with_the_words_of_a_listing(tmp_path):
    write_wav(tmp_path / "one.wav", np.arange(100))
    write_wav(tmp_path / "two.wav", np.arange(50))
    (tmp_path / "my.transcription").write_text(
        "<s> Ten of clubs </s> (one)\n<s> isn't it? </s> (two)\n<s> x </s> (three)\n"
    )
    first, second = load_speech(tmp_path)
    assert (first.name, first.words, len(first.samples)) == ("one", ("ten", "of", "clubs"), 100)
    assert second.words == ("isn't", "it")


def test_clips_of_sub_folders_come_with_the_words_of_their_text_files(tmp_path):
    (tmp_path / "a").mkdir()
    write_wav(tmp_path / "a" / "one.wav", np.arange(100))
    (tmp_path / "a" / "one.txt").write_text("Ten, of clubs.\n")
    assert load_speech(tmp_path)[0].words == ("ten", "of", "clubs")


def test_no_speech_says_how_to_get_some(tmp_path):
    with pytest.raises(SpeechError, match="pocketsphinx-testdata"):
        load_speech(tmp_path)


def test_another_rate_is_refused(tmp_path):
    write_wav(tmp_path / "one.wav", np.arange(100), rate=8000)
    (tmp_path / "one.txt").write_text("ten")
    with pytest.raises(SpeechError, match="16 kHz"):
        load_speech(tmp_path)


def test_quiet_ends_are_trimmed_and_quiet_middles_kept():
    loud = np.tile(np.array([10000, -10000], np.int16), 800)  # 100 ms
    faint = loud // 200  # 46 dB quieter
    soft = loud // 50  # 34 dB quieter
    clip = Clip("x", np.concatenate([faint, loud, faint, soft, faint, faint]), ())
    np.testing.assert_array_equal(trimmed(clip).samples, np.concatenate([loud, faint, soft]))


def test_digital_silence_is_left_as_it_is():
    assert len(trimmed(Clip("x", np.zeros(1600, np.int16), ())).samples) == 1600


def test_transcriptions_are_compared_without_marks_and_case():
    assert words_of("<s> Mr. Dashwood's, THEN! </s>") == ("mr", "dashwood's", "then")
