import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.dialects.events import Audio, ClientEvent, Misuse, Ping, StreamRequest
from trio_stt.dialects.native import NativeDialect

TOO_MUCH = 2**53


def dialect(**asked: object) -> NativeDialect:
    return NativeDialect(StreamRequest("anna", "call-1", **asked))


def chid(number: int, payload: bytes = b"") -> bytes:
    return b"CHID" + number.to_bytes(8, "little") + payload


def seq1(position: int, payload: bytes = b"") -> bytes:
    return b"SEQ1" + position.to_bytes(8, "little") + payload


def only(events: list[ClientEvent]) -> ClientEvent:
    (event,) = events
    return event


def assert_closes(events: list[ClientEvent], close_code: int, code: str) -> Misuse:
    misuse = only(events)
    assert isinstance(misuse, Misuse)
    assert (misuse.close_code, misuse.failure.code) == (close_code, code)
    return misuse


def test_raw_frames_are_samples_one_after_the_other_whatever_they_spell():
    raw = dialect(framing="raw")
    assert raw.receive(b"CHID" + bytes(8)) == [Audio(b"CHID" + bytes(8), 0, 6)]
    assert raw.receive(b"\1\2") == [Audio(b"\1\2", 6, 1)]
    assert raw.received_samples == 7


def test_a_chunk_header_is_taken_off_and_its_id_kept():
    assert dialect().receive(chid(41, b"abcd")) == [Audio(b"abcd", 0, 2, chunk_id=41)]
    assert dialect().receive(chid(TOO_MUCH - 1)) == [Audio(b"", 0, 0, chunk_id=TOO_MUCH - 1)]


def test_what_is_too_short_for_a_chunk_header_is_samples():
    assert dialect().receive(b"CHID" + bytes(6)) == [Audio(b"CHID" + bytes(6), 0, 5)]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_one_byte_is_one_sample_in_telephone_encodings(encoding: str):
    assert dialect(encoding=encoding).receive(b"abc") == [Audio(b"abc", 0, 3)]


@pytest.mark.parametrize("framing", ["raw", "auto", "seq"])
def test_an_empty_frame_is_empty_audio(framing: str):
    assert dialect(framing=framing).receive(b"") == [Audio(b"", 0, 0)]


@pytest.mark.parametrize(
    ("framing", "frame"), [("raw", b"abc"), ("auto", b"abc"), ("auto", chid(1, b"abc")), ("seq", seq1(0, b"abc"))]
)
def test_half_a_sample_is_a_bad_frame(framing: str, frame: bytes):
    assert_closes(dialect(framing=framing).receive(frame), 1003, "bad_frame")


@pytest.mark.parametrize("frame", [b"S", b"SEQ1", seq1(0)[:11], b"ABCD" + bytes(8), chid(0, b"ab"), b"\0" * 3200])
def test_a_numbered_stream_takes_no_frame_without_a_whole_header(frame: bytes):
    assert_closes(dialect(framing="seq").receive(frame), 1003, "bad_frame")


@pytest.mark.parametrize("number", [TOO_MUCH, 2**64 - 1])
def test_numbers_that_json_readers_would_round_are_refused(number: int):
    assert_closes(dialect().receive(chid(number, b"ab")), 1003, "bad_frame")
    assert_closes(dialect(framing="seq").receive(seq1(number, b"ab")), 1003, "bad_frame")


def test_a_listener_may_not_send_binary_frames():
    assert_closes(dialect(speak=False).receive(b"ab"), 1003, "bad_frame")
    assert_closes(dialect(speak=False).receive(b""), 1003, "bad_frame")
    assert dialect(speak=False).receive('{"type":"ping"}') == [Ping()]


def test_a_gap_says_which_sample_was_expected():
    numbered = dialect(framing="seq")
    numbered.receive(seq1(0, b"abcd"))
    misuse = assert_closes(numbered.receive(seq1(3, b"ef")), 1008, "gap")
    assert misuse.failure.extra == {"expected": 2}


def test_an_empty_frame_ahead_of_its_time_is_a_gap_too():
    assert_closes(dialect(framing="seq").receive(seq1(1)), 1008, "gap")


def test_samples_that_came_before_are_dropped():
    numbered = dialect(framing="seq")
    numbered.receive(seq1(0, b"abcdef"))
    assert numbered.receive(seq1(0, b"abcdef")) == []
    assert numbered.receive(seq1(1)) == []
    assert numbered.receive(seq1(2, b"efgh")) == [Audio(b"gh", 3, 1)]
    assert numbered.receive(seq1(4)) == [Audio(b"", 4, 0)]


@given(st.data(), st.sampled_from([("pcm_s16le", 2), ("mulaw", 1)]))
def test_any_split_with_repetitions_and_overlaps_gives_the_samples_once_and_in_order(
    data: st.DataObject, encoding: tuple[str, int]
):
    name, width = encoding
    sound = data.draw(st.binary(max_size=60).map(lambda drawn: drawn[: len(drawn) // width * width]))
    total = len(sound) // width
    numbered, heard = dialect(framing="seq", encoding=name), bytearray()
    while numbered.received_samples < total:
        start = data.draw(st.integers(0, numbered.received_samples))
        end = data.draw(st.integers(start, total))
        for event in numbered.receive(seq1(start, sound[start * width : end * width])):
            assert isinstance(event, Audio)
            assert event.position * width == len(heard)
            assert event.count * width == len(event.payload)
            heard += event.payload
    assert bytes(heard) == sound


def test_nothing_is_read_after_a_misuse_that_closes():
    broken = dialect()
    broken.receive(b"abc")
    assert broken.receive(b"ab") == []
    assert broken.receive('{"type":"ping"}') == []
    assert broken.received_samples == 0


ANY_REQUEST = st.builds(
    StreamRequest,
    client_id=st.just("anna"),
    session_id=st.just("call-1"),
    speak=st.booleans(),
    framing=st.sampled_from(["raw", "auto", "seq"]),
    encoding=st.sampled_from(["pcm_s16le", "mulaw", "alaw"]),
)
ANY_FRAME = (
    st.binary()
    | st.text()
    | st.text(alphabet='{}[]":,\\ud8019eE-+.typefinalizeco\0 ')
    | st.builds(chid, st.integers(0, 2**64 - 1), st.binary(max_size=6))
    | st.builds(seq1, st.integers(0, 9) | st.integers(0, 2**64 - 1), st.binary(max_size=6))
)


@given(ANY_REQUEST, st.lists(ANY_FRAME))
def test_no_frame_raises(request: StreamRequest, frames: list[bytes | str]):
    native = NativeDialect(request)
    for frame in frames:
        before = native.received_samples
        for event in native.receive(frame):
            if isinstance(event, Audio):
                assert (event.position, event.position + event.count) == (before, native.received_samples)
