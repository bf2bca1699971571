import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.dialects.events import Audio, Configure, End, Flush, Misuse, Transcript, Word
from trio_stt.dialects.vosk_server import VoskServerDialect, encode_final, encode_partial


def read(frame, models=()):
    return VoskServerDialect(models).receive(frame)


def test_samples_follow_each_other():
    dialect = VoskServerDialect()
    assert dialect.receive(b"\1\2\3\4") == Audio(b"\1\2\3\4", 0, 2)
    assert dialect.receive(b"") == Audio(b"", 2, 0)
    assert dialect.receive(b"\5\6") == Audio(b"\5\6", 2, 1)
    assert dialect.received_samples == 3


def test_the_second_half_of_an_odd_count_of_bytes_is_left_out():
    assert read(b"\1\2\3") == Audio(b"\1\2", 0, 1)
    assert read(b"\1") == Audio(b"", 0, 0)


def test_a_frame_is_passed_on_without_a_copy():
    frame = bytes(3200)
    assert read(frame).payload is frame


@pytest.mark.parametrize("text", ['{"eof" : 1}', '{"eof":1}', ' { "eof": true }\n', '{"eof":"yes","more":[1]}'])
def test_eof_may_be_spelled_in_any_way(text):
    assert read(text) == End()


@pytest.mark.parametrize("text", ['{"reset" : 1}', '{"reset":1}', '{"reset": true}'])
def test_reset_may_be_spelled_in_any_way(text):
    assert read(text) == Flush()


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({}, {}),
        ({"sample_rate": 16000}, {"sample_rate": 16000}),
        ({"sample_rate": 48000.0}, {"sample_rate": 48000}),  # Jigasi
        ({"sample_rate": "8000"}, {"sample_rate": 8000}),
        ({"words": 0}, {"words": False}),
        ({"words": True, "max_alternatives": "3"}, {"words": True, "max_alternatives": 3}),
        ({"phrase_list": ["one two", "[unk]"]}, {"phrase_list": ("one two", "[unk]")}),
        ({"phrase_list": None}, {"phrase_list": ()}),
        ({"phrase_list": []}, {"phrase_list": ()}),
        ({"unknown": 1, "num_channels": 2}, {}),
        ({"model": "german"}, {"model": "german"}),
    ],
)
def test_a_configuration_is_read_as_leniently_as_by_vosk_server(config, changes):
    assert read(json.dumps({"config": config}), {"german"}) == Configure(changes)


def test_whatever_stands_beside_a_configuration_is_not_looked_at():
    assert read('{"config": {"words": false}, "eof": 1}') == Configure({"words": False})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"sample_rate": "fast"}, "sample_rate is 'fast'; expected a whole number from 4000 to 192000"),
        ({"sample_rate": 16000.5}, "sample_rate is 16000.5"),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"sample_rate": 10**400}, "sample_rate is 1000"),
        ({"sample_rate": None}, "sample_rate is None"),
        ({"max_alternatives": -1}, "max_alternatives is -1; expected a whole number from 0 to 100"),
        ({"max_alternatives": 101}, "max_alternatives is 101"),
        ({"max_alternatives": [1]}, "max_alternatives is a list"),
        ({"phrase_list": "one two"}, "phrase_list is 'one two'; expected a list of strings"),
        ({"phrase_list": [1]}, "phrase_list is a list"),
        ({"model": "/etc"}, "model is '/etc', which clients may not choose"),
        ({"model": ["german"]}, "model is a list; expected a name"),
        ([], "config is a list; expected an object"),
        (None, "config is None"),
    ],
)
def test_a_configuration_with_a_wrong_value_closes_with_1008_and_says_what_is_wrong(config, says):
    misuse = read(json.dumps({"config": config}), {"german"})
    assert isinstance(misuse, Misuse)
    assert misuse.close_code == 1008
    assert misuse.failure.message.startswith(says)


@pytest.mark.parametrize("text", ["", "eof", "{", "[]", "1", '{"eof" : 0}', '{"type": "eof"}', "{}", "[" * 100_000])
def test_text_that_means_nothing_closes_with_1007(text):
    misuse = read(text)
    assert isinstance(misuse, Misuse)
    assert misuse.close_code == 1007


@pytest.mark.parametrize("last", ['{"eof":1}', "nonsense"])
def test_nothing_is_read_after_the_end(last):
    dialect = VoskServerDialect()
    dialect.receive(last)
    assert dialect.receive(b"\1\2") is None
    assert dialect.receive('{"eof":1}') is None


@given(st.binary() | st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_frame_raises(frame):
    VoskServerDialect().receive(frame)


VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(["sample_rate", "words", "max_alternatives", "phrase_list", "model"]), VALUES))
def test_every_configuration_is_taken_or_refused(config):
    assert isinstance(read(json.dumps({"config": config})), Configure | Misuse)


CAPTION = Transcript("s", "c", "i", "i-1", "good day", True, "en", 0, 1, 16000, 0.0)


def test_replies_are_spelled_as_vosk_spells_them():
    assert encode_partial("good dæy") == '{\n  "partial" : "good dæy"\n}'
    assert encode_final([CAPTION], words=True) == '{\n  "text" : "good day"\n}'
    assert encode_final([], words=True) == '{\n  "text" : ""\n}'


def test_finals_that_end_within_one_frame_are_one_reply_with_all_their_words():
    first = attrs.evolve(CAPTION, words=(Word("good", 0.5, 0.754321, 0.9), Word("day", 0.75, 1.0, 1.0)))
    second = attrs.evolve(CAPTION, text="bye", words=(Word("bye", 3.0, 4.0, 0.25),))
    reply = json.loads(encode_final([first, second], words=True))
    assert reply == {
        "result": [
            {"conf": 0.9, "end": 0.75, "start": 0.5, "word": "good"},
            {"conf": 1.0, "end": 1.0, "start": 0.75, "word": "day"},
            {"conf": 0.25, "end": 4.0, "start": 3.0, "word": "bye"},
        ],
        "text": "good day bye",
    }
    assert json.loads(encode_final([first, second], words=False)) == {"text": "good day bye"}
