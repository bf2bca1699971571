import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, BytesMessage, Ping, RejectConnection, Request, TextMessage

from trio_stt.bench.generator.websocket_bytes import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Answer,
    masked_frame,
    read_answer,
    split_frames,
    upgrade_request,
)

SIZES = [0, 1, 125, 126, 3200, 65535, 65536]


def open_server() -> tuple[WSConnection, bytes]:
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(upgrade_request("127.0.0.1", 8000, "/ws/vosk/?client_id=a"))
    (request,) = server.events()
    assert isinstance(request, Request)
    assert request.target == "/ws/vosk/?client_id=a"
    assert request.host == "127.0.0.1:8000"
    return server, server.send(AcceptConnection())


@pytest.mark.parametrize("size", SIZES)
def test_a_server_reads_a_masked_frame_as_the_message_it_was_made_of(size):
    server, _ = open_server()
    payload = bytes(number % 251 for number in range(size))
    server.receive_data(masked_frame(BINARY, payload))
    assert b"".join(event.data for event in server.events()) == payload


def test_every_frame_has_a_mask_of_its_own():
    assert masked_frame(TEXT, b"the same") != masked_frame(TEXT, b"the same")


def test_an_answer_is_read_once_its_head_is_whole_and_what_follows_is_kept():
    server, accepted = open_server()
    first = server.send(TextMessage("hello"))
    assert read_answer(accepted[:-1]) is None
    answer, rest = read_answer(accepted + first)
    assert answer == Answer(101, None)
    assert rest == first


def test_a_refusal_says_when_to_come_back():
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(upgrade_request("a", 1, "/"))
    list(server.events())
    refusal = server.send(RejectConnection(status_code=503, headers=[(b"retry-after", b"7")]))
    assert read_answer(refusal)[0] == Answer(503, 7.0)


def test_what_is_no_http_is_an_error():
    with pytest.raises(ValueError, match="not the first line of an HTTP answer"):
        read_answer(b"SSH-2.0-server\r\n\r\n")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [7, 1000, 100_000])
def test_messages_come_out_whole_however_their_bytes_come_in(size, piece):
    server, _ = open_server()
    text = "ä" * (size // 2) + "x" * (size % 2)
    sent = server.send(TextMessage(text)) + server.send(Ping(b"?")) + server.send(BytesMessage(b"end"))
    found, rest = [], b""
    for at in range(0, len(sent), piece):
        frames, rest = split_frames(rest + sent[at : at + piece])
        found += frames
    assert found == [(TEXT, text.encode()), (PING, b"?"), (BINARY, b"end")]
    assert rest == b""


def test_a_message_in_parts_is_put_together():
    server = Connection(ConnectionType.SERVER)
    parts = [server.send(TextMessage(part, message_finished=part == "c")) for part in "abc"]
    frames, rest = split_frames(parts[0] + parts[1])
    assert frames == []
    frames, rest = split_frames(rest + parts[2] + b"\x88\x00")
    assert frames == [(TEXT, b"abc"), (CLOSE, b"")]
    assert rest == b""
