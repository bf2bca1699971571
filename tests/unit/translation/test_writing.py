import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.bench.translation import as_recognised, mark_scores, sentences_of
from trio_stt.translation.writing import load_model, write

WORDS = st.lists(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=12), max_size=30)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("how are you", "en", "How are you?"),
        ("where is the train station", "en", "Where is the train station?"),
        ("i think i'm late", "en", "I think I'm late."),
        ("we met in london on monday", "en", "We met in London on Monday."),
        ("we have seen the president of the united states", "en", "We have seen the President of the United States."),
        ("como você está hoje", "pt", "Como você está hoje?"),
        ("guten morgen", "de", "Guten morgen."),
        ("早上好", "zh", "早上好。"),
        ("สวัสดี", "th", "สวัสดี"),
        ("नमस्ते", "hi", "नमस्ते।"),
        ("", "en", ""),
    ],
)
def test_recognised_words_become_sentences(text, language, expected):
    assert write(text, language) == expected


def test_an_utterance_that_was_cut_short_gets_no_full_stop():
    assert not write("and then we went to the", "en").endswith(".")


def test_several_sentences_are_told_apart():
    written = write("thank you very much mister speaker where have you been i have been waiting for you", "en")
    assert written.count(".") + written.count("?") >= 2


@pytest.mark.parametrize("text", ["Good morning", "how are you?", "早上好。"])
def test_text_that_has_been_written_stays_as_it_is(text):
    assert write(text, "en") == text


@given(words=WORDS, language=st.sampled_from(["en", "pt", "vi", "zh", "xx"]))
def test_no_word_is_added_left_out_or_changed(words, language):
    written = write(" ".join(words), language).split()
    assert [word.rstrip(",.?。").upper() for word in written] == [word.upper() for word in words]


@pytest.mark.parametrize("language", ["en", "pt"])
def test_what_was_learnt_is_there(language):
    assert load_model(language) is not None


def test_of_other_languages_nothing_was_learnt():
    assert load_model("vi") is None


@pytest.mark.parametrize("language", ["en", "pt"])
def test_most_sentence_ends_are_found_in_text_that_was_not_learnt(language):
    sentences = sentences_of(language)
    assert len(sentences) >= 100
    written = [write(as_recognised(sentence), language) for sentence in sentences]
    assert mark_scores(sentences, written)["."].f1 > 0.7


def test_marks_are_scored_where_they_stand():
    scores = mark_scores(["Well, yes. Why not?"], ["Well yes. Why, not."])
    assert (scores["."].precision, scores["."].recall) == (0.5, 1.0)
    assert (scores["?"].f1, scores[","].f1) == (0.0, 0.0)
