import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.dialects.events import (
    Ack,
    Audio,
    ClientEvent,
    Close,
    Configure,
    Configured,
    End,
    Failure,
    Flush,
    GoAway,
    Misuse,
    Ping,
    Pong,
    Presence,
    Ready,
    Resume,
    StreamRequest,
    Transcript,
    Word,
)
from trio_stt.dialects.native import NativeDialect, encode

REQUEST = StreamRequest("anna", "call-1")


def receive(text: str) -> ClientEvent:
    (event,) = NativeDialect(REQUEST).receive(text)
    return event


def misuse(text: str) -> Misuse:
    event = receive(text)
    assert isinstance(event, Misuse)
    return event


# ── client → server ──────────────────────────────────────────────────────────────────────────────────────────────


def test_each_message_is_its_event():
    assert receive('{"type":"finalize"}') == Flush()
    assert receive('{"type":"finalize","id":"x1"}') == Flush("x1")
    assert receive('{"type":"ping","id":7}') == Ping(7)
    assert receive('{"type":"ping","id":null}') == Ping()
    assert receive('{"type":"eof"}') == End()
    assert receive('{"type":"configure","language":"de","target":"fr"}') == Configure(
        {"language": "de", "target": ("fr",)}
    )


def test_fields_that_nobody_knows_are_ignored():
    assert receive('{"type":"ping","colour":"red","id":"a"}') == Ping("a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "hello",
        "null",
        "[]",
        '["type"]',
        "7",
        '"ping"',
        "{}",
        '{"id":"a"}',
        '{"type":null}',
        '{"type":5}',
        '{"type":["ping"]}',
        '{"type":"ping"',
        '{"type":"ping"}{"type":"ping"}',
        "{'type':'ping'}",
        '{"type":"ping","id":NaN}',
        '{"type":"ping","id":-Infinity}',
        '{"type":"ping","type":"eof"}',
        '{"type":"ping","id":{"a":1,"a":2}}',
        '{"type":"ping","id":' + "9" * 5000 + "}",
        "\ufeff" + '{"type":"ping"}',
        '{"type":"ping","id":"\0"}',
        "[" * 100_000,
        '{"a":' * 20_000 + "1" + "}" * 20_000,
    ],
)
def test_what_is_no_json_object_with_a_type_closes_1007(text: str):
    assert misuse(text).close_code == 1007


def test_an_unknown_type_is_told_and_the_stream_goes_on():
    native = NativeDialect(REQUEST)
    (event,) = native.receive('{"type":"dance"}')
    assert isinstance(event, Misuse)
    assert (event.failure.code, event.close_code) == ("unknown_type", None)
    assert native.receive(b"ab") == [Audio(b"ab", 0, 1)]


@pytest.mark.parametrize("kind", ["ping", "finalize"])
@pytest.mark.parametrize(
    "wrong", ["true", "1.5", "[]", "{}", str(2**53), str(-(2**53)), "9" * 4000, '"' + "a" * 129 + '"', '"\\ud800"']
)
def test_an_id_that_cannot_be_echoed_is_a_bad_value(kind: str, wrong: str):
    event = misuse(f'{{"type":"{kind}","id":{wrong}}}')
    assert (event.failure.code, event.failure.extra, event.close_code) == ("bad_value", {"parameter": "id"}, None)
    encode(event.failure, timestamp=0).encode()


@pytest.mark.parametrize("given", ["", "a" * 128, "\0", "é😀", 0, -5, 2**53 - 1])
def test_an_id_comes_back_as_it_was(given: str | int):
    event = receive(json.dumps({"type": "ping", "id": given}))
    assert event == Ping(given)
    assert json.loads(encode(Pong(given), timestamp=0))["id"] == given


def test_a_wrong_change_names_its_parameter_and_the_stream_goes_on():
    event = misuse('{"type":"configure","partials":"no"}')
    assert (event.failure.code, event.failure.extra, event.close_code) == ("bad_value", {"parameter": "partials"}, None)


@pytest.mark.parametrize("wanted", [True, False])
def test_translation_can_be_turned_on_and_off(wanted):
    assert receive(json.dumps({"type": "configure", "translation": wanted})) == Configure({"translation": wanted})


RESUME = '{"type":"resume","token":"t","from_sample":16000,"accepted":8000}'


def test_resume_is_the_first_message_of_a_connection_that_asked_for_it():
    native = NativeDialect(StreamRequest("anna", "call", framing="seq", resume=True))
    assert native.receive(RESUME) == [Resume("t", 16000, 8000)]
    native.go_on_at(24000)
    assert native.receive(b"SEQ1" + (16000).to_bytes(8, "little") + bytes(2 * 8001)) == [Audio(bytes(2), 24000, 1)]
    (event,) = native.receive(RESUME)
    assert event.close_code == 1008


@pytest.mark.parametrize(
    "first", ["{}", '{"type":"ping"}', '{"type":"configure","partials":1}', b"", '{"type":"resume"}']
)
def test_anything_else_in_its_place_closes(first: bytes | str):
    native = NativeDialect(StreamRequest("anna", "call", framing="seq", resume=True))
    (event,) = native.receive(first)
    assert event.close_code in (1007, 1008)
    assert native.receive(RESUME) == []


def test_resume_is_refused_on_any_other_connection():
    assert misuse(RESUME).close_code == 1008
    native = NativeDialect(REQUEST)
    native.receive(b"ab")
    (event,) = native.receive('{"type":"resume"}')
    assert isinstance(event, Misuse)
    assert event.close_code == 1008


def test_nothing_is_read_after_eof():
    native = NativeDialect(REQUEST)
    assert native.receive('{"type":"eof"}') == [End()]
    assert native.receive(b"abcd") == []
    assert native.receive("no JSON") == []
    assert native.received_samples == 0


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_MESSAGE = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(["finalize", "eof", "configure", "ping", "resume", "dance"]) | ANY_JSON,
    st.dictionaries(
        st.sampled_from(["id", "language", "target", "partials", "translation", "speak", "token"]) | st.text(), ANY_JSON
    ),
)


@given(ANY_MESSAGE)
def test_any_message_is_answered_with_what_can_be_sent(message: dict[str, object]):
    for event in NativeDialect(REQUEST).receive(json.dumps(message)):
        if isinstance(event, Misuse):
            encode(event.failure, timestamp=0).encode()
        elif isinstance(event, Flush | Ping):
            encode(Pong(event.id), timestamp=0).encode()


# ── server → client ──────────────────────────────────────────────────────────────────────────────────────────────

FINAL = Transcript(
    session_id="call-1",
    client_id="anna",
    stream_id="s1",
    segment_id="s1-3",
    text="grüß gott",
    is_final=True,
    language="de",
    start_sample=12_000,
    end_sample=30_000,
    sample_rate=8000,
    timestamp=1_700_000_000.12345,
    words=(Word("grüß", 1.5, 2.0, 0.987654), Word("gott", 2.0, 3.75, 1.0)),
    chunk_id=0,
    lag_ms=730,
    history=True,
)


def test_a_final_has_its_place_in_samples_and_in_seconds():
    assert json.loads(encode(FINAL, timestamp=5, words=True)) == {
        "type": "transcripts",
        "timestamp": 1_700_000_000.123,
        "session_id": "call-1",
        "client_id": "anna",
        "stream_id": "s1",
        "segment_id": "s1-3",
        "text": "grüß gott",
        "is_final": True,
        "language": "de",
        "start": 1.5,
        "end": 3.75,
        "start_sample": 12_000,
        "end_sample": 30_000,
        "words": [
            {"word": "grüß", "start": 1.5, "end": 2.0, "conf": 0.9877},
            {"word": "gott", "start": 2.0, "end": 3.75, "conf": 1.0},
        ],
        "chunk_id": 0,
        "lag_ms": 730,
        "history": True,
    }


def test_words_go_only_to_who_asked_for_them():
    assert "words" not in json.loads(encode(FINAL, timestamp=5))


def test_what_does_not_apply_is_left_out():
    partial = Transcript("call-1", "anna", "s1", "s1-4", "", False, "de", 0, 0, 16000, 1.0)
    fields = json.loads(encode(partial, timestamp=5, words=True)).keys()
    assert not fields & {"words", "chunk_id", "lag_ms", "history"}
    assert json.loads(encode(Ack(5), timestamp=1)) == {"type": "ack", "timestamp": 1, "sample": 5}
    assert json.loads(encode(Pong(), timestamp=1)) == {"type": "pong", "timestamp": 1}


def test_messages_are_compact_and_in_plain_utf_8():
    text = encode(FINAL, timestamp=5)
    assert "grüß gott" in text
    assert ", " not in text
    assert "\n" not in text


READY = Ready("call-1", "anna", "s1", "de", 8000, "mulaw", 1, 0, None, 500, 0, 5000, "one")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            READY,
            {
                "type": "ready",
                "session_id": "call-1",
                "client_id": "anna",
                "stream_id": "s1",
                "language": "de",
                "sample_rate": 8000,
                "encoding": "mulaw",
                "epoch": 1,
                "from_sample": 0,
                "resume_token": None,
                "heartbeat_ms": 500,
                "resume_window_ms": 0,
                "max_ahead_ms": 5000,
                "instance": "one",
            },
        ),
        (Ack(9, from_finalize=True, id="f"), {"type": "ack", "sample": 9, "from_finalize": True, "id": "f"}),
        (Configured({"language": "de", "target": ("fr",)}), {"type": "configured", "language": "de", "target": ["fr"]}),
        (Pong(3), {"type": "pong", "id": 3}),
        (Presence("joined", "otto"), {"type": "presence", "event": "joined", "client_id": "otto"}),
        (GoAway(9000, "restarting"), {"type": "goaway", "deadline_ms": 9000, "reason": "restarting"}),
        (Failure("gap", "lost", {"expected": 7}), {"type": "error", "code": "gap", "message": "lost", "expected": 7}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_event_is_its_message(event: object, expected: dict[str, object]):
    message = json.loads(encode(event, timestamp=12.3456))
    assert message.pop("timestamp") == 12.346
    assert message == expected


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_close_reason_fits_its_frame_and_ends_between_characters(reason: str):
    fitted = Close(1000, reason).reason
    assert len(fitted.encode()) <= 123
    assert reason.startswith(fitted)
    assert fitted == reason or len((fitted + reason[len(fitted)]).encode()) > 123
