"""`trio-stt transcribe` as people run it: real files, the real server and model, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import srt
import trio

from tests.e2e.conftest import server_process
from tests.tokens import KEYS, token
from trio_stt.bench.server_process import start_server
from trio_stt.bench.speech import load_speech
from trio_stt.bench.word_errors import total, word_errors
from trio_stt.drill.free_ports import free_ports
from trio_stt.recognition.vosk_engine import VoskEngine
from trio_stt.settings import Settings

REPOSITORY = Path(__file__).parents[2]
ROOTS = (Path("/"), REPOSITORY / ".cache/pocketsphinx-testdata")
SPEECH = next(root / "usr/share/pocketsphinx/test/data" for root in ROOTS if (root / "usr/share/pocketsphinx").exists())
FILES = [*sorted((SPEECH / "librivox").glob("*.wav")), *sorted((SPEECH / "cards").glob("*.wav"))]
SENTENCE = SPEECH / "librivox/sense_and_sensibility_01_austen_64kb-0870.wav"


@pytest.fixture(scope="module")
def model() -> Path:
    """An installed English model: TRIO_STT_TEST_MODEL, else the repository's own."""
    return Path(os.environ.get("TRIO_STT_TEST_MODEL") or REPOSITORY / Settings().model_path).resolve()


@pytest.fixture
def environment(model: Path) -> dict[str, str]:
    return {**os.environ, "VOSK_MODEL_PATH": str(model)}


async def transcribe(environment: dict[str, str], *arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "trio_stt", "transcribe", *map(str, arguments)]
    with trio.fail_after(120):
        return await trio.run_process(
            command, env=environment, capture_stdout=True, capture_stderr=True, check=False, **options
        )


async def test_ten_recordings_are_recognised_as_well_as_by_the_raw_engine(model, environment):
    clips = {clip.name: clip for clip in load_speech(SPEECH)}
    result = await transcribe(environment, "--format", "json", *FILES)
    assert result.returncode == 0, result.stderr
    heard: dict[str, list[str]] = {name: [] for name in clips}
    for line in result.stdout.splitlines():
        final = json.loads(line)
        assert final["is_final"]
        heard[Path(final["source"]).stem] += final["text"].split()
    through_server = total(word_errors(clip.words, heard[name]) for name, clip in clips.items())

    engine = VoskEngine(model, recogniser_memory_mb=1000)
    alone = []
    for clip in clips.values():
        recogniser = engine.open()
        recogniser.accept(clip.samples)
        alone.append(word_errors(clip.words, [word.text for word in recogniser.finish()]))
    assert through_server.words == 92
    assert through_server.errors <= 8
    assert through_server.errors <= total(alone).errors + 2


async def test_subtitles_of_a_real_sentence_can_be_read_and_stand_within_the_file(environment):
    result = await transcribe(environment, "--format", "srt", SENTENCE)
    cues = list(srt.parse(result.stdout.decode()))
    assert result.stderr == b""
    text = " ".join(cue.content.replace("\n", " ") for cue in cues)
    assert "mister john dashwood had then leisure" in text
    assert all(len(line) <= 42 for cue in cues for line in cue.content.splitlines())
    assert 0 < cues[0].start.total_seconds() < cues[-1].end.total_seconds() < 7.2


async def test_standard_input_goes_to_a_server_that_runs_already(model):
    async with start_server({"VOSK_MODEL_PATH": str(model)}) as server:
        result = await transcribe(dict(os.environ), "-", "--server", server.url, stdin=SENTENCE.read_bytes())
    assert result.returncode == 0, result.stderr
    assert b"leisure to consider" in result.stdout


async def test_a_server_that_is_killed_in_the_middle_of_a_file_costs_no_word(model, tmp_path):
    clips = load_speech(SPEECH)
    file = tmp_path / "talk.wav"
    with wave.open(str(file), "wb") as talk:
        talk.setparams((1, 2, 16000, 0, "NONE", None))
        talk.writeframes(np.concatenate([clip.samples for clip in clips]).tobytes())
    port = free_ports()
    settings = {"VOSK_MODEL_PATH": str(model), "SERVER_PORT": str(port), "DECODE_COST": "0.03"}
    options = ("--server", f"ws://127.0.0.1:{port}", "--format", "json", file)
    with server_process(**settings) as server:
        await trio.to_thread.run_sync(server.wait_for, "ready", 120)
        undisturbed = await transcribe(dict(os.environ), *options)

    command = [sys.executable, "-m", "trio_stt", "transcribe", *map(str, options)]
    written = b""
    with trio.fail_after(240), server_process(**settings) as first:
        await trio.to_thread.run_sync(first.wait_for, "ready", 120)
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while written.count(b"\n") < 3:
            written += await process.stdout.receive_some()
        first.signal(signal.SIGKILL)
        await trio.to_thread.run_sync(first.ended)
        with server_process(**settings) as second:
            await trio.to_thread.run_sync(second.wait_for, "ready", 120)
            async for data in process.stdout:
                written += data
            assert await process.wait() == 0
    messages = b"".join([data async for data in process.stderr])
    assert b"Connected again after" in messages
    finals = [json.loads(line) for line in written.splitlines()]
    assert all(final["is_final"] for final in finals)
    assert all(before["end"] <= after["start"] for before, after in pairwise(finals))
    expected = " ".join(json.loads(line)["text"] for line in undisturbed.stdout.splitlines()).split()
    heard = " ".join(final["text"] for final in finals).split()
    assert len(expected) > 80
    # Kaldi's dither makes single words others from run to run; a lost or doubled utterance would be far more.
    assert word_errors(expected, heard).rate <= 0.05


async def test_a_token_names_the_client_and_the_call_and_without_one_the_reason_is_told(model):
    environment = {"VOSK_MODEL_PATH": str(model), "AUTH_MODE": "required", "AUTH_KEYS": KEYS}
    shown = token(sub="ann", session="call-1")
    async with start_server(environment) as server:
        result = await transcribe({**os.environ, "ACCESS_TOKEN": shown}, SENTENCE, "--server", server.url)
        assert result.returncode == 0, result.stderr
        assert b"leisure to consider" in result.stdout
        arguments = (SENTENCE, "--server", server.url, "--token", shown, "--session", "call-2")
        result = await transcribe(dict(os.environ), *arguments)
        assert (result.returncode, b"not for this session" in result.stderr) == (4, True)
        assert shown.encode() not in result.stderr
        result = await transcribe(dict(os.environ), SENTENCE, "--server", server.url)
        assert (result.returncode, b"access token is needed" in result.stderr) == (4, True)


async def test_ctrl_c_in_the_middle_of_a_sentence_keeps_its_words(environment):
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "trio_stt", "transcribe", "--realtime", "--format", "vtt", str(SENTENCE)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with trio.fail_after(120):
        written = await process.stdout.receive_some()  # the head: the server is there
        await trio.sleep(5)
        process.send_signal(signal.SIGINT)
        written += b"".join([data async for data in process.stdout])
        assert await process.wait() == 130
    text = " ".join(line for line in written.decode().splitlines() if line and "-->" not in line)
    assert text.startswith("WEBVTT and mister john")
    assert "for them" not in text
    await process.stdout.aclose()
    await process.stderr.aclose()


async def test_a_missing_model_says_which_command_installs_it(environment, tmp_path):
    result = await transcribe({**environment, "VOSK_MODEL_PATH": str(tmp_path)}, SENTENCE)
    assert result.returncode == 4
    assert b"trio-stt models install en" in result.stderr
    assert b"Traceback" not in result.stderr
