"""Two server processes, a real Redis that dies meanwhile, real speech; who listens on the other reads Portuguese."""

import json
from contextlib import contextmanager

import pytest
import trio

from tests.e2e.conftest import server_process
from tests.server.redis_server import RedisServer, redis_server
from trio_stt.bench.speech import load_speech
from trio_stt.client.connection import open_stream
from trio_stt.dialects.events import StreamRequest, Transcript, Translation

PAUSE = bytes(2 * 16000)


@contextmanager
def two_servers(model, redis: RedisServer):
    settings = {"VOSK_MODEL_PATH": str(model), "REDIS_URL": redis.url}
    with server_process(**settings) as here, server_process(**settings) as there:
        yield here, there


@pytest.fixture
def redis():
    with redis_server() as server:
        yield server


async def test_a_listener_elsewhere_gets_all_finals_and_translations_once_in_order_while_redis_is_killed_and_comes_back(
    model, redis
):
    clips = load_speech()[:4]
    with two_servers(model, redis) as processes:
        here, there = (process.wait_for("ready")["url"].replace("http:", "ws:") for process in processes)
        finals, translations = {"near": [], "far": []}, []
        portuguese = StreamRequest("far", "call", speak=False, translation=True, read_language="pt")
        async with (
            trio.open_nursery() as nursery,
            open_stream(here, StreamRequest("ann", "call", framing="seq")) as ann,
            open_stream(here, StreamRequest("near", "call", speak=False)) as near,
            open_stream(there, portuguese) as far,
        ):

            async def listen(name, stream) -> None:
                async for event in stream:
                    if isinstance(event, Transcript) and event.is_final and event.text:
                        finals[name].append(event)
                    elif isinstance(event, Translation):
                        assert event.segment_id in [final.segment_id for final in finals[name]]
                        translations.append(event)

            async def say(clip) -> None:
                before = len(finals["near"])
                await ann.send_audio(clip.samples.tobytes() + PAUSE)
                with trio.fail_after(20):
                    while len(finals["near"]) == before:
                        await trio.sleep(0.01)

            nursery.start_soon(listen, "near", near)
            nursery.start_soon(listen, "far", far)
            await say(clips[0])
            redis.stop()
            await say(clips[1])
            await say(clips[2])
            redis.start()
            await say(clips[3])
            await ann.end()
            with trio.fail_after(20):
                async for _ in ann:
                    pass
                while len(translations) < len(finals["near"]):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert [final.segment_id for final in finals["far"]] == [final.segment_id for final in finals["near"]]
        assert len({final.segment_id for final in finals["far"]}) == len(finals["far"]) >= 4
        starts = [final.start_sample for final in finals["far"]]
        assert starts == sorted(starts)
        assert [each.segment_id for each in translations] == [final.segment_id for final in finals["far"]]
        assert {(each.source_language, each.language) for each in translations} == {("en", "pt")}
        assert all(each.translation != final.text for each, final in zip(translations, finals["far"], strict=True))
        spoken = {final.text for final in finals["far"]} | {each.translation for each in translations}
        for process in processes:
            process.signal()
            assert await trio.to_thread.run_sync(process.ended) == 0
            assert not any("Traceback" in line for line in process.log)
            events = [json.loads(line)["event"] for line in process.log if line.startswith("{")]
            assert events.count("bus_up") == 2
            assert events.count("bus_down") == 1
            assert not any(text in line for text in spoken for line in process.log)
