"""`trio-stt transcribe` while its server is killed or stopped, and another one starts in its place, or does not."""

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.e2e.conftest import ServerProcess
from tests.unit.fakes import silence, sound
from tests.unit.transcribe.sounds import write_sound
from trio_stt.drill.free_ports import free_ports
from trio_stt.transcribe.exit_codes import ExitCode

RATE = 16000
PHRASES_S = (0.5, 1.0, 1.5, 3.0, 2.0, 0.5, 1.0)
"""The engine of these servers hears a word in each half second: these are told apart."""

PAUSE_S = 1.0
LONG_PAUSE_S = 3.0
"""After the first phrase: long enough for a signal to fall into it."""

DOWN_S = 0.5


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    parts = [silence(PAUSE_S), sound(PHRASES_S[0]), silence(LONG_PAUSE_S)]
    for phrase_s in PHRASES_S[1:]:
        parts += [sound(phrase_s), silence(PAUSE_S)]
    write_sound(str(path), np.concatenate(parts), RATE, container="wav", codec="pcm_s16le")
    return path


@pytest.fixture
def port() -> int:
    return free_ports()


@asynccontextmanager
async def running_server(port: int):
    process = ServerProcess(
        ("tests.faults.fake_server",),
        SERVER_PORT=str(port),
        VAD_ENGINE="energy",
        DECODE_COST="0.001",
        DRAIN_TIMEOUT_S="1",
        TRANSLATION="false",
    )
    try:
        await trio.to_thread.run_sync(process.wait_for, "ready", 60)
        yield process
    finally:
        process.close()


class Transcription:
    """The command, in a process of its own, as it writes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.written = b""
        self.messages = b""
        self._more = trio.Event()

    @property
    def texts(self) -> list[str]:
        return [json.loads(line)["text"] for line in self.written.splitlines()]

    async def wait_for_lines(self, count: int) -> None:
        while self.written.count(b"\n") < count:
            await self._more.wait()

    async def read_output(self) -> None:
        async for data in self.process.stdout:
            self.written += data
            self._more.set()
            self._more = trio.Event()

    async def read_messages(self) -> None:
        async for data in self.process.stderr:
            self.messages += data


@asynccontextmanager
async def transcription(path: Path, port: int, *options: str):
    """Runs the command until it has ended."""
    command = [sys.executable, "-m", "trio_stt", "transcribe", "--format", "json", *options]
    process = await trio.lowlevel.open_process(
        [*command, "--server", f"ws://127.0.0.1:{port}", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running = Transcription(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.read_output)
            nursery.start_soon(running.read_messages)
            yield running
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()


async def undisturbed(path: Path, port: int) -> list[str]:
    async with running_server(port), transcription(path, port) as run:
        pass
    assert (run.process.returncode, run.messages) == (ExitCode.OK, b"")
    assert len(run.texts) == len(PHRASES_S)
    assert len(set(run.texts)) >= 4
    return run.texts


async def killed(server: ServerProcess, number: signal.Signals) -> None:
    server.signal(number)
    await trio.to_thread.run_sync(server.ended)
    await trio.sleep(DOWN_S)


async def test_the_text_is_that_of_an_undisturbed_run_although_the_server_is_killed_twice(talk, port):
    with trio.fail_after(180):
        expected = await undisturbed(talk, port)
        async with running_server(port) as first, transcription(talk, port, "--realtime") as run:
            await run.wait_for_lines(2)
            await trio.sleep(1.0)  # in the middle of a phrase
            await killed(first, signal.SIGKILL)
            async with running_server(port) as second:
                await run.wait_for_lines(4)
                await killed(second, signal.SIGKILL)
                async with running_server(port):
                    await run.process.wait()
    assert (run.process.returncode, run.texts) == (ExitCode.OK, expected), run.messages
    assert run.messages.count(b"Connected again after") == 2


async def test_the_text_is_that_of_an_undisturbed_run_although_the_server_is_replaced(talk, port):
    """In a pause: what a server that stops has of a phrase is an utterance of its own."""
    with trio.fail_after(180):
        expected = await undisturbed(talk, port)
        async with running_server(port) as first, transcription(talk, port, "--realtime") as run:
            await run.wait_for_lines(1)
            await killed(first, signal.SIGTERM)
            async with running_server(port):
                await run.process.wait()
    assert (run.process.returncode, run.texts) == (ExitCode.OK, expected), run.messages
    assert run.messages.count(b"Connected again after") == 1


async def test_a_server_that_does_not_come_back_ends_it_with_what_there_is(talk, port):
    with trio.fail_after(120):
        async with running_server(port) as server, transcription(talk, port, "--realtime", "--patience", "2") as run:
            await run.wait_for_lines(2)
            server.signal(signal.SIGKILL)
            await run.process.wait()
    assert run.process.returncode == ExitCode.CONNECTION
    assert len(run.texts) == 2
    assert b"no server was ready within 2 s" in run.messages
    assert b"Traceback" not in run.messages
