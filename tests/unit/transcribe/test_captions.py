import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from trio_stt.transcribe.captions import MAX_CAPTION_S, TimedWord, add_translation, lay_out, plain, spread_words

texts = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=100)
spoken = st.lists(st.tuples(texts, st.floats(0.05, 3), st.floats(0, 3)), max_size=60)


def timed(spoken):
    words, now = [], 0.0
    for text, length, pause in spoken:
        words.append(TimedWord(text, now, now + length))
        now += length + pause
    return words


@given(spoken)
def test_every_letter_is_shown_once_in_order_within_the_limits(spoken):
    words = timed(spoken)
    captions = lay_out(words)
    shown = "".join(line.replace(" ", "") for caption in captions for line in caption.lines)
    assert shown == "".join(word.text for word in words)
    for caption in captions:
        assert 1 <= len(caption.lines) <= 2
        assert all(cell_len(line) <= 42 for line in caption.lines)
        assert caption.end_s - caption.start_s <= MAX_CAPTION_S + 1e-9
    for one, other in itertools.pairwise(captions):
        assert one.end_s <= other.start_s + 1e-9


def test_a_short_utterance_is_one_line():
    (caption,) = lay_out(spread_words("he was not an ill disposed young man", 1.0, 3.0))
    assert caption.lines == ("he was not an ill disposed young man",)
    assert (caption.start_s, caption.end_s) == (1.0, pytest.approx(3.0))


def test_two_lines_are_of_about_equal_length():
    (caption,) = lay_out(spread_words("unless to be rather cold hearted and rather selfish is to be", 0, 4))
    assert caption.lines == ("unless to be rather cold hearted", "and rather selfish is to be")


def test_a_long_utterance_is_split_at_words_by_their_times_without_orphans():
    words = [TimedWord(f"word{number:02}", number / 4, (number + 1) / 4) for number in range(14)]
    first, second = lay_out(words)
    assert (first.end_s, second.start_s) == (1.75, 1.75)
    assert first.lines == ("word00 word01 word02", "word03 word04 word05 word06")
    assert second.lines == ("word07 word08 word09", "word10 word11 word12 word13")


def test_a_pause_begins_a_new_caption():
    captions = lay_out([TimedWord("yes", 0, 0.5), TimedWord("no", 2.5, 3)])
    assert [caption.lines for caption in captions] == [("yes",), ("no",)]


def test_wide_characters_count_twice():
    (caption,) = lay_out([TimedWord("字" * 30, 0, 3)])
    assert [cell_len(line) for line in caption.lines] == [42, 18]


def test_control_characters_never_reach_a_terminal():
    assert plain("red \x1b[31malert\x07\r\nnow\u2028then") == "red [31malert now then"


def test_nothing_said_is_no_caption():
    assert lay_out(spread_words("", 1, 2)) == []


@given(spoken, st.lists(texts, max_size=80))
def test_a_translation_is_shown_whole_and_in_order_within_the_width(spoken, translation):
    captions = lay_out(timed(spoken))
    both = add_translation(captions, " ".join(translation))
    assert [(caption.start_s, caption.end_s) for caption in both] == [(each.start_s, each.end_s) for each in captions]
    added = [line for one, other in zip(both, captions, strict=True) for line in one.lines[len(other.lines) :]]
    assert all(cell_len(line) <= 42 for line in added)
    if captions:
        assert "".join(added).replace(" ", "") == "".join(translation)
