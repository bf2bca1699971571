"""What clients of one session see of each other, over real WebSockets."""

import json
from contextlib import suppress

import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.server.test_misuse import close_of
from tests.unit.fakes import silence, sound
from trio_stt.client.websocket import StreamClosedError
from trio_stt.dialects.events import Ack, Configured, Failure, Pong, Presence, Ready, Transcript


async def everything(stream) -> list:
    with trio.fail_after(10):
        return [event async for event in stream]


async def test_speech_becomes_captions_and_the_stream_ends_with_1000(server):
    async with server.speaker(words=True) as ann:
        await ann.send_audio(silence(0.5).tobytes() + sound(1.5).tobytes() + silence(0.5).tobytes())
        await ann.end()
        events = await everything(ann)
    assert isinstance(events[0], Ready)
    (final,) = [event for event in events if isinstance(event, Transcript) and event.is_final]
    assert final.text.split()[:2] == ["w1", "w2"]
    assert [word.text for word in final.words] == final.text.split()
    assert events[-1] == Ack(2.5 * 16000)


async def test_two_clients_in_one_session_each_see_the_other_s_captions(server):
    async with server.speaker("ann") as ann, server.speaker("bob") as bob:
        for speaker, seconds in ((ann, 1.0), (bob, 2.0)):
            await speaker.send_audio(sound(seconds).tobytes())
            await speaker.finalize()
        seen = []
        for stream in (ann, bob):
            finals = await finals_of(stream, 2)
            seen.append({(final.client_id, final.text) for final in finals})
    assert seen[0] == seen[1] == {("ann", "w1 w2"), ("bob", "w1 w2 w3 w4")}


async def test_a_listener_receives_and_may_not_speak(server):
    async with server.speaker("ann") as ann, server.raw("client_id=eve&session_id=call&speak=false") as eve:
        assert server.instance.admission.listeners == 1
        await ann.send_audio(sound(1).tobytes())
        await ann.finalize()
        while not (message := json.loads(await eve.receive())).get("is_final"):
            pass
        assert message["client_id"] == "ann"
        await eve.send(b"\0\0")
        _, code = await close_of(eve)
        assert code == 1003


async def test_sessions_do_not_hear_each_other(server):
    async with server.speaker("ann", "one") as ann, server.speaker("bob", "two") as bob:
        await ann.send_audio(sound(1).tobytes())
        await ann.finalize()
        await finals_of(ann, 1)
        await bob.end()
        assert not [event for event in await everything(bob) if isinstance(event, Transcript)]


async def test_a_late_joiner_gets_the_history_it_asks_for(server):
    async with server.speaker("ann") as ann:
        for _ in range(3):
            await ann.send_audio(sound(1).tobytes())
            await ann.finalize()
        await finals_of(ann, 3)
        async with server.speaker("bob", history=2) as bob:
            early = await finals_of(bob, 2)
            await ann.send_audio(sound(1).tobytes())
            await ann.finalize()
            (live,) = await finals_of(bob, 1)
    assert [final.history for final in early] == [True, True]
    assert not live.history
    assert len({final.segment_id for final in [*early, live]}) == 3


async def test_presence_tells_who_comes_and_goes(server):
    async with server.speaker("ann", presence=True) as ann:
        async with server.speaker("bob"):
            pass
        with trio.fail_after(5):
            seen = []
            async for event in ann:
                if isinstance(event, Presence):
                    seen.append(event)
                if len(seen) == 2:
                    break
    assert seen == [Presence("joined", "bob"), Presence("left", "bob")]


async def test_a_newer_connection_of_a_client_closes_the_older_one_with_4001(server):
    async with server.speaker("ann") as older, server.speaker("ann") as newer:
        with pytest.raises(StreamClosedError) as closed:
            await everything(older)
        assert closed.value.close.code == 4001
        await newer.send_audio(sound(1).tobytes())
        await newer.finalize()
        assert await finals_of(newer, 1)


async def test_settings_can_be_changed_while_connected(server):
    async with server.speaker() as ann:
        await ann.configure(partials=False)
        await ann.configure(translation=True)
        await ann.ping(3)
        await ann.send_audio(sound(1).tobytes())
        await ann.end()
        events = await everything(ann)
    assert next(event for event in events if isinstance(event, Configured)).values["partials"] is False
    # None of its engines translates: see test_translation.py for those that do.
    failure = next(event for event in events if isinstance(event, Failure))
    assert (failure.code, failure.extra["parameter"]) == ("bad_value", "translation")
    assert Pong(3) in events
    assert all(event.is_final for event in events if isinstance(event, Transcript))


async def test_seq_clients_hear_something_every_heartbeat():
    async with running_server(heartbeat_ms=100) as server:
        async with server.speaker("ann") as ann, server.speaker("bob", speak=False) as bob:
            beats = {}
            for name, stream, kind in (("ann", ann, Ack), ("bob", bob, Pong)):
                began = trio.current_time()
                seen = 0
                with trio.fail_after(5):
                    async for event in stream:
                        seen += isinstance(event, kind)
                        if seen == 5:
                            break
                beats[name] = trio.current_time() - began
        assert all(duration < 3 for duration in beats.values())


async def test_raw_clients_hear_no_heartbeats():
    async with running_server(heartbeat_ms=100) as server, server.raw("client_id=a&session_id=c&framing=raw") as ws:
        assert json.loads(await ws.receive())["type"] == "ready"
        with trio.move_on_after(0.5) as quiet:
            await ws.receive()
        assert quiet.cancelled_caught


async def test_an_idle_speaker_is_closed_after_its_last_words():
    async with running_server() as server, server.speaker(idle_timeout_s=1.5) as ann:
        await ann.send_audio(sound(1).tobytes())
        events = await everything(ann)
    assert [event.is_final for event in events if isinstance(event, Transcript)][-1]
    assert server.instance.connections.statistics()["recent_disconnects"][0]["reason"] == "Idle timeout"


async def test_a_stream_ends_at_its_maximum_duration():
    async with running_server() as server, server.speaker(max_duration_s=1, framing="raw") as ann:
        with trio.move_on_after(8):
            with suppress(StreamClosedError):
                for _ in range(200):
                    await ann.send_audio(sound(0.02).tobytes())
                    await trio.sleep(0.02)
        with trio.fail_after(5):
            assert [event async for event in ann]
    assert server.instance.connections.statistics()["recent_disconnects"][0]["reason"] == "Max duration reached"
