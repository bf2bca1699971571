"""A stream goes on in another connection: here, on another instance, with the bus away; and when it may not."""

import json
from contextlib import asynccontextmanager, suppress

import httpx
import jwt
import numpy as np
import pytest
import trio

from tests.server.conftest import running_server
from tests.server.redis_server import redis_server
from tests.tokens import KEYS
from tests.unit.fakes import HANG, HangingEngine, silence, sound
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError
from trio_stt.dialects.events import StreamRequest
from trio_stt.gateway import websocket
from trio_stt.gateway.admission import BEHIND_HOLD_S
from trio_stt.gateway.connection import RESTARTING
from trio_stt.gateway.resume_tokens import ResumableStream, ResumeTokens, secret_of
from trio_stt.sessions.bus import Call
from trio_stt.sessions.session import READS_TOO_SLOWLY
from trio_stt.settings import Settings

SECRET = "a secret of the fleet, of 32 bytes at least"
RATE = 16000


class Speaker:
    """A client that knows the wire by heart, and no better than a test lets it."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.messages = []

    async def receive(self) -> dict:
        message = json.loads(await self.socket.receive())
        self.messages.append(message)
        return message

    async def until(self, kind: str, **fields) -> dict:
        with trio.fail_after(10):
            while True:
                message = await self.receive()
                if message["type"] == kind and all(message.get(name) == value for name, value in fields.items()):
                    return message

    async def say(self, at: int, samples) -> int:
        """Sends samples at a position; returns the next."""
        for begin in range(0, len(samples), 1600):
            piece = samples[begin : begin + 1600]
            header = b"SEQ1" + (at + begin).to_bytes(8, "little")
            await self.socket.send(header + piece.tobytes())
        return at + len(samples)

    async def resume(self, token: str, from_sample: int, accepted: int = 0) -> dict:
        fields = {"type": "resume", "token": token, "from_sample": from_sample, "accepted": accepted}
        await self.socket.send(json.dumps(fields))
        return await self.until("ready")

    async def close_code(self) -> int:
        with trio.fail_after(10):
            while True:
                try:
                    await self.receive()
                except StreamClosedError as closed:
                    return closed.close.code

    def of(self, kind: str) -> list[dict]:
        return [message for message in self.messages if message["type"] == kind]


@asynccontextmanager
async def speaker(server, query: str = "", client: str = "ann"):
    async with server.raw(f"client_id={client}&session_id=call&framing=seq&partials=false&{query}") as socket:
        yield Speaker(socket)


def resuming(server):
    return speaker(server, "resume=true")


@asynccontextmanager
async def listening(server, nursery):
    """What a listener hears of the call, as it comes."""
    heard = []

    async def listen(stream) -> None:
        with suppress(StreamClosedError):
            while True:
                heard.append(await stream.receive())

    async with speaker(server, "speak=false&presence=true", client="bob") as stream:
        await stream.until("ready")
        nursery.start_soon(listen, stream)
        yield heard


def finals(heard: list[dict]) -> list[tuple[int, int, str]]:
    return [
        (one["start_sample"], one["end_sample"], one["text"])
        for one in heard
        if one["type"] == "transcripts" and one["is_final"] and one["text"]
    ]


async def wait_for(condition, seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
async def server():
    async with running_server(resume_window_s=5, resume_secret=SECRET) as running:
        yield running


@pytest.fixture
def redis():
    with redis_server() as running:
        yield running


def shared(redis, **changes):
    return running_server(redis_url=redis.url, resume_secret=SECRET, resume_window_s=5, **changes)


async def cut(server, client: str = "ann") -> None:
    """The network loses the client's connection: no close frame."""
    (connection,) = [one for one in server.instance.connections if one.request.client_id == client]
    connection._socket._tcp.shutdown(2)
    await trio.sleep(0.05)


async def lose_in_the_middle(server) -> tuple[str, int]:
    """Half a second of speech, then the network is gone: the token, and the last ack."""
    async with speaker(server) as ann:
        ready = await ann.until("ready")
        await ann.say(0, sound(0.5))
        await trio.sleep(0.2)
        await cut(server)
        return ready["resume_token"], 0


async def test_who_sends_positions_can_resume_and_others_cannot(server):
    async with speaker(server) as ann:
        ready = await ann.until("ready")
        assert (ready["epoch"], ready["from_sample"], ready["resume_window_ms"]) == (1, 0, 5000)
        assert ready["resume_token"]
    async with server.raw("client_id=eve&session_id=call") as socket:
        ready = await Speaker(socket).until("ready")
        assert (ready["resume_token"], ready["resume_window_ms"]) == (None, 0)


async def test_an_utterance_that_was_cut_off_becomes_one_final_as_if_nothing_had_happened(server, nursery):
    async with listening(server, nursery) as heard:
        token, acked = await lose_in_the_middle(server)
        async with resuming(server) as ann:
            ready = await ann.resume(token, acked)
            assert (ready["epoch"], ready["from_sample"]) == (2, 0)
            assert (await ann.until("ack"))["sample"] == 0
            at = await ann.say(0, sound(1.0))
            await ann.say(at, silence(1.0))
            final = await ann.until("transcripts", is_final=True)
            assert (final["start_sample"], final["text"]) == (0, "w1 w2")
            await wait_for(lambda: finals(heard))
            assert [text for _, _, text in finals(heard)] == ["w1 w2"]
            assert not [one for one in heard if one["type"] == "presence" and one["event"] == "left"]
    assert len({one["stream_id"] for one in ann.of("ready")} | {final["stream_id"]}) == 1


async def test_a_final_that_was_stored_and_not_acknowledged_is_sent_again_and_its_audio_is_not_asked_for(server):
    async with speaker(server) as ann:
        token = (await ann.until("ready"))["resume_token"]
        at = await ann.say(0, sound(1.0))
        await ann.say(at, silence(1.0))
        stored = await ann.until("transcripts", is_final=True)
        await cut(server)
    async with resuming(server) as ann:
        ready = await ann.resume(token, 0)
        assert ready["from_sample"] == stored["end_sample"]
        again = await ann.receive()
        assert (again["segment_id"], again["follows"], "history" in again) == (stored["segment_id"], 0, False)
        assert await ann.receive() | {"timestamp": 0} == {
            "type": "ack",
            "timestamp": 0,
            "sample": stored["end_sample"],
        }
        at = await ann.say(stored["end_sample"], silence(0.5))
        at = await ann.say(at, sound(1.0))
        await ann.say(at, silence(1.0))
        new = await ann.until("transcripts", is_final=True)
        assert new["start_sample"] >= stored["end_sample"]
        assert new["segment_id"] != stored["segment_id"]
        assert "follows" not in new


async def test_what_the_client_has_taken_is_not_crossed(server):
    """It took a final that is stored nowhere (the bus came back empty): an utterance ends exactly there."""
    async with speaker(server) as ann:
        ready = await ann.until("ready")
        await cut(server)
    async with resuming(server) as ann:
        assert (await ann.resume(ready["resume_token"], 0, accepted=8000))["from_sample"] == 0
        at = await ann.say(0, sound(1.5))
        await ann.say(at, silence(1.0))
        first = await ann.until("transcripts", is_final=True)
        second = await ann.until("transcripts", is_final=True)
        assert (first["end_sample"], second["start_sample"]) == (8000, 8000)
        assert second["end_sample"] >= 24000


async def test_an_utterance_of_a_client_that_never_comes_back_is_captioned_when_the_window_is_over(nursery):
    async with running_server(resume_window_s=1) as server, listening(server, nursery) as heard:
        await lose_in_the_middle(server)
        await trio.sleep(0.5)
        assert finals(heard) == []
        await wait_for(lambda: finals(heard))
        await wait_for(lambda: [one["event"] for one in heard if one["type"] == "presence"] == ["joined", "left"])
    assert [text for _, _, text in finals(heard)] == ["w1"]


async def test_who_was_closed_for_reading_too_slowly_goes_on_in_the_same_utterance(server, nursery):
    async with listening(server, nursery) as heard:
        async with speaker(server) as slow:
            token = (await slow.until("ready"))["resume_token"]
            await slow.say(0, sound(0.5))
            await trio.sleep(0.2)
            (connection,) = [one for one in server.instance.connections if one.request.client_id == "ann"]
            connection.stop(READS_TOO_SLOWLY)
            assert await slow.close_code() == 4008
        async with resuming(server) as ann:
            await ann.resume(token, 0)
            at = await ann.say(0, sound(1.0))
            await ann.say(at, silence(1.0))
            await ann.until("transcripts", is_final=True)
            await wait_for(lambda: finals(heard))
        assert [text for _, _, text in finals(heard)] == ["w1 w2"]


async def test_a_client_that_says_goodbye_is_not_waited_for(server, nursery):
    async with listening(server, nursery) as heard:
        async with speaker(server) as ann:
            await ann.until("ready")
            await ann.say(0, sound(0.5))
            await ann.socket.send('{"type": "eof"}')
            assert await ann.close_code() == 1000
        await wait_for(lambda: finals(heard), 2)


async def test_a_stream_goes_on_on_another_instance(redis, nursery):
    async with shared(redis) as here, shared(redis) as there, listening(there, nursery) as heard:
        async with speaker(here) as ann:
            token = (await ann.until("ready"))["resume_token"]
            at = await ann.say(0, sound(1.0))
            at = await ann.say(at, silence(1.0))
            first = await ann.until("transcripts", is_final=True)
            acked = (await ann.until("ack"))["sample"]
            await ann.say(at, sound(0.5))
            await trio.sleep(0.2)
            await cut(here)
        async with resuming(there) as ann:
            ready = await ann.resume(token, acked, first["end_sample"])
            assert (ready["epoch"], ready["from_sample"], ready["stream_id"]) == (2, acked, first["stream_id"])
            since = np.concatenate((silence(1.0), sound(1.0), silence(1.0)))
            await ann.say(acked, since[acked - (at - RATE) :])
            second = await ann.until("transcripts", is_final=True)
            assert second["text"].startswith("w1 w2")
            await wait_for(lambda: len(finals(heard)) == 2)
        assert [one["segment_id"] for one in heard if one["type"] == "transcripts" and one["text"]] == [
            first["segment_id"],
            second["segment_id"],
        ]
        assert not [one for one in heard if one["type"] == "presence" and one["event"] == "left"]


async def test_while_a_resumed_stream_is_behind_no_instance_lets_new_speakers_in(redis):
    engine = HangingEngine()
    settings = {"resume_secret": SECRET, "resume_window_s": 5, "decode_hang_s": 100}
    try:
        async with (
            shared(redis, instance="here") as here,
            running_server(engine, redis_url=redis.url, instance="there", **settings) as there,
        ):
            async with speaker(here) as ann:
                token = (await ann.until("ready"))["resume_token"]
                await ann.say(0, sound(0.5))
                await cut(here)
            async with resuming(there) as ann:
                await ann.resume(token, 0)
                await ann.say(0, np.full(3 * RATE, HANG, np.int16))
                await wait_for(lambda: here.instance.instances.behind_elsewhere == 1)
                for server in (here, there):
                    with pytest.raises(StreamRefusedError) as refused:
                        async with speaker(server, client="eve"):
                            pass
                    assert (refused.value.status, refused.value.code) == (503, "full")
                    assert server.instance.admission.ready
                async with speaker(here, "speak=false", client="eve") as eve:
                    await eve.until("ready")
                async with httpx.AsyncClient(base_url=here.http) as client:
                    fleet = (await client.get("/health")).json()["details"]["fleet"]
                assert (fleet["behind"], [one["behind"] for one in fleet["instances"]]) == (1, [0, 1])
                engine.release()
                await wait_for(lambda: here.instance.instances.behind_elsewhere == 0)
                await trio.sleep(BEHIND_HOLD_S)
                async with speaker(here, client="eve") as eve:
                    await eve.until("ready")
    finally:
        engine.release()  # a call that has begun is waited for


async def test_a_frozen_connection_that_revives_has_nothing_more_to_say(redis, nursery):
    async with shared(redis) as here, shared(redis) as there, listening(there, nursery) as heard:
        async with speaker(here) as frozen, resuming(there) as ann:
            token = (await frozen.until("ready"))["resume_token"]
            at = await frozen.say(0, sound(0.5))
            await ann.resume(token, 0)
            with suppress(StreamClosedError):  # it may be gone already
                await frozen.say(at, silence(1.0))
            assert await frozen.close_code() == 4001
            at = await ann.say(0, sound(1.0))
            await ann.say(at, silence(1.0))
            await ann.until("transcripts", is_final=True)
            await trio.sleep(0.3)
        assert [text for _, _, text in finals(heard)] == ["w1 w2"]


async def test_with_the_bus_away_a_stream_goes_on_where_its_finals_are(redis, nursery):
    async with shared(redis) as server, listening(server, nursery) as heard:
        async with speaker(server) as ann:
            token = (await ann.until("ready"))["resume_token"]
            await trio.sleep(0.3)
            redis.stop()
            at = await ann.say(0, sound(1.0))
            await ann.say(at, silence(1.0))
            first = await ann.until("transcripts", is_final=True)
            await cut(server)
        async with resuming(server) as ann:
            ready = await ann.resume(token, 0)
            assert ready["from_sample"] == first["end_sample"]
            assert (await ann.receive())["segment_id"] == first["segment_id"]
            redis.start()
            await wait_for(lambda: server.instance.journal.unconfirmed == 0)
            at = await ann.say(first["end_sample"], sound(1.0))
            await ann.say(at, silence(1.0))
            second = await ann.until("transcripts", is_final=True, follows=None)
        async with speaker(server, "speak=false&history=10", client="late") as late:
            stored = [(await late.until("transcripts"))["segment_id"] for _ in range(2)]
        assert stored[0] == first["segment_id"]
        assert [text for _, _, text in finals(heard)].count("w1 w2") == 2
        assert second["segment_id"] not in stored[:1]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ('{"type": "ping"}', "bad_message"),
        (b"SEQ1" + bytes(8), "bad_message"),
        ('{"type": "resume", "token": 7, "from_sample": 0, "accepted": 0}', "bad_value"),
        ('{"type": "resume", "token": "x", "from_sample": -1, "accepted": 0}', "bad_value"),
        ('{"type": "resume", "token": "x", "from_sample": 0, "accepted": true}', "bad_value"),
        ('{"type": "resume", "token": "x", "from_sample": 0, "accepted": 0}', "resume_refused"),
    ],
)
async def test_a_wrong_first_message_is_1008(server, first, code):
    async with resuming(server) as ann:
        await ann.socket.send(first)
        assert await ann.close_code() == 1008
    (error,) = ann.of("error")
    assert error["code"] == code
    assert not ann.of("ready")


async def test_a_token_is_good_for_its_stream_alone_and_for_a_time(server):
    tokens = ResumeTokens(SECRET, life_s=60)
    request = StreamRequest("ann", "call", framing="seq", tenant="")
    stream = ResumableStream("abc", 1, 0.0)
    wrong = {
        "other_client": [
            tokens.issue(StreamRequest(*names, tenant=tenant), stream)
            for names, tenant in ((("eve", "call"), ""), (("ann", "other"), ""), (("ann", "call"), "beta"))
        ],
        "other_format": [
            tokens.issue(StreamRequest("ann", "call", **format), stream)
            for format in ({"sample_rate": 8000}, {"encoding": "mulaw"})
        ],
        "expired": [ResumeTokens(SECRET, life_s=-1).issue(request, stream)],
        "bad_signature": [
            ResumeTokens("x" * 40, life_s=60).issue(request, stream),
            jwt.encode({"aud": "resume"}, SECRET, algorithm="HS256"),
            jwt.encode(jwt.decode(tokens.issue(request, stream), options={"verify_signature": False}), "", "none"),
            "",
        ],
    }
    for reason, shown in wrong.items():
        for token in shown:
            async with resuming(server) as ann:
                fields = {"type": "resume", "token": token, "from_sample": 0, "accepted": 0}
                await ann.socket.send(json.dumps(fields))
                assert await ann.close_code() == 1008
            (error,) = ann.of("error")
            assert (error["code"], error["reason"]) == ("resume_refused", reason)
    async with resuming(server) as ann:
        assert (await ann.resume(tokens.issue(request, stream), 32000))["from_sample"] == 32000


def test_instances_that_share_their_settings_share_the_secret():
    keys = Settings(auth_keys=KEYS)
    assert secret_of(keys) == secret_of(Settings(auth_keys=KEYS)) != ""
    assert secret_of(Settings(auth_keys=KEYS, resume_secret=SECRET)) == SECRET
    assert secret_of(Settings()) == ""
    assert all(one.secret.text not in secret_of(keys) for one in keys.auth_keys)


async def test_a_client_whose_resume_is_late_is_told_to_try_again(server, monkeypatch):
    monkeypatch.setattr(websocket, "FIRST_MESSAGE_S", 0.1)
    async with resuming(server) as ann:
        assert await ann.close_code() == 1013
    assert not ann.of("error")


async def test_a_stream_that_is_cut_leaves_the_words_it_has_not_heard_to_its_next_connection(server):
    async with server.raw("client_id=ann&session_id=call&framing=seq") as socket:
        ann = Speaker(socket)
        await ann.until("ready")
        await ann.say(0, sound(1.0))
        await ann.until("transcripts")
        server.instance.breakers["en"].trip()
        server.instance.connections.stop_all(RESTARTING)
        await trio.sleep(0.1)
        server.instance.connections.cut_all()
        assert await ann.close_code() == 1012
    assert not [one for one in ann.of("transcripts") if one["is_final"]]


async def test_resume_in_the_middle_of_a_stream_is_1008(server):
    async with speaker(server) as ann:
        await ann.until("ready")
        await ann.socket.send('{"type": "resume", "token": "x", "from_sample": 0, "accepted": 0}')
        assert await ann.close_code() == 1008


async def test_a_token_is_renewed_before_half_of_its_life_is_over():
    async with running_server(resume_token_s=6, heartbeat_ms=100) as server, speaker(server) as ann:
        first = (await ann.until("ready"))["resume_token"]
        with trio.fail_after(10):
            while "resume_token" not in (message := await ann.receive()):
                pass
        assert message["type"] == "ack"
        assert message["resume_token"] != first
        await cut(server)
        async with resuming(server) as again:
            await again.resume(message["resume_token"], 0)


async def test_who_resumes_finds_a_place_where_there_is_none_for_others():
    async with running_server(max_concurrent_clients=1, resume_window_s=5) as server:
        token, _ = await lose_in_the_middle(server)
        async with resuming(server) as ann:
            await ann.resume(token, 0)


@pytest.mark.parametrize("limit", ["max_concurrent_clients", "tenant_max_streams", "max_connections_per_address"])
async def test_a_stream_that_waits_for_its_client_leaves_its_place_to_others(limit):
    async with running_server(resume_window_s=30, **{limit: 1}) as server:
        admission = server.instance.admission
        async with httpx.AsyncClient(base_url=server.http) as client:
            token, _ = await lose_in_the_middle(server)
            capacity = (await client.get("/health")).json()["capacity"]
            assert (capacity["streams"], capacity["parked"]) == (0, 1)
            assert "trio_stt_parked 1.0" in (await client.get("/metrics")).text
            statistics = (await client.get("/ws/stats")).json()
            assert statistics["websocket_stats"]["active_connections"] == 0
            assert [one["parked"] for one in statistics["active_clients_info"]] == [True]
        if limit != "max_connections_per_address":  # whose clients come from other addresses
            async with speaker(server, client="eve") as eve:
                await eve.until("ready")
                await go_on(server, token)
                assert (admission.speakers, admission.parked) == (1, 0)
                await eve.socket.send('{"type": "eof"}')
                assert await eve.close_code() == 1000
        else:
            await go_on(server, token)
        await wait_for(lambda: not list(server.instance.connections))
        assert (admission.speakers, admission.parked) == (0, 0)


async def go_on(server, token) -> None:
    """The speaker comes back, and ends what it had begun to say."""
    async with resuming(server) as ann:
        await ann.resume(token, 0)
        await wait_for(lambda: server.instance.admission.parked == 0)
        at = await ann.say(0, sound(1.0))
        await ann.say(at, silence(1.0))
        assert (await ann.until("transcripts", is_final=True))["text"] == "w1 w2"
        await ann.socket.send('{"type": "eof"}')
        assert await ann.close_code() == 1000


async def test_of_too_many_streams_that_wait_the_oldest_gets_its_final_at_once(nursery):
    async with (
        running_server(max_concurrent_clients=2, resume_window_s=60) as server,
        listening(server, nursery) as heard,
    ):
        for name in ("ann", "eve", "joe"):
            async with speaker(server, client=name) as stream:
                await stream.until("ready")
                await stream.say(0, sound(0.5))
                await trio.sleep(0.2)
                await cut(server, name)
        await wait_for(lambda: finals(heard))
        assert [(one["client_id"], one["text"]) for one in heard if one["type"] == "transcripts"] == [("ann", "w1")]
        await wait_for(lambda: len(list(server.instance.connections)) == 3)
        assert server.instance.admission.parked == 2
        (stored,) = await server.instance.bus.read(Call("", "call"), None)
        assert stored.kept.final.text == "w1"


async def test_a_drain_does_not_wait_for_a_client_that_has_gone(server):
    async with speaker(server) as ann:
        stream_id = (await ann.until("ready"))["stream_id"]
        await ann.say(0, sound(0.5))
        await trio.sleep(0.2)
        await cut(server)
    server.stop.set()
    await wait_for(lambda: not list(server.instance.connections), 3)
    (stored,) = await server.instance.bus.stream_finals(Call("", "call"), stream_id)
    assert stored.final.text == "w1"


async def test_a_drain_sends_clients_that_can_resume_to_another_instance_before_it_ends(redis, nursery):
    async with shared(redis, drain_timeout_s=10) as here, shared(redis) as there, listening(there, nursery) as heard:
        async with (
            speaker(here) as ann,
            server_raw(here, "client_id=eve&session_id=call") as eve,
            resuming(there) as new,
        ):
            token = (await ann.until("ready"))["resume_token"]
            await eve.until("ready")
            at = await ann.say(0, sound(0.5))
            here.stop.set()
            away = await ann.until("goaway")
            assert 3000 < away["deadline_ms"] <= 6000
            assert await eve.close_code() == 1012
            await new.resume(token, 0)
            at = await new.say(0, sound(1.0))
            await new.say(at, silence(1.0))
            await new.until("transcripts", is_final=True)
            await ann.socket.aclose()
            await wait_for(lambda: not list(here.instance.connections), 5)
        await trio.sleep(0.2)
        assert [text for _, _, text in finals(heard)] == ["w1 w2"]
        assert at


@asynccontextmanager
async def server_raw(server, query: str):
    async with server.raw(query) as socket:
        yield Speaker(socket)
