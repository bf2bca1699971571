import pytest

from trio_stt.bench.word_errors import WordErrors, total, word_errors


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("ten of clubs", "ten of clubs", 0),
        ("ten of clubs", "ten of gloves", 1),
        ("ten of clubs", "ten clubs", 1),
        ("ten of clubs", "ten of the clubs", 1),
        ("ten of clubs", "", 3),
        ("", "hello", 1),
        ("four queen of clubs", "for queen love clubs", 2),
    ],
)
def test_substituted_missing_and_added_words_count(said, heard, errors):
    assert word_errors(said.split(), heard.split()) == WordErrors(errors, len(said.split()))


def test_whole_words_are_compared_not_letters():
    assert word_errors(["seven"], ["sevens"]).errors == 1


def test_the_rate_of_several_utterances_weighs_them_by_their_words():
    together = total([WordErrors(1, 1), WordErrors(0, 9)])
    assert together.rate == pytest.approx(0.1)


def test_noise_where_nothing_was_said_is_all_wrong_and_silence_is_right():
    assert word_errors([], ["uh"]).rate == 1
    assert word_errors([], []).rate == 0
