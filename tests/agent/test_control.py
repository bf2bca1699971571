"""Who controls the agent, and by which messages; who reads which translations; what names become on the server."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import names
from agent.audience import Audience
from agent.control import (
    CONTROL,
    MAX_MESSAGE_BYTES,
    SPEECH,
    AskStatus,
    ControlError,
    Say,
    Start,
    Stop,
    may_control,
    read_message,
)


@pytest.mark.parametrize(
    ("identity", "attributes", "can_update", "permitted"),
    [
        ("ann", {}, False, False),
        ("host", {}, False, True),
        ("host", {}, True, True),
        ("ann", {"agent_control": "true"}, False, True),
        ("ann", {"agent_control": "true"}, True, False),
        ("ann", {"agent_control": "True"}, False, False),
        ("Host", {}, False, False),
    ],
)
def test_only_what_stands_in_the_token_permits(identity, attributes, can_update, permitted):
    assert may_control(identity, attributes, can_update, ("host",)) is permitted


@pytest.mark.parametrize(
    ("topic", "message", "expected"),
    [
        (CONTROL, {"type": "start"}, Start("")),
        (CONTROL, {"type": "start", "id": "7", "languages": []}, Start("7", ())),
        (CONTROL, {"type": "start", "languages": ["pt-BR", "de", "pt-BR"]}, Start("", ("pt-BR", "de"))),
        (CONTROL, {"type": "start", "speak": True, "more": 1}, Start("", None, True)),
        (CONTROL, {"type": "stop", "id": "é"}, Stop("é")),
        (CONTROL, {"type": "status"}, AskStatus("")),
        (SPEECH, {"text": "Olá", "language": "pt"}, Say("", "Olá", "pt", None)),
        (
            SPEECH,
            {"text": "x" * 2000, "language": "pt", "voice": "dora", "id": "1"},
            Say("1", "x" * 2000, "pt", "dora"),
        ),
    ],
)
def test_messages_mean_what_they_say(topic, message, expected):
    assert read_message(topic, json.dumps(message).encode()) == expected


@pytest.mark.parametrize(
    ("topic", "data"),
    [
        (CONTROL, b""),
        (CONTROL, b"\xff"),
        (CONTROL, b"[]"),
        (CONTROL, b"[" * 10_000),
        (CONTROL, b"{}"),
        (CONTROL, b'{"type": 1}'),
        (CONTROL, b'{"type": "dance"}'),
        (CONTROL, b'{"type": "stop", "id": 1}'),
        (CONTROL, b'{"type": "stop", "id": "' + b"x" * 129 + b'"}'),
        (CONTROL, b'{"type": "start", "languages": "de"}'),
        (CONTROL, b'{"type": "start", "languages": ["de", 1]}'),
        (CONTROL, b'{"type": "start", "languages": ["d"]}'),
        (CONTROL, b'{"type": "start", "speak": 1}'),
        (CONTROL, json.dumps({"type": "start", "languages": ["de"] * 21}).encode()),
        (CONTROL, b'{"type": "stop"' + b" " * MAX_MESSAGE_BYTES + b"}"),
        (SPEECH, b'{"type": "stop"}'),
        (SPEECH, b'{"text": " ", "language": "de"}'),
        (SPEECH, b'{"text": "a", "language": "german language"}'),
        (SPEECH, b'{"text": "a", "language": "de", "voice": ""}'),
        (SPEECH, json.dumps({"text": "x" * 2001, "language": "de"}).encode()),
    ],
)
def test_what_means_nothing_is_told_what_was_expected(topic, data):
    with pytest.raises(ControlError, match=r"^expected "):
        read_message(topic, data)


@given(st.binary(max_size=200))
def test_no_data_does_harm(data):
    try:
        message = read_message(CONTROL, data)
    except ControlError:
        return
    assert isinstance(message, Start | Stop | AskStatus)


def test_everybody_reads_what_the_room_asks_for_and_others_what_they_ask_for():
    audience = Audience(("de",))
    audience.see("ann", {"language": "pt-BR"})
    audience.see("bob", {"language": "en", "captions_language": "PT-br"})
    audience.see("cleo", {"language": "not a language"})
    audience.see("dan", {"language": "de"})
    audience.see("eva", {})
    assert audience.languages == ("de", "pt-BR")
    assert audience.of("de") is None
    assert audience.of("pt-BR") == ["ann", "bob"]
    assert audience.of("fr") == []
    audience.see("bob", {"language": "en", "captions_language": ""})
    audience.forget("ann")
    audience.forget("nobody")
    audience.for_all = ()
    assert audience.languages == ("en", "de")
    assert audience.of("en") == ["bob"]


def test_no_more_languages_are_asked_for_than_a_server_translates_into():
    audience = Audience(("de",))
    for number, pair in enumerate(f"{a}{b}" for a in "qxyz" for b in string.ascii_lowercase):
        audience.see(str(number), {"language": pair})
    assert len(audience.languages) == 50
    assert audience.languages[0] == "de"


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_different_people_are_different_clients_of_few_characters(one, other):
    made = []
    for identity in {one, other}:
        made += [names.speaker_name(identity), names.screen_name(identity), names.other_name(identity, "TR_a1")]
    assert len(set(made)) == len(made)
    assert names.LISTENER not in made
    allowed = set(string.ascii_letters + string.digits + "._:@-")
    assert all(1 <= len(each) <= 128 and set(each) <= allowed for each in made)


def test_plain_names_stay_as_they_are():
    assert names.speaker_name("ann@example.org") == "ann@example.org"
    assert names.call_name("team-meeting") == "team-meeting"
    assert names.call_name("Team meeting/1") == "lk:Team:20meeting:2f1"
    assert names.screen_name("ann") == "ann-screen"
    assert names.speaker_name("ann-screen") != names.screen_name("ann")
