"""What may stand in a request for a room."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_stt.dialects.request import Refusal
from trio_stt.rooms.wanted import MOST_BODY_BYTES, WantedRoom, read_cancelled, read_wanted

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "room_name": st.text() | JSON,
        "languages": st.lists(st.sampled_from(["de", "pt-BR", "DE", "", "x-y", "e"])) | JSON,
        "speak": JSON,
        "more": JSON,
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(FIELDS.map(json.dumps).map(str.encode) | JSON.map(json.dumps).map(str.encode) | st.binary())
def test_whatever_comes_is_a_room_or_refused_with_400(body):
    read = read_wanted(body)
    if isinstance(read, Refusal):
        assert read.status == 400
        assert read.message
    else:
        assert json.loads(body).keys() <= {"room_name", "languages", "speak"}
        assert read_wanted(read.as_json().encode()) == read


GOOD = {"room_name": "r", "languages": ["pt-BR", "de"], "speak": True}
WRONG = {
    "no room": ({"room_name": None}, "missing_parameter", "room_name"),
    "an empty room": ({"room_name": ""}, "bad_value", "room_name"),
    "a long room": ({"room_name": "r" * 257}, "bad_value", "room_name"),
    "a room with a line's end": ({"room_name": "a\nb"}, "bad_value", "room_name"),
    "half a character": ({"room_name": "\ud800"}, "bad_value", "room_name"),
    "a room that is a number": ({"room_name": 1}, "bad_value", "room_name"),
    "languages a text": ({"languages": "de"}, "bad_value", "languages"),
    "a language that is none": ({"languages": ["de", "deutsch!"]}, "bad_value", "languages"),
    "a language twice": ({"languages": ["de", "DE"]}, "bad_value", "languages"),
    "fifty-one languages": ({"languages": [f"de-{number:03}" for number in range(51)]}, "bad_value", "languages"),
    "speak a text": ({"speak": "true"}, "bad_value", "speak"),
    "speak a number": ({"speak": 1}, "bad_value", "speak"),
    "an address": ({"url": "wss://elsewhere.example"}, "unknown_parameter", "url"),
    "a token": ({"token": "t"}, "unknown_parameter", "token"),
}


@pytest.mark.parametrize(("changes", "code", "parameter"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named(changes, code, parameter):
    body = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    for read in (read_wanted, read_cancelled):
        refused = read(json.dumps(body).encode())
        assert isinstance(refused, Refusal)
        assert (refused.status, refused.code, refused.parameter) == (400, code, parameter)


def test_what_is_good_is_taken():
    assert read_wanted(json.dumps(GOOD).encode()) == WantedRoom("r", ("de", "pt-BR"), True)
    assert read_wanted(b'{"room_name": "\xe6\x97\xa5\xe6\x9c\xac"}') == WantedRoom("日本")
    assert read_cancelled(json.dumps(GOOD).encode()) == "r"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"[]", "bad_json"),
        (b'"r"', "bad_json"),
        (b"{", "bad_json"),
        (b"\xff", "bad_json"),
        (b'{"room_name": "r"} {}', "bad_json"),
        (b"[" * 5000, "bad_json"),
        (b'{"room_name": "r", "room_name": "s"}', "duplicate_parameter"),
        (b'{"room_name": "r"}' + b" " * MOST_BODY_BYTES, "body_too_large"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body, code):
    refused = read_wanted(body)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (400, code)
