"""A server whose recogniser hangs ends by itself, and by SIGTERM, though a thread of it never will."""

import pytest
import trio

from tests.e2e.conftest import server_process
from tests.unit.fakes import HANG
from trio_stt.client.connection import open_stream
from trio_stt.client.websocket import StreamClosedError
from trio_stt.dialects.events import GoAway, StreamRequest

HANGING_SERVER = ("tests.e2e.hanging_server",)
SETTINGS = {"VAD_ENGINE": "energy", "DECODE_COST": "0.01", "DECODE_CORES": "2"}
HANGING_SOUND = HANG.to_bytes(2, "little") * 16000


async def code_of_the_end(stream) -> tuple[int, list]:
    events = []
    try:
        async for event in stream:
            events.append(event)
    except StreamClosedError as closed:
        return closed.close.code, events
    return 1000, events


async def test_it_ends_with_exit_code_70_after_its_clients_were_told():
    with server_process(HANGING_SERVER, **SETTINGS, DECODE_HANG_S="1", DRAIN_TIMEOUT_S="2") as process:
        url = process.wait_for("ready")["url"].replace("http:", "ws:")
        with trio.fail_after(20):
            async with (
                open_stream(url, StreamRequest("ann", "call", framing="seq")) as ann,
                open_stream(url, StreamRequest("bob", "call2", framing="seq")) as bob,
            ):
                await ann.send_audio(HANGING_SOUND)
                code, _ = await code_of_the_end(ann)
                assert code == 1011
                code, events = await code_of_the_end(bob)
                assert code == 1012
                assert any(isinstance(event, GoAway) for event in events)
            assert await trio.to_thread.run_sync(process.ended) == 70
    log = "".join(process.log)
    assert "decoder_hung" in log
    assert "stream_hung" in log


@pytest.mark.parametrize("logs_are_read", [True, False])
async def test_sigterm_ends_it_within_the_drain_time(logs_are_read):
    with server_process(HANGING_SERVER, **SETTINGS, DECODE_HANG_S="600", DRAIN_TIMEOUT_S="1") as process:
        url = process.wait_for("ready")["url"].replace("http:", "ws:")
        if not logs_are_read:
            process.stop_reading()
        with trio.fail_after(20):
            async with open_stream(url, StreamRequest("ann", "call", framing="seq")) as ann:
                await ann.send_audio(HANGING_SOUND)
                await trio.sleep(0.5)
                process.signal()
                code, _ = await code_of_the_end(ann)
                assert code == 1012
            assert await trio.to_thread.run_sync(process.ended) == 70
