"""`transcribe` against a server that follows a script, on a real socket."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import attrs
import numpy as np
import pytest
import trio
from rich.console import Console
from trio_websocket import ConnectionClosed, serve_websocket

from trio_stt.dialects.events import Ack, Failure, Ready, StreamRequest, Transcript
from trio_stt.dialects.native import HEADER_BYTES, encode
from trio_stt.transcribe import losses, streaming
from trio_stt.transcribe.display import Display
from trio_stt.transcribe.exit_codes import ExitCode
from trio_stt.transcribe.formats import caption_format
from trio_stt.transcribe.job import Job, LanguageFile, ServerStartError, run_job
from trio_stt.transcribe.sound import SourceError
from trio_stt.transcribe.sources import Sound

REQUEST = StreamRequest("me", "call", framing="seq")
FRAME = np.full(1600, 7, np.int16)


class FakeSource:
    """So many frames of 100 ms, then perhaps an error, or nothing until it is stopped."""

    def __init__(self, frames=3, *, name="a.wav", error=None, open_error=None, endless=False):
        self.name = name
        self._frames = frames
        self._error = error
        self._open_error = open_error
        self._endless = endless
        self._stopped = trio.Event()

    @contextlib.asynccontextmanager
    async def open(self):
        if self._open_error:
            raise SourceError(self._open_error)
        async with contextlib.aclosing(self._sound()) as frames:
            yield Sound(None, frames)

    async def _sound(self):
        for _ in range(self._frames):
            yield FRAME
        if self._error:
            raise SourceError(self._error)
        if self._endless:
            await self._stopped.wait()

    def stop(self):
        self._stopped.set()

    def warning(self):
        return None


def transcript(text, segment="1", *, is_final=True, client="me", start=0, end=1600):
    stream = "stream" if client == "me" else "another"
    return Transcript("call", client, stream, segment, text, is_final, "en", start, end, 16000, 0.0)


READY = Ready("call", "me", "stream", "en", 16000, "pcm_s16le", 1, 0, None, 500, 0, 5000, "test")
RESUMABLE = attrs.evolve(READY, resume_token="token")


class Peer:
    """The server's end of one connection. `samples`: the position of the next one."""

    def __init__(self, websocket, query):
        self._websocket = websocket
        self.query = query
        self.samples = 0

    async def send(self, *events):
        for event in events:
            await self._websocket.send_message(encode(event, timestamp=0.0))

    async def receive_until_eof(self):
        while not isinstance(message := await self.receive(), str):
            pass
        assert json.loads(message)["type"] == "eof"

    async def receive_samples(self, count):
        while self.samples < count:
            await self.receive()

    async def resume(self, **expected):
        """Reads what a client that resumes says first; the samples go on from the same place."""
        assert self.query["resume"] == ["true"]
        assert json.loads(await self.receive()) == {"type": "resume", **expected}
        self.samples = expected["from_sample"]

    async def receive(self):
        message = await self._websocket.get_message()
        if isinstance(message, bytes):
            assert message[:4] == b"SEQ1"
            assert int.from_bytes(message[4:12], "little") == self.samples
            self.samples += (len(message) - HEADER_BYTES) // 2
        return message

    async def close(self, code=1000, reason=""):
        await self._websocket.aclose(code, reason)


@contextlib.asynccontextmanager
async def scripted_server(script):
    """Serves each connection with ``await script(peer)``; yields the address."""

    async def answer(request):
        websocket = await request.accept()
        with contextlib.suppress(ConnectionClosed):
            await script(Peer(websocket, parse_qs(urlsplit(request.path).query)))
        await websocket.aclose()

    async with serving(answer) as url:
        yield url


@contextlib.asynccontextmanager
async def serving(answer):
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, answer, "127.0.0.1", 0, None)
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


@attrs.define
class Run:
    code: ExitCode
    output: str
    messages: str


async def run(url, *sources, form="text", output=None, realtime=False, request=REQUEST, **more):
    @contextlib.asynccontextmanager
    async def running():
        yield url

    written = io.BytesIO()
    messages = io.StringIO()
    job = Job(sources or (FakeSource(),), request, caption_format(form, words=False), realtime, **more)
    with trio.fail_after(10):
        code = await run_job(job, running, output or written, Display(Console(file=messages)))
    return Run(code, written.getvalue().decode(), " ".join(messages.getvalue().split()))


async def one_utterance(peer):
    await peer.send(READY)
    await peer.receive_until_eof()
    await peer.send(transcript("hel", is_final=False), transcript("hello there"), Ack(peer.samples))
    await peer.close()


async def test_all_sound_is_sent_and_finals_are_written():
    peers = []

    async def script(peer):
        peers.append(peer)
        await one_utterance(peer)

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(25))
    assert (result.code, result.output, result.messages) == (ExitCode.OK, "hello there\n", "")
    assert [peer.samples for peer in peers] == [25 * 1600]


async def test_several_sources_are_transcribed_one_after_another_on_one_time_line():
    async with scripted_server(one_utterance) as url:
        result = await run(url, FakeSource(10), FakeSource(10, name="b.wav"), form="vtt")
    assert result.output == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.100\nhello there\n\n00:00:01.000 --> 00:00:01.100\nhello there\n\n"
    )


async def test_captions_of_others_in_the_session_are_not_ours():
    async def script(peer):
        await peer.send(READY, transcript("not me", "you-1", client="you"))
        await peer.receive_until_eof()
        await peer.send(transcript("hello there"))
        await peer.close()

    async with scripted_server(script) as url:
        assert (await run(url)).output == "hello there\n"


async def test_an_unreadable_source_is_told_and_the_next_is_transcribed():
    async with scripted_server(one_utterance) as url:
        result = await run(url, FakeSource(open_error="a.wav cannot be read."), FakeSource())
    assert (result.code, result.output) == (ExitCode.SOURCE, "hello there\n")
    assert result.messages == "Error: a.wav cannot be read."


async def test_a_source_that_breaks_in_the_middle_is_transcribed_until_there():
    async with scripted_server(one_utterance) as url:
        result = await run(url, FakeSource(2, error="a.wav cannot be read to its end."))
    assert (result.code, result.output) == (ExitCode.SOURCE, "hello there\n")
    assert "to its end" in result.messages


async def test_nobody_there_says_how_to_start_a_server():
    result = await run("ws://127.0.0.1:9")
    assert result.code == ExitCode.SERVER
    assert "trio-stt serve" in result.messages


async def test_a_refusal_is_told_with_its_reason_and_when_to_try_again():
    async def refuse(request):
        body = b'{"error":{"code":"full","message":"50 speakers are here already","parameter":null}}'
        await request.reject(503, extra_headers=[(b"Retry-After", b"3")], body=body)

    async with serving(refuse) as url:
        result = await run(url, FakeSource(), FakeSource())
    assert result.code == ExitCode.SERVER
    assert result.messages.count("50 speakers are here already") == 1
    assert "Try again in 3 s" in result.messages


async def test_who_lacks_an_access_token_is_told_where_to_put_it():
    async def refuse(request):
        body = b'{"error":{"code":"invalid_token","message":"an access token is needed","parameter":null}}'
        await request.reject(401, body=body)

    async with serving(refuse) as url:
        result = await run(url)
    assert (result.code, result.output) == (ExitCode.SERVER, "")
    assert "an access token is needed (HTTP 401)" in result.messages
    assert "ACCESS_TOKEN" in result.messages


async def test_a_server_that_is_gone_for_good_keeps_what_came_also_the_open_utterance():
    connections = 0

    async def answer(request):
        nonlocal connections
        connections += 1
        if connections > 1:
            await request.reject(503, body=b"starting")
            return
        peer = Peer(await request.accept(), {})
        await peer.send(READY)
        await peer.receive_samples(4800)
        await peer.send(transcript("hello there"), transcript("and then", "2", is_final=False, start=1600, end=3200))
        await peer.close(1011, "broken")

    async with serving(answer) as url:
        result = await run(url, FakeSource(3, endless=True), FakeSource(), patience_s=0.5)
    assert (result.code, result.output) == (ExitCode.CONNECTION, "hello there\nand then\n")
    assert "The connection is lost (closed with 1011 broken)" in result.messages
    assert "lost after 0 s of a.wav: no server was ready within 0.5 s: refused with HTTP 503" in result.messages
    assert connections > 1


async def test_after_a_lost_connection_the_same_stream_goes_on_and_each_final_is_written_once():
    peers = []

    async def script(peer):
        peers.append(peer)
        if len(peers) == 1:
            await peer.send(RESUMABLE)
            await peer.receive_samples(3200)
            await peer.send(transcript("hello"), Ack(1600), transcript("th", "2", is_final=False, start=1600, end=3200))
            await peer.close(1012, "restarting")
            return
        await peer.resume(token="token", from_sample=1600, accepted=1600)
        await peer.send(attrs.evolve(RESUMABLE, from_sample=1600), transcript("hello"))
        await peer.receive_until_eof()
        await peer.send(transcript("there", "2", start=1600, end=48000), Ack(48000))
        await peer.close()

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(30))
    assert (result.code, result.output) == (ExitCode.OK, "hello\nthere\n")
    assert [peer.samples for peer in peers][1:] == [48000]
    assert result.messages.startswith("The connection is lost (closed with 1012 restarting).")
    assert "Connected again after" in result.messages


async def test_a_server_that_knows_nothing_of_the_stream_gets_the_rest_of_the_sound_as_a_new_one():
    peers = []

    async def script(peer):
        peers.append(peer)
        if len(peers) == 1:
            await peer.send(RESUMABLE)
            await peer.receive_samples(3200)
            await peer.send(transcript("hello"), transcript("th", "2", is_final=False, start=1600, end=3200))
            await peer.close(1011)
        elif "resume" in peer.query:
            await peer.resume(token="token", from_sample=0, accepted=1600)
            await peer.send(Failure("resume_refused", "unknown"))
            await peer.close(1008, "resume_refused")
        else:
            await peer.send(attrs.evolve(RESUMABLE, stream_id="other"))
            await peer.receive_until_eof()
            there = transcript("there", "other-1", start=0, end=46400)
            await peer.send(attrs.evolve(there, stream_id="other"), Ack(46400))
            await peer.close()

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(30), form="json")
    finals = [json.loads(line) for line in result.output.splitlines()]
    assert [(final["text"], final["start"], final["end"]) for final in finals] == [
        ("hello", 0.0, 0.1),
        ("there", 0.1, 3.0),
    ]
    assert (result.code, peers[-1].samples) == (ExitCode.OK, 46400)


async def test_a_server_that_is_away_between_two_files_is_waited_for():
    connections = 0

    async def answer(request):
        nonlocal connections
        connections += 1
        if connections == 2:
            await request.reject(503, body=b"starting")
            return
        await one_utterance(Peer(await request.accept(), {}))

    async with serving(answer) as url:
        result = await run(url, FakeSource(), FakeSource(name="b.wav"))
    assert (result.code, result.output, connections) == (ExitCode.OK, "hello there\n" * 2, 3)


async def test_a_server_that_is_lost_each_time_it_hears_the_same_sound_is_given_up(monkeypatch):
    monkeypatch.setattr(losses, "HOPELESS_AFTER_S", 0.2)

    async def script(peer):
        if "resume" in peer.query:
            await peer.receive()
        await peer.send(RESUMABLE)
        await peer.receive_samples(1600)
        await peer.close(1011, "broken")

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(3, endless=True))
    assert result.code == ExitCode.CONNECTION
    assert "again and again at the same place, at last: closed with 1011 broken" in result.messages


async def test_an_early_end_is_not_taken_for_success():
    async def script(peer):
        await peer.send(READY)
        await peer.receive_samples(1600)
        await peer.send(transcript("hello there"))
        await peer.close(1000, "Max duration reached")

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(3, endless=True))
    assert (result.code, result.output) == (ExitCode.CONNECTION, "hello there\n")
    assert "before all sound was heard" in result.messages


async def test_an_early_end_that_comes_after_our_own_is_not_taken_for_success():
    async def script(peer):
        await peer.send(READY)
        await peer.receive_until_eof()
        await peer.close(1000, "Max duration reached")

    async with scripted_server(script) as url:
        assert (await run(url)).code == ExitCode.CONNECTION


async def test_a_silent_server_counts_as_lost(monkeypatch):
    monkeypatch.setattr(losses, "HOPELESS_AFTER_S", 1.0)  # longer than one of the connections holds

    async def script(peer):
        await peer.send(attrs.evolve(READY, heartbeat_ms=100))
        await peer.receive_until_eof()
        await trio.sleep_forever()

    async with scripted_server(script) as url:
        result = await run(url)
    assert result.code == ExitCode.CONNECTION
    assert "The connection is lost (no heartbeat)" in result.messages


async def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(streaming, "FIRST_ANSWER_S", 0.3)

    async def never(request):
        await trio.sleep_forever()

    async with serving(never) as url:
        result = await run(url)
    assert (result.code, result.output) == (ExitCode.SERVER, "")
    assert f"{url}: no WebSocket answer in 0.3 s" in result.messages


async def test_without_a_server_the_files_of_an_earlier_run_are_left_alone(tmp_path):
    path = tmp_path / "talk.en.txt"
    path.write_text("earlier\n")
    files = [LanguageFile(None, caption_format("text", words=False), path)]
    assert (await run("ws://127.0.0.1:9", files=files)).code == ExitCode.SERVER
    assert path.read_text() == "earlier\n"
    async with scripted_server(one_utterance) as url:
        await run(url, files=files)
    assert path.read_text() == "hello there\n"


async def test_a_server_that_does_not_start_is_told():
    @contextlib.asynccontextmanager
    async def broken():
        raise ServerStartError("No model. Install one with 'trio-stt models install en'.")
        yield

    messages = io.StringIO()
    job = Job([FakeSource()], REQUEST, caption_format("text", words=False), realtime=False)
    code = await run_job(job, broken, io.BytesIO(), Display(Console(file=messages, width=200)))
    assert code == ExitCode.SERVER
    assert "models install en" in messages.getvalue()


async def test_realtime_sends_no_faster_than_it_was_spoken():
    began = trio.current_time()
    async with scripted_server(one_utterance) as url:
        await run(url, FakeSource(5), realtime=True)
    assert trio.current_time() - began >= 0.5


async def test_ctrl_c_writes_what_was_recognised_so_far():
    async def script(peer):
        await peer.send(READY)
        await peer.receive_samples(4800)
        await peer.send(transcript("hello there"))
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        await peer.receive_until_eof()
        await peer.send(transcript("and then", "2", start=1600, end=4800))
        await peer.close()

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(3, endless=True), FakeSource())
    assert (result.code, result.output) == (ExitCode.INTERRUPTED, "hello there\nand then\n")


async def test_after_ctrl_c_a_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(streaming, "LAST_WORDS_S", 0.2)

    async def script(peer):
        await peer.send(READY)
        await peer.receive_samples(4800)
        await peer.send(transcript("and th", is_final=False))
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(3, endless=True))
    assert (result.code, result.output) == (ExitCode.INTERRUPTED, "and th\n")


async def test_ctrl_c_while_the_sound_waits_for_room_gets_the_last_words():
    async def script(peer):
        await peer.send(READY)
        await peer.receive_samples(119 * 16000)
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        await peer.receive_until_eof()
        await peer.send(transcript("hello there", end=peer.samples))
        await peer.close()

    async with scripted_server(script) as url:
        result = await run(url, FakeSource(1300))
    assert (result.code, result.output) == (ExitCode.INTERRUPTED, "hello there\n")


async def test_ctrl_c_while_the_server_is_away_ends_at_once(monkeypatch):
    monkeypatch.setattr(streaming, "LAST_WORDS_S", 30)
    connections = 0

    async def answer(request):
        nonlocal connections
        connections += 1
        if connections > 1:
            signal.raise_signal(signal.SIGINT)
            await request.reject(503, body=b"starting")
            return
        peer = Peer(await request.accept(), {})
        await peer.send(READY)
        await peer.receive_samples(4800)
        await peer.send(transcript("hello there"), transcript("and th", "2", is_final=False, start=1600, end=3200))
        await peer.close(1012)

    async with serving(answer) as url:
        result = await run(url, FakeSource(3, endless=True))
    assert (result.code, result.output) == (ExitCode.INTERRUPTED, "hello there\nand th\n")


async def test_ctrl_c_while_connecting_ends_at_once():
    async def never(request):
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async with serving(never) as url:
        assert (await run(url)).code == ExitCode.INTERRUPTED


async def test_a_second_ctrl_c_does_not_wait():
    async def script(peer):
        await peer.send(READY)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep(0.1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    began = trio.current_time()
    async with scripted_server(script) as url:
        assert (await run(url, FakeSource(3, endless=True))).code == ExitCode.INTERRUPTED
    assert trio.current_time() - began < streaming.LAST_WORDS_S


class BrokenOutput(io.RawIOBase):
    def __init__(self, error):
        self._error = error

    def write(self, data):
        raise self._error


async def test_a_reader_that_went_away_ends_it_quietly():
    async with scripted_server(one_utterance) as url:
        result = await run(url, output=BrokenOutput(BrokenPipeError(32, "Broken pipe")))
    assert (result.code, result.messages) == (ExitCode.OUTPUT_CLOSED, "")


async def test_a_full_disk_is_told():
    async with scripted_server(one_utterance) as url:
        result = await run(url, output=BrokenOutput(OSError(28, "No space left on device")))
    assert result.code == ExitCode.OUTPUT
    assert "No space left" in result.messages


async def command(*arguments, **options):
    """Runs the real command in a process of its own."""
    with trio.fail_after(20):
        return await trio.run_process(
            [sys.executable, "-m", "trio_stt", "transcribe", *arguments],
            capture_stdout="stdout" not in options,
            capture_stderr=True,
            check=False,
            **options,
        )


async def test_the_command_streams_standard_input_and_keeps_standard_output_for_results():
    async with scripted_server(one_utterance) as url:
        result = await command("-", "--raw", "16000", "--client", "me", "--server", url, stdin=FRAME.tobytes() * 10)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello there\n", b"")


async def test_the_command_dies_quietly_when_its_reader_goes_away():
    reading, writing = os.pipe()
    os.close(reading)
    async with scripted_server(one_utterance) as url:
        result = await command(
            "-", "--raw", "16000", "--client", "me", "--server", url, stdin=FRAME.tobytes(), stdout=writing
        )
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


async def test_ctrl_c_ends_the_command_although_standard_input_goes_on():
    heard = trio.Event()

    async def script(peer):
        await peer.send(READY)
        await peer.receive()
        heard.set()
        await peer.receive_until_eof()
        await peer.send(transcript("hello there"))
        await peer.close()

    async with scripted_server(script) as url, trio.open_nursery() as nursery:
        arguments = [
            sys.executable,
            "-m",
            "trio_stt",
            "transcribe",
            "-",
            "--raw",
            "16000",
            "--client",
            "me",
            "--server",
            url,
        ]
        process = await trio.lowlevel.open_process(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        nursery.start_soon(process.stdin.send_all, FRAME.tobytes() * 5)
        with trio.fail_after(10):
            await heard.wait()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        async with process.stdin, process.stdout, process.stderr:
            assert await process.stdout.receive_some() == b"hello there\n"
            assert await process.stderr.receive_some() == b""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Nothing to transcribe"),
        (("a.wav", "--mic"), "not both"),
        (("-", "-"), "only once"),
        (("a.wav", "--raw", "16000"), "standard input"),
        (("a.wav", "--words"), "--format json"),
        (("a.wav", "--server", "http://x"), "ws://HOST:PORT"),
    ],
)
def test_wrong_options_are_refused_with_what_to_do(arguments, expected):
    from click.testing import CliRunner

    from trio_stt.transcribe.command import transcribe

    result = CliRunner().invoke(transcribe, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert expected in result.output
