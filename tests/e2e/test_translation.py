"""An English speaker and a Portuguese listener: real server, real model, real speech, the embedded translator."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import srt
import trio

from tests.e2e.test_transcribe import SENTENCE

COMMAND = [sys.executable, "-m", "trio_stt", "transcribe"]


@pytest.fixture
def environment(model: Path) -> dict[str, str]:
    return {**os.environ, "VOSK_MODEL_PATH": str(model.resolve())}


async def transcribe(environment: dict[str, str], *arguments: object, **options: object) -> subprocess.CompletedProcess:
    with trio.fail_after(120):
        return await trio.run_process(
            [*COMMAND, *map(str, arguments)], env=environment, capture_stdout=True, capture_stderr=True, **options
        )


async def test_a_listener_s_terminal_shows_a_call_with_its_translation(server, environment):
    listen = [*COMMAND, "--server", server, "--session", "call", "--client", "bia", "--translate", "pt"]
    process = await trio.lowlevel.open_process(listen, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with httpx.AsyncClient(base_url=server.replace("ws:", "http:")) as client:
        with trio.fail_after(30):
            while not (await client.get("/ws/stats")).json()["active_clients_info"]:
                await trio.sleep(0.1)
    spoken = await transcribe(
        environment, "--server", server, "--session", "call", "--client", "john", "--format", "json", SENTENCE
    )
    text = json.loads(spoken.stdout.splitlines()[0])["text"]
    shown = b""
    with trio.fail_after(60):
        while b"[pt]" not in shown or not shown.endswith(b"\n"):
            shown += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    said, translated = shown.decode().splitlines()[:2]
    assert said == f"john: {text}"
    assert translated.startswith("[pt] ")
    assert "tinha" in translated.lower()
    await process.stdout.aclose()
    await process.stderr.aclose()


async def test_a_recording_becomes_subtitles_in_two_languages(environment, tmp_path):
    result = await transcribe(
        environment, "--format", "srt", "--translate", "pt", "--save", tmp_path / "talk", SENTENCE, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == b""
    english, portuguese = (list(srt.parse((tmp_path / f"talk.{tag}.srt").read_text("utf-8"))) for tag in ("en", "pt"))
    assert "john dashwood" in " ".join(each.content for each in english).replace("\n", " ")
    assert "tinha" in " ".join(each.content for each in portuguese).lower()
    assert english[0].start.total_seconds() == pytest.approx(portuguese[0].start.total_seconds(), abs=0.5)


async def test_json_has_the_translations_beside_the_text(environment):
    result = await transcribe(environment, "--format", "json", "--translate", "pt-BR", SENTENCE)
    finals = [json.loads(line) for line in result.stdout.splitlines()]
    assert finals
    assert all(final["translations"].keys() == {"pt-BR"} for final in finals)


async def test_a_language_that_cannot_be_had_is_said(environment):
    result = await transcribe(environment, "--translate", "vi", SENTENCE, check=False)
    assert result.returncode == 4
    assert b"trio-stt models install en-vi" in result.stderr
