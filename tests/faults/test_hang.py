"""A recogniser call that does not return: nobody waits for it in silence, and no thread is left behind."""

import json

import httpx
import numpy as np
import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.unit.fakes import HANG, HangingEngine, silence, sound
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError, connect
from trio_stt.dialects.events import GoAway, Transcript


@pytest.fixture
def engine():
    engine = HangingEngine()
    yield engine
    engine.release()


def hanging_sound(seconds: float) -> bytes:
    return np.full(round(seconds * 16000), HANG, np.int16).tobytes()


async def events_until_closed(stream) -> tuple[list, int]:
    events = []
    try:
        async for event in stream:
            events.append(event)
    except StreamClosedError as closed:
        return events, closed.close.code
    return events, 1000


async def test_its_stream_is_closed_and_the_others_are_sent_away_before_the_process_ends(engine):
    async with running_server(engine, decode_hang_s=1, drain_timeout_s=2, decode_cores=2) as server:
        ended = {}

        async def listen(name, stream):
            ended[name] = await events_until_closed(stream)

        with trio.fail_after(20):
            async with (
                server.speaker("ann") as ann,
                server.speaker("bob", "other") as bob,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(listen, "ann", ann)
                nursery.start_soon(listen, "bob", bob)
                await bob.send_audio(sound(1).tobytes())
                await ann.send_audio(sound(1).tobytes())
                await ann.send_audio(hanging_sound(1))
            while not server.exit_codes:
                await trio.sleep(0.02)
            engine.release()

        assert server.exit_codes == [70]
        heard, code = ended["ann"]
        assert code == 1011
        finals = [event for event in heard if isinstance(event, Transcript) and event.is_final]
        assert len(finals) == 1  # what was known of the open utterance
        heard, code = ended["bob"]
        assert code == 1012
        (goaway,) = [event for event in heard if isinstance(event, GoAway)]
        assert 0 < goaway.deadline_ms <= 2000
        (final,) = [event for event in heard if isinstance(event, Transcript) and event.is_final]
        assert final.text == "w1 w2"


async def test_a_client_of_vosk_server_is_told_by_its_close_code_alone(engine):
    async with running_server(engine, decode_hang_s=1, drain_timeout_s=2, decode_cores=2) as server:
        with trio.fail_after(20):
            ann = await connect(f"{server.ws}/vosk-server", timeout_s=5)
            bob = await connect(f"{server.ws}/vosk-server", timeout_s=5)
            await bob.send(sound(0.2).tobytes())
            assert json.loads(await bob.receive()) == {"partial": "w1"}
            await ann.send(hanging_sound(0.2))
            with pytest.raises(StreamClosedError) as hung:
                await ann.receive()
            assert hung.value.close.code == 1011
            await bob.send(sound(0.2).tobytes())
            assert json.loads(await bob.receive()) == {"partial": "w1 w2"}
            assert json.loads(await bob.receive()) == {"text": "w1 w2"}  # at the deadline
            with pytest.raises(StreamClosedError) as sent_away:
                await bob.receive()
            assert sent_away.value.close.code == 1012
            for client in (ann, bob):
                await client.aclose()
            while not server.exit_codes:
                await trio.sleep(0.02)
            engine.release()
    assert server.exit_codes == [70]


async def test_nobody_is_let_in_any_more(engine):
    async with running_server(engine, decode_hang_s=1, drain_timeout_s=5) as server:
        with trio.fail_after(20):
            async with server.speaker("bob", "other"), server.speaker("ann") as ann:
                await ann.send_audio(hanging_sound(1))
                _, code = await events_until_closed(ann)
                assert code == 1011
                with pytest.raises(StreamRefusedError, match="503"):
                    async with server.speaker("eve"):
                        pass
                async with httpx.AsyncClient() as client:
                    health = await client.get(f"{server.http}/health")
                    simple = await client.get(f"{server.http}/health/simple")
                assert (health.status_code, simple.status_code) == (503, 503)
                assert "hung" in health.json()["details"]["decoders"]["message"]
            while not server.exit_codes:
                await trio.sleep(0.02)
            engine.release()


async def test_a_drain_does_not_wait_longer_than_it_may(engine):
    async with running_server(engine, decode_hang_s=600, drain_timeout_s=1) as server:
        with trio.fail_after(20):
            async with server.speaker("ann") as ann:
                await ann.send_audio(hanging_sound(1))
                while not server.instance.decoders.statistics().busy:
                    await trio.sleep(0.01)
                server.stop.set()
                _, code = await events_until_closed(ann)
                assert code == 1012
            while not server.exit_codes:
                await trio.sleep(0.02)
            engine.release()
    assert server.exit_codes == [70]


async def test_meanwhile_the_other_threads_decode_for_the_others(engine):
    async with running_server(engine, decode_hang_s=600, drain_timeout_s=1, decode_cores=2) as server:
        with trio.fail_after(10):
            async with server.speaker("ann") as ann, server.speaker("bob", "other") as bob:
                await ann.send_audio(hanging_sound(1))
                while not server.instance.decoders.statistics().busy:
                    await trio.sleep(0.01)
                await bob.send_audio(sound(1).tobytes())
                await bob.send_audio(silence(1).tobytes())
                (final,) = await finals_of(bob, 1)
                assert final.text == "w1 w2"
                engine.release()
