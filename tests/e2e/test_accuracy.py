"""The words of real recordings, through the WebSocket and the gate, against the bare engine."""

from functools import partial

import pytest
import trio

from trio_stt.bench.speech import Clip, load_speech
from trio_stt.bench.word_errors import word_errors
from trio_stt.client.connection import open_stream
from trio_stt.dialects.events import StreamRequest, Transcript
from trio_stt.recognition.vosk_engine import VoskEngine

MOST_ERRORS = 8
MOST_MORE_THAN_BARE = 2


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    found = load_speech()
    assert sum(len(clip.words) for clip in found) == 92
    return found


async def captioned(server: str, clip: Clip, number: int) -> list[str]:
    words = []
    request = StreamRequest(f"speaker-{number}", f"call-{number}", framing="seq")
    with trio.fail_after(60):
        async with open_stream(server, request) as stream:
            await stream.send_audio(clip.samples.tobytes())
            await stream.end()
            async for event in stream:
                if isinstance(event, Transcript) and event.is_final:
                    words += event.text.split()
    return words


def bare(engine: VoskEngine, clip: Clip) -> list[str]:
    recogniser = engine.open()
    for begin in range(0, len(clip.samples), 1600):
        recogniser.accept(clip.samples[begin : begin + 1600])
    return [word.text for word in recogniser.finish()]


async def test_ten_recordings_lose_next_to_nothing_on_the_way(server, model, clips):
    engine = await trio.to_thread.run_sync(partial(VoskEngine, model, recogniser_memory_mb=200))
    served = bare_errors = 0
    for number, clip in enumerate(clips):
        served += word_errors(clip.words, await captioned(server, clip, number)).errors
        bare_errors += word_errors(clip.words, await trio.to_thread.run_sync(bare, engine, clip)).errors
    print(f"word errors of 92: served {served}, bare engine {bare_errors}")
    assert served <= MOST_ERRORS
    assert served <= bare_errors + MOST_MORE_THAN_BARE
