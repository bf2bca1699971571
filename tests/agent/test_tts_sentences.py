"""What is spoken at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tts.sentences import LONGEST_PIECE, sentences


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The recording has started.", ["The recording has started."]),
        ("It began. We all  hear\nit.", ["It began.", "We all hear it."]),
        ("Really? Yes! Good.", ["Really?", "Yes!", "Good."]),
        ("no mark at the end", ["no mark at the end"]),
        ("It costs 3.50 today. Or 1.000.000 tomorrow.", ["It costs 3.50 today.", "Or 1.000.000 tomorrow."]),
        ("Version 2.1.3 is out. See example.org/a.b now.", ["Version 2.1.3 is out.", "See example.org/a.b now."]),
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("O Sr. Silva e a Dra. Costa chegaram. Bom dia.", ["O Sr. Silva e a Dra. Costa chegaram.", "Bom dia."]),
        ("J. S. Bach wrote it. I know.", ["J. S. Bach wrote it.", "I know."]),
        ("See p. 12 and no. 5. Then stop.", ["See p. 12 and no. 5.", "Then stop."]),
        ("I said no. He left.", ["I said no.", "He left."]),
        ("1. First comes this. 2. Then that.", ["1. First comes this.", "2. Then that."]),
        ("In 1999. Then we left.", ["In 1999.", "Then we left."]),
        ("We use e.g. Python here. Good.", ["We use e.g. Python here.", "Good."]),
        ("Well... maybe not. So...", ["Well... maybe not.", "So..."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("(It works.) Next.", ["(It works.)", "Next."]),
        ("M. Dupont est là. Il parle.", ["M. Dupont est là.", "Il parle."]),
        ("¿Qué hora es? Son las 14.30 h. en punto.", ["¿Qué hora es?", "Son las 14.30 h. en punto."]),
        ("रिकॉर्डिंग शुरू हो गई है। सब सुन सकते हैं।", ["रिकॉर्डिंग शुरू हो गई है।", "सब सुन सकते हैं।"]),
        ("", []),
        (" \n ", []),
        ("... !", []),
        ("42", ["42"]),
    ],
)
def test_a_text_is_cut_into_its_sentences(text, pieces):
    assert sentences(text) == pieces


def test_a_long_sentence_is_cut_where_a_speaker_draws_breath_else_between_words():
    text = (
        "We will meet again next Tuesday at the office in London, where the new director is going to explain what the "
        "company wants to do in the coming year; and how each of you can help"
    )
    assert sentences(text) == [
        "We will meet again next Tuesday at the office in London,",
        "where the new director is going to explain what the company wants to do in the coming year;",
        "and how each of you can help",
    ]
    assert sentences("so it goes, " + "word " * 30)[0] == "so it goes, " + " ".join(["word"] * 17)
    assert sentences("x" * 250) == ["x" * 100, "x" * 100, "x" * 50]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400))
def test_nothing_that_can_be_said_is_lost_and_no_piece_is_too_long(text):
    pieces = sentences(text)
    assert all(0 < len(piece) <= LONGEST_PIECE for piece in pieces)
    said = "".join(character for character in text if character.isalnum())
    assert "".join(character for piece in pieces for character in piece if character.isalnum()) == said


@given(
    st.lists(st.sampled_from(["Yes.", "Dr.", "3.5", "word", "No. 7", "e.g.", "what?", "—", "a,", "J."]), max_size=60)
)
def test_cut_pieces_put_together_are_the_text(words):
    text = " ".join(words)
    pieces = sentences(text)
    assert " ".join(pieces).replace("— ", "").replace(" —", "") == text.replace("— ", "").replace(" —", "").strip("—")
