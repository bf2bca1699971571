"""Clients of vosk-server at a real server, with a fake engine: whatever they do, each frame has its one reply."""

import json
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.server.test_misuse import close_of, masked, nothing_left
from tests.unit.fakes import FakeEngine, silence, sound
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError, connect

LOUD = sound(0.2, 8000).tobytes()
SILENT = silence(0.2, 8000).tobytes()
EOF = '{"eof" : 1}'
RESET = '{"reset" : 1}'


def breaker_of(server):
    """The breaker of the model that clients get who name none."""
    return server.instance.breakers["en"]


@asynccontextmanager
async def client(server, path="/vosk-server"):
    """A bare WebSocket of a client of vosk-server."""
    socket = await connect(f"{server.ws}{path}", timeout_s=5)
    try:
        yield socket
    finally:
        await socket.aclose()


async def ask(socket, *frames):
    """Sends frame after frame, waiting for the reply to each, as the Python sample does."""
    replies = []
    with trio.fail_after(5):
        for frame in frames:
            await socket.send(frame)
            replies.append(json.loads(await socket.receive()))
    return replies


async def closed(socket):
    """How the server closes the connection; it sends nothing before."""
    with trio.fail_after(5), pytest.raises(StreamClosedError) as raised:
        await socket.receive()
    return raised.value.close


async def test_a_client_that_waits_has_one_reply_for_each_frame_and_a_normal_close(server):
    async with client(server) as socket:
        await socket.send('{ "config" : { "sample_rate" : 8000 } }')
        assert await ask(socket, LOUD, LOUD, SILENT, LOUD, EOF) == [
            {"partial": "w1"},
            {"partial": "w1 w2"},
            {"text": "w1 w2"},
            {"partial": "w4"},
            {"text": "w4"},
        ]
        assert (await closed(socket)).code == 1000
    await nothing_left(server)


async def test_a_client_that_sends_all_at_once_has_its_replies_in_order(server):
    async with client(server) as socket, trio.open_nursery() as nursery:

        async def send():
            for _ in range(500):
                await socket.send(LOUD)
            await socket.send(EOF)

        nursery.start_soon(send)
        with trio.fail_after(20):
            for number in range(1, 501):
                assert json.loads(await socket.receive())["partial"].endswith(f"w{number}")
            assert "text" in json.loads(await socket.receive())
        assert (await closed(socket)).code == 1000
    await nothing_left(server)


async def test_reset_ends_the_utterance_and_the_stream_goes_on(server):
    async with client(server) as socket:
        assert await ask(socket, LOUD, RESET, '{"reset":true}', LOUD, '{"eof":1}') == [
            {"partial": "w1"},
            {"text": "w1"},
            {"text": ""},
            {"partial": "w2"},
            {"text": "w2"},
        ]


async def test_eof_as_the_first_message_is_answered(server):
    async with client(server) as socket:
        assert await ask(socket, EOF) == [{"text": ""}]
        assert (await closed(socket)).code == 1000


async def test_the_configuration_reaches_the_recogniser(server):
    config = {
        "sample_rate": 48000.0,
        "words": False,
        "max_alternatives": 2,
        "phrase_list": ["one two"],
    }
    async with client(server) as socket:
        await socket.send(json.dumps({"config": config}))
        await ask(socket, LOUD, EOF)
    (options,) = server.engine.plain
    assert (options.sample_rate, options.words, options.max_alternatives, options.phrases) == (
        48000,
        False,
        2,
        ("one two",),
    )


async def test_what_clients_do_not_say_is_as_the_settings_say():
    changes = {"vosk_sample_rate": 16000, "vosk_show_words": False, "vosk_alternatives": 3}
    async with running_server(**changes) as server, client(server) as socket:
        await ask(socket, LOUD, EOF)
        (options,) = server.engine.plain
        assert (options.sample_rate, options.words, options.max_alternatives) == (16000, False, 3)


async def test_empty_and_odd_frames_have_their_replies(server):
    async with client(server) as socket:
        assert await ask(socket, b"", LOUD + b"\1", b"\1", EOF) == [
            {"partial": ""},
            {"partial": "w2"},
            {"text": "w2"},
            {"text": ""},
        ]


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [
        ("hello", 1007, "a text frame must be a JSON object"),
        ('{"eof" : 0}', 1007, "a text frame must have config, eof or reset"),
        ('{"config": {"sample_rate": "x"}}', 1008, "sample_rate is 'x'; expected a whole number from 4000 to 192000"),
        ('{"config": {"model": "/etc"}}', 1008, "model is '/etc', which clients may not choose"),
    ],
)
async def test_misuse_closes_after_the_final_and_leaves_others_alone(server, frame, code, reason):
    async with client(server) as other, client(server) as socket:
        await ask(other, LOUD)
        assert await ask(socket, LOUD, frame) == [{"partial": "w1"}, {"text": "w1"}]
        close = await closed(socket)
        assert (close.code, close.reason) == (code, reason)
        assert await ask(other, LOUD, EOF) == [{"partial": "w1 w2"}, {"text": "w1 w2"}]
    await nothing_left(server)


async def test_a_frame_of_ten_megabytes_closes_with_1009(server):
    async with client(server) as socket:
        _, code = await close_of(socket, bytes(10_000_000))
    assert code == 1009
    await nothing_left(server)


async def test_a_recogniser_that_fails_closes_its_own_connection_alone(server):
    async with client(server) as other, client(server) as socket:
        await ask(other, LOUD)
        server.engine.failures = 1
        await socket.send(LOUD)
        close = await closed(socket)
        assert (close.code, close.reason) == (1011, "recognition failed")
        assert await ask(other, LOUD) == [{"partial": "w1 w2"}]
    assert breaker_of(server).statistics().failures == 1
    await nothing_left(server)


async def test_an_open_breaker_holds_live_clients_and_refuses_new_ones():
    async with running_server(stt_circuit_breaker_timeout=0.2) as server, client(server) as socket:
        await ask(socket, LOUD)
        breaker_of(server).trip()
        with pytest.raises(StreamRefusedError) as refused:
            await connect(f"{server.ws}/vosk-server", timeout_s=5)
        assert (refused.value.status, refused.value.code) == (503, "recogniser_unavailable")
        assert await ask(socket, LOUD, EOF) == [{"partial": "w1 w2"}, {"text": "w1 w2"}]  # the probe closed it


async def test_who_does_not_fit_is_told_so_by_http_before_the_upgrade():
    async with running_server(max_concurrent_clients=1) as server:
        async with client(server):
            with pytest.raises(StreamRefusedError) as refused:
                await connect(f"{server.ws}/vosk-server", timeout_s=5)
            assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "full", 2)
            with pytest.raises(StreamRefusedError):
                await connect(f"{server.ws}/ws/vosk/?client_id=a&session_id=b", timeout_s=5)
        await nothing_left(server)
        async with server.speaker():
            pass


async def test_a_drain_answers_what_came_with_a_final_and_1012():
    async with running_server() as server, client(server) as socket:
        assert await ask(socket, LOUD) == [{"partial": "w1"}]
        server.stop.set()
        with trio.fail_after(5):
            assert json.loads(await socket.receive()) == {"text": "w1"}
        assert (await closed(socket)).code == 1012


async def test_a_client_that_says_nothing_is_closed_after_the_idle_time():
    async with running_server(max_client_idle_time=1) as server, client(server) as socket:
        await ask(socket, LOUD)
        with trio.fail_after(5):
            assert json.loads(await socket.receive()) == {"text": "w1"}
        close = await closed(socket)
        assert (close.code, close.reason) == (1000, "Idle timeout")


async def plain_upgrade(server):
    """A client that is no more than its TCP connection."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(server.http.rsplit(":", 1)[1]))
    await stream.send_all(
        b"GET /vosk-server HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await stream.receive_some()
    return stream


async def test_clients_that_vanish_while_they_speak_leave_nothing(server):
    for _ in range(20):
        stream = await plain_upgrade(server)
        for _ in range(10):
            await stream.send_all(masked(LOUD))
        await stream.aclose()
    await nothing_left(server)


async def test_a_client_that_never_reads_is_read_no_further_and_closed_while_others_are_served():
    async with running_server(slow_reader_timeout_s=0.5, tcp_user_timeout_s=1) as server, client(server) as other:
        stream = await plain_upgrade(server)
        async with trio.open_nursery() as nursery:

            async def flood():
                with suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(masked(LOUD) * 20)

            nursery.start_soon(flood)
            with trio.fail_after(20):
                while {"code": 4008, "count": 1} not in server.instance.connections.frequent_codes():
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert await ask(other, LOUD, EOF) == [{"partial": "w1"}, {"text": "w1"}]
        await stream.aclose()


async def test_the_gate_as_an_option_answers_every_frame_and_decodes_speech_alone():
    loud, silent = sound(0.2).tobytes(), silence(0.2).tobytes()
    async with running_server(vosk_server_gate=True) as server, client(server) as socket:
        await socket.send('{"config": {"sample_rate": 16000}}')
        replies = await ask(socket, *[silent] * 20, *[loud] * 5, *[silent] * 5, EOF)
        assert len(replies) == 31
        assert replies[:20] == [{"partial": ""}] * 20
        (final,) = [reply for reply in replies[:-1] if "text" in reply]
        assert [word["word"] for word in final["result"]] == final["text"].split()
        assert replies[-1] == {"text": ""}
        assert sum(map(len, server.engine.given)) < 2.5 * 16000
        assert server.engine.plain == []


async def test_with_the_gate_alternatives_and_phrases_are_decoded_as_they_come():
    async with running_server(vosk_server_gate=True) as server, client(server) as socket:
        await socket.send('{"config": {"max_alternatives": 2}}')
        assert await ask(socket, SILENT, EOF) == [{"partial": ""}, {"text": ""}]
        assert len(server.engine.plain) == 1


async def test_only_models_of_the_list_may_be_chosen_and_are_loaded_once(tmp_path):
    changes = {"vosk_server_models": ("german",), "models_dir": tmp_path}
    async with running_server(**changes) as server:
        loaded = []
        server.instance._load_engine = lambda settings: loaded.append(settings.model_path) or FakeEngine()
        for _ in range(2):
            async with client(server) as socket:
                await socket.send('{"config": {"model": "german"}}')
                assert await ask(socket, LOUD, EOF) == [{"partial": "w1"}, {"text": "w1"}]
        assert loaded == [tmp_path / "german"]
        assert server.engine.plain == []


async def test_connections_are_seen_in_statistics_and_metrics(server):
    async with client(server) as socket, httpx.AsyncClient(base_url=server.http) as http:
        await ask(socket, LOUD, LOUD, SILENT)
        (info,) = (await http.get("/ws/stats")).json()["active_clients_info"]
        assert (info["client_id"], info["speak"]) == ("vosk-server", True)
        assert (await http.get("/health")).json()["capacity"]["streams"] == 1
        metrics = (await http.get("/metrics")).text
        for line in (
            "trio_stt_reply_seconds_count 3.0",
            'trio_stt_captions_total{kind="partial"} 2.0',
            'trio_stt_captions_total{kind="final"} 1.0',
            "trio_stt_speakers 1.0",
        ):
            assert line in metrics
        assert "trio_stt_audio_seconds_total 0.6" in metrics
        assert "trio_stt_speech_seconds_total 0.6" in metrics


async def test_native_clients_beside_them_are_captioned_as_ever(server):
    async with client(server) as socket, server.speaker() as stream:
        await ask(socket, LOUD)
        await stream.send_audio(sound(1).tobytes())
        await stream.finalize()
        (final,) = await finals_of(stream, 1)
        assert final.text == "w1 w2"
