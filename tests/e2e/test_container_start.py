"""The command of the image, as the image runs it: by an ordinary user without a home, who may write to two folders."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tokens import KEYS, token
from trio_stt.bench.speech import load_speech
from trio_stt.drill.free_ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

NOBODY = 65534

CAP_DAC_READ_SEARCH = 2


def as_an_ordinary_user() -> list[str]:
    """What comes before the command, for root; who is not root is an ordinary user already.

    Where we may hand that on, nobody may read everything, wherever this folder lies, and write only what is theirs.
    """
    if os.getuid() != 0:
        return []
    handed_on = int(status_of(os.getpid())["CapPrm"], 16) & 1 << CAP_DAC_READ_SEARCH
    capabilities = "-all,+dac_read_search" if handed_on else "-all"
    return [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--no-new-privs",
        f"--inh-caps={capabilities}",
        f"--ambient-caps={capabilities}",
    ]


def instruction(name: str) -> list[str]:
    """The arguments of the Dockerfile's last instruction of that name, in exec form."""
    found = re.findall(rf"^\s*{name} (?:.*\\\n\s*CMD )?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(found[-1])


def python(command: list[str]) -> list[str]:
    """With this environment's Python, where the image has its own."""
    assert command[0] in ("python", "python3")
    return [sys.executable, *command[1:]]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """What the image has in its working folder; nobody may write there."""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "trio_stt", tree / "trio_stt", ignore=shutil.ignore_patterns("__pycache__"))
    everything = [tree, *tree.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tree
    for path in everything:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def writable(tmp_path: Path) -> dict[str, Path]:
    """The two folders that are mounted in a container: by the variables that lead to them."""
    folders = {"TMPDIR": tmp_path / "tmp", "CACHE_DIR": tmp_path / "cache"}
    for folder in folders.values():
        folder.mkdir()
        if os.getuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
    return folders


def test_the_image_s_command_serves_and_drains(model: Path, tree: Path, writable: dict[str, Path]):
    port = str(free_ports())
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "VOSK_MODEL_PATH": str(model.resolve()),
        "SERVER_PORT": port,
        "AUTH_KEYS": KEYS,
        **{name: str(folder) for name, folder in writable.items()},
    }
    command = as_an_ordinary_user() + python(instruction("ENTRYPOINT") + instruction("CMD"))
    check = python(instruction("HEALTHCHECK"))
    with subprocess.Popen(command, cwd=tree, env=environment, stderr=subprocess.PIPE, text=True) as server:
        log = []
        assert server.stderr is not None
        for line in server.stderr:
            log.append(line)
            if '"calibrated"' in line:  # after "ready": what it found out is kept
                break
        assert subprocess.run(check, env=environment).returncode == 0
        assert status_of(server.pid)["Uid"].split()[0] == str(NOBODY if os.getuid() == 0 else os.getuid())
        assert "disposed young man" in words_heard(f"ws://127.0.0.1:{port}")
        server.send_signal(signal.SIGTERM)
        log += server.stderr.readlines()
        assert server.wait() == 0
    assert subprocess.run(check, env=environment, stderr=subprocess.DEVNULL).returncode != 0

    events = [json.loads(line) for line in log]  # nothing else was written, no library's complaint
    assert [event for event in events if event["level"] not in ("info", "debug")] == []
    assert {path.name.split("-")[0] for path in writable["CACHE_DIR"].iterdir()} == {"model"}
    assert list(writable["TMPDIR"].iterdir()) == []


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def words_heard(url: str) -> str:
    clip = next(clip for clip in load_speech() if "0880" in clip.name)
    command = [sys.executable, "-m", "trio_stt", "transcribe", "--server", url, "--raw", "16000", "-"]
    environment = {**os.environ, "ACCESS_TOKEN": token()}
    heard = subprocess.run(command, input=clip.samples.tobytes(), env=environment, stdout=subprocess.PIPE, check=True)
    return heard.stdout.decode()
