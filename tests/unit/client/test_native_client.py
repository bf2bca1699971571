from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.client.native_client import NativeClient, WireError, stream_url
from trio_stt.dialects.events import (
    Ack,
    Audio,
    Configure,
    Configured,
    End,
    Failure,
    Flush,
    GoAway,
    Ping,
    Pong,
    Presence,
    Ready,
    ServerEvent,
    StreamRequest,
    Transcript,
    Word,
)
from trio_stt.dialects.native import MAX_FRAME_BYTES, NativeDialect, encode
from trio_stt.dialects.request import Limits, parse_request

NO_LIMITS = Limits(1e9, 1e9)
LANGUAGES = st.sampled_from(["en", "de", "pt-BR"])
REQUESTS = st.builds(
    StreamRequest,
    client_id=st.from_regex(r"[A-Za-z0-9._:@-]{1,128}", fullmatch=True),
    session_id=st.just("call-1"),
    transcript=st.booleans(),
    language=LANGUAGES,
    read_language=LANGUAGES,
    target=st.lists(LANGUAGES, unique=True).map(tuple),
    encoding=st.sampled_from(["pcm_s16le", "mulaw", "alaw"]),
    sample_rate=st.integers(8000, 48000),
    framing=st.sampled_from(["raw", "auto", "seq"]),
    partials=st.booleans(),
    words=st.booleans(),
    history=st.integers(0, 200),
    presence=st.booleans(),
    max_duration_s=st.sampled_from([0.5, 60.0]),
    idle_timeout_s=st.sampled_from([5.25, 60.0]),
)


@given(REQUESTS)
def test_the_server_reads_from_the_url_what_the_client_asked_for(request: StreamRequest):
    query = urlsplit(stream_url("ws://127.0.0.1:8000", request)).query
    assert parse_request(parse_qsl(query), NO_LIMITS) == request


def test_the_language_of_captions_is_the_spoken_one_unless_another_was_asked_for():
    assert "read_language" not in stream_url("ws://h", StreamRequest("a", "b", language="de"))
    assert "read_language=en" in stream_url("ws://h", StreamRequest("a", "b", language="de", read_language="en"))


def test_a_server_may_live_below_a_path():
    assert stream_url("wss://example.org/captions/", StreamRequest("a", "b")) == (
        "wss://example.org/captions/ws/vosk/?client_id=a&session_id=b&language=en"
    )


@pytest.mark.parametrize("server", ["", "localhost:8000", "http://localhost:8000", "ws://", "ws://h?x=1", "ws://h#top"])
def test_an_address_that_is_none_is_told_with_what_was_expected(server: str):
    with pytest.raises(ValueError, match="expected ws://HOST:PORT"):
        stream_url(server, StreamRequest("a", "b"))


SOUNDS = st.lists(st.sampled_from([b"CHID", b"SEQ1", b"\0\0", b"abcdefghijkl"]), max_size=8).map(b"".join)


@given(st.sampled_from(["raw", "auto", "seq"]), st.sampled_from(["pcm_s16le", "mulaw"]), st.lists(SOUNDS))
def test_the_server_hears_exactly_the_samples_that_were_sent(framing: str, encoding: str, sounds: list[bytes]):
    request = StreamRequest("a", "b", framing=framing, encoding=encoding)
    client, server = NativeClient(request), NativeDialect(request)
    heard = [event for sound in sounds for frame in client.audio(sound) for event in server.receive(frame)]
    assert all(isinstance(event, Audio) and event.chunk_id is None for event in heard)
    assert b"".join(event.payload for event in heard) == b"".join(sounds)
    assert client.sent_samples == server.received_samples


@pytest.mark.parametrize(("framing", "chunk_id"), [("raw", None), ("auto", None), ("auto", 5), ("seq", None)])
def test_more_sound_than_a_frame_holds_goes_in_several(framing: str, chunk_id: int | None):
    request = StreamRequest("a", "b", framing=framing)
    client, server = NativeClient(request), NativeDialect(request)
    frames = list(client.audio(bytes(3 * MAX_FRAME_BYTES), chunk_id))
    assert len(frames) > 3
    assert max(map(len, frames)) <= MAX_FRAME_BYTES
    heard = [event for frame in frames for event in server.receive(frame)]
    assert {event.chunk_id for event in heard} == {chunk_id}
    assert server.received_samples == 3 * MAX_FRAME_BYTES // 2


def test_sound_that_cannot_be_sent_is_told_before_anything_is_sent():
    with pytest.raises(ValueError, match="whole samples"):
        NativeClient(StreamRequest("a", "b")).audio(b"abc")
    with pytest.raises(ValueError, match="framing=auto"):
        NativeClient(StreamRequest("a", "b", framing="seq")).audio(b"ab", chunk_id=1)
    with pytest.raises(ValueError, match="2\\^53"):
        NativeClient(StreamRequest("a", "b")).audio(b"ab", chunk_id=2**53)


def test_the_server_understands_every_message_of_the_client():
    client = NativeClient(StreamRequest("a", "b"))
    server = NativeDialect(StreamRequest("a", "b"))
    sent = [client.finalize(), client.finalize("x"), client.ping(3), client.configure(partials=False), client.end()]
    assert [event for text in sent for event in server.receive(text)] == [
        Flush(),
        Flush("x"),
        Ping(3),
        Configure({"partials": False}),
        End(),
    ]


EVENTS: list[ServerEvent] = [
    Ready("call-1", "anna", "s1", "de", 8000, "mulaw", 1, 0, None, 500, 0, 5000, "one"),
    Transcript("call-1", "anna", "s1", "s1-1", "", False, "de", 0, 0, 8000, 5.0),
    Transcript(
        "call-1",
        "otto",
        "s2",
        "s2-1",
        "ja",
        True,
        "de",
        1,
        44_101,
        44_100,
        5.0,
        (Word("ja", 0.1, 1.0, 0.5),),
        3,
        501,
        True,
    ),
    Ack(5),
    Ack(5, True, "x"),
    Configured({"language": "de", "target": ["fr"]}),
    Pong(),
    Pong(7),
    Presence("left", "otto"),
    GoAway(9000, "restarting"),
    Failure("gap", "lost", {"expected": 7}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_the_client_reads_every_event_back(event: ServerEvent):
    client = NativeClient(StreamRequest("anna", "call-1", sample_rate=8000))
    assert client.receive(encode(event, timestamp=5.0, words=True)) == event


def test_messages_and_fields_of_a_newer_server_are_ignored():
    client = NativeClient(StreamRequest("anna", "call-1"))
    assert client.receive('{"type":"weather","timestamp":1,"sky":"blue"}') is None
    assert client.receive('{"type":"ack","timestamp":1,"sample":3,"mood":"good"}') == Ack(3)


@pytest.mark.parametrize(
    "message",
    [
        b"binary",
        "",
        "[]",
        "{}",
        '{"type":[]}',
        '{"type":"ack"}',
        '{"type":"ready"}',
        '{"type":"transcripts","words":7}',
    ],
)
def test_what_no_server_may_send_is_one_kind_of_error(message: str | bytes):
    with pytest.raises(WireError, match="the server sent"):
        NativeClient(StreamRequest("anna", "call-1")).receive(message)
