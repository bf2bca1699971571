"""The server process: how it starts, how it ends, and what it says when it cannot."""

import os
import signal
import socket

import pytest
import trio

from tests.e2e.conftest import server_process
from trio_stt.bench.speech import load_speech
from trio_stt.client.connection import open_stream
from trio_stt.client.websocket import ServerUnreachableError, StreamClosedError
from trio_stt.dialects.events import StreamRequest, Transcript


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_exit_code_0(model, number):
    with server_process(VOSK_MODEL_PATH=str(model)) as process:
        process.wait_for("ready")
        process.signal(number)
        assert process.ended(5) == 0
        assert not any("Traceback" in line for line in process.log)


async def test_sigterm_ends_open_streams_with_their_last_words_and_1012(model):
    clip = next(clip for clip in load_speech() if "0880" in clip.name)
    with server_process(VOSK_MODEL_PATH=str(model)) as process:
        url = process.wait_for("ready")["url"].replace("http:", "ws:")
        async with open_stream(url, StreamRequest("ann", "call", framing="seq")) as stream:
            await stream.send_audio(clip.samples.tobytes())
            heard = ""
            code = None
            try:
                with trio.fail_after(10):
                    async for event in stream:
                        if isinstance(event, Transcript):
                            if not heard:
                                process.signal()
                            heard = event.text
            except StreamClosedError as closed:
                code = closed.close.code
            assert code == 1012

        assert await trio.to_thread.run_sync(process.ended) == 0
    assert "disposed young man" in heard


async def test_a_draining_server_takes_nobody_and_a_second_signal_hurries_it(model):
    with server_process(VOSK_MODEL_PATH=str(model), DRAIN_TIMEOUT_S="60", TCP_USER_TIMEOUT_S="2") as process:
        url = process.wait_for("ready")["url"].replace("http:", "ws:")
        process.signal()
        process.wait_for("draining")
        process.signal()
        assert await trio.to_thread.run_sync(process.ended) == 0
        with pytest.raises(ServerUnreachableError):
            async with open_stream(url, StreamRequest("ann", "call")):
                pass


def test_a_port_in_use_is_said_at_once(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with server_process(VOSK_MODEL_PATH=str(model), SERVER_PORT=port) as process:
            assert process.ended() == 1
    said = "".join(process.log)
    assert f"127.0.0.1:{port}" in said
    assert "SERVER_PORT" in said
    assert "Traceback" not in said


def test_a_missing_model_names_the_command_that_installs_one(tmp_path):
    with server_process(VOSK_MODEL_PATH=str(tmp_path)) as process:
        assert process.ended() == 1
    said = "".join(process.log)
    assert "trio-stt models install en" in said
    assert "Traceback" not in said


def test_a_broken_model_is_said_so(model, tmp_path):
    for part in model.iterdir():
        os.symlink(part, tmp_path / part.name)
    (tmp_path / "am").unlink()
    (tmp_path / "am").mkdir()
    (tmp_path / "am/final.mdl").write_bytes(b"no model")
    with server_process(VOSK_MODEL_PATH=str(tmp_path)) as process:
        assert process.ended() == 1
    assert "models install en" in "".join(process.log)
    assert "Traceback" not in "".join(process.log)


def test_a_wrong_setting_is_named_with_where_it_stands():
    with server_process(SERVER_PORT="many") as process:
        assert process.ended() == 2
    said = "".join(process.log)
    assert "SERVER_PORT" in said
    assert "whole number" in said


async def test_captions_go_on_when_nobody_reads_the_logs_any_more(model):
    clip = next(clip for clip in load_speech() if "0880" in clip.name)
    with server_process(VOSK_MODEL_PATH=str(model)) as process:
        url = process.wait_for("ready")["url"].replace("http:", "ws:")
        process.stop_reading()
        for _ in range(3):
            async with open_stream(url, StreamRequest("ann", "call", framing="seq")) as stream:
                await stream.send_audio(clip.samples.tobytes())
                await stream.end()
                with trio.fail_after(10):
                    texts = [event.text async for event in stream if isinstance(event, Transcript)]
            assert "young man" in texts[-1]
        process.signal()
        assert await trio.to_thread.run_sync(process.ended) == 0
