"""What the network has not decoded yet when an utterance ends is in its final all the same."""

from pathlib import Path

import numpy as np
import pytest

from trio_stt.audio.samples import MODEL_RATE, Samples
from trio_stt.bench.speech import load_speech
from trio_stt.bench.word_errors import WordErrors, total, word_errors
from trio_stt.recognition.engine import Recogniser
from trio_stt.recognition.vosk_engine import VoskEngine

CUTS_S = [0.9, 1.37, 2.0, 2.61, 3.14, 3.7, 4.44]
LONG_SILENCE = np.zeros(2 * MODEL_RATE, np.int16)
MOST_OTHER_WORDS = 0.05
"""Kaldi's dither alone makes some words others from run to run, mostly where the cut has left half a word."""


def words(recogniser: Recogniser, *parts: Samples) -> list[str]:
    for part in parts:
        for begin in range(0, len(part), 1600):
            recogniser.accept(part[begin : begin + 1600])
    return [word.text for word in recogniser.finish()]


@pytest.mark.parametrize("step_ms", [None, 400])
def test_a_final_has_the_words_that_it_has_after_a_long_silence(model: Path, step_ms: int | None) -> None:
    engine = VoskEngine(model, recogniser_memory_mb=200, step_ms=step_ms)
    found: list[WordErrors] = []
    for clip in load_speech()[:5]:
        for cut_s in CUTS_S:
            spoken = clip.samples[: round(cut_s * MODEL_RATE)]
            found.append(word_errors(words(engine.open(), spoken, LONG_SILENCE), words(engine.open(), spoken)))
    assert total(found).words > 100
    assert total(found).rate <= MOST_OTHER_WORDS


def test_a_recogniser_that_goes_on_for_long_still_has_its_last_words(model: Path) -> None:
    """After ten minutes vosk drops its pipeline, and the network's steps are counted anew."""
    engine = VoskEngine(model, recogniser_memory_mb=200, step_ms=400)
    long, samples = engine.open(), load_speech()[0].samples
    for _ in range(19):
        words(long, np.zeros(30 * MODEL_RATE, np.int16))
    found: list[WordErrors] = []
    for cut_s in 3 * CUTS_S:
        spoken = samples[: round(cut_s * MODEL_RATE)]
        found.append(word_errors(words(engine.open(), spoken, LONG_SILENCE), words(long, spoken)))
    assert 19 * 30 + sum(3 * CUTS_S) > 600
    assert total(found).words > 50
    assert total(found).rate <= MOST_OTHER_WORDS
