"""The sound of a track as the agent reads it: resampled, in 50 ms frames, with every frame that is lost counted."""

import asyncio
import logging

import numpy as np
import structlog
from livekit import rtc

from agent.heard_track import CAPACITY, HeardTrack
from agent.sdk_logs import tame_sdk_logs
from tests.agent.played_rooms import until
from tests.livekit.own_process import in_own_process

RATE = 48_000


@in_own_process
async def test_a_track_comes_as_the_models_want_it():
    source = rtc.AudioSource(RATE, 1, queue_size_ms=1000)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    heard: list[bytes] = []
    reading = HeardTrack(track, heard.append, structlog.get_logger())
    tone = (10_000 * np.sin(2 * np.pi * 440 * np.arange(RATE * 2) / RATE)).astype(np.int16)
    for piece in np.split(tone, 200):
        await source.capture_frame(rtc.AudioFrame(piece.tobytes(), RATE, 1, len(piece)))
    await until(lambda: len(heard) >= 30)
    assert {len(each) for each in heard} == {2 * 800}
    sound = np.frombuffer(b"".join(heard[5:25]), np.int16).astype(float)
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(np.argmax(spectrum) * 16_000 / len(sound) - 440) < 2
    assert reading.drops == 0
    await reading.close()
    count = len(heard)
    await source.capture_frame(rtc.AudioFrame(tone[:960].tobytes(), RATE, 1, 960))
    await asyncio.sleep(0.2)
    assert len(heard) == count
    await source.aclose()


@in_own_process
async def test_frames_that_are_not_read_in_time_are_counted():
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    heard: list[bytes] = []
    reading = HeardTrack(track, heard.append, structlog.get_logger())
    frame = rtc.AudioFrame(bytes(1600), 16_000, 1, 800)
    for _ in range(CAPACITY + 50):  # what the SDK does, while the loop has no time for us
        reading._stream._queue.put(rtc.AudioFrameEvent(frame))
    await until(lambda: len(heard) == CAPACITY)
    assert reading.drops == 50
    await reading.close()
    await source.aclose()


@in_own_process
async def test_tracks_are_heard_and_let_go_many_times():
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    frame = rtc.AudioFrame(bytes(960), RATE, 1, 480)
    tasks = len(asyncio.all_tasks())
    for _ in range(50):
        reading = HeardTrack(track, lambda samples: None, structlog.get_logger())
        await source.capture_frame(frame)
        await reading.close()
    assert len(asyncio.all_tasks()) == tasks
    await source.aclose()


def test_tokens_and_texts_in_the_sdk_s_lines_are_not_written(caplog):
    handler = logging.StreamHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        tame_sdk_logs("INFO")
        tame_sdk_logs("INFO")
        (tame,) = handler.filters

        def written(record: logging.LogRecord) -> str | None:
            return record.getMessage() if tame.filter(record) else None

        token = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJkZXZrZXkifQ.aHa6nEF2j-gpohTt_tBnk"
        line = f"401 - invalid token: {token}, ws://lk/rtc?access_token={token}&sdk=python"
        made = logging.LogRecord("livekit", logging.WARNING, "a.py", 1, "%s", (line,), None)
        assert written(made) == "401 - invalid token: …, ws://lk/rtc?…&sdk=python"
        event = "error running user callback for %s: %s"
        path = "/venv/livekit/rtc/room.py"
        made = logging.LogRecord("root", logging.ERROR, path, 1, event, ("data_received", "what was said"), None)
        assert "said" not in written(made)
        made = logging.LogRecord(
            "root", logging.INFO, path, 1, "ignoring text stream with topic '%s'", ("secret",), None
        )
        assert written(made) is None
        made = logging.LogRecord("agent", logging.INFO, "b.py", 1, "%s", ("as it was",), None)
        assert written(made) == "as it was"
    finally:
        root.removeHandler(handler)
        for each in root.handlers:
            each.filters = [kept for kept in each.filters if kept is not tame and type(kept).__name__ != "_Tame"]
        logging.getLogger("livekit").setLevel(logging.NOTSET)
