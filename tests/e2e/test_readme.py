"""The README's own lines, as they stand there, against the real server with the real model."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_stt.bench.speech import TEST_DATA, TEST_DATA_ROOTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
RECORDING = "librivox/sense_and_sensibility_01_austen_64kb-0870.wav"
HEARD = ("mister john dashwood had then leisure to consider how much", "to do for them")
"""What the model hears in it beyond doubt; between these it errs on a word or two."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """HOST:PORT of a server on a free port; it must end cleanly when asked to."""
    environment = {
        **os.environ,
        "AUTH_MODE": "off",
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": "0",
        "LOG_FORMAT": "json",
    }
    if "TRIO_STT_TEST_MODEL" in os.environ:
        environment["VOSK_MODEL_PATH"] = os.environ["TRIO_STT_TEST_MODEL"]
    command = [sys.executable, "-m", "trio_stt", "serve"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            log = []
            for line in server.stderr:
                log.append(line)
                if json.loads(line)["event"] == "ready":
                    break
            assert server.poll() is None, "".join(log)
            yield json.loads(log[-1])["url"].removeprefix("http://")
        finally:
            server.terminate()
            server.communicate()
    assert server.returncode == 0


@pytest.fixture(scope="module")
def recording() -> Path:
    return next(path for root in TEST_DATA_ROOTS if (path := ROOT / root / TEST_DATA / RECORDING).exists())


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_client_prints_the_words_of_a_recording(address: str, recording: Path) -> None:
    (client,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    said = _run([sys.executable, "-c", client.replace("127.0.0.1:8000", address), str(recording)])
    assert all(words in " ".join(said.split()) for words in HEARD), said


def test_the_transcribe_command_prints_the_words_of_a_recording(address: str, recording: Path) -> None:
    (line,) = re.findall(r"^(\.venv/bin/trio-stt transcribe --server .*\\\n.*)$", README, re.MULTILINE)
    command, *arguments, file = shlex.split(line.replace("\\\n", " ").replace("127.0.0.1:8000", address))
    assert file == f"/{TEST_DATA}/{RECORDING}"
    said = _run([str(Path(sys.executable).parent / Path(command).name), *arguments, str(recording)])
    assert all(words in " ".join(said.split()) for words in HEARD), said
