"""What a fleet's processes become, and what they do where there is nothing to become."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trio_stt.fleet.folder import Folder
from trio_stt.fleet.processes import redis_command


def test_redis_listens_on_a_socket_alone_and_keeps_nothing(tmp_path: Path) -> None:
    command = redis_command(Path("redis-server"), Folder(tmp_path))
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--port"] == "0"
    assert options["--unixsocket"] == str(tmp_path / "redis.sock")
    assert (options["--save"], options["--appendonly"]) == ("", "no")


@pytest.mark.parametrize(
    ("livekit_url", "said"), [("", "LIVEKIT_URL is not set"), ("ws://127.0.0.1:1", "setup.sh --agent")]
)
def test_without_livekit_or_its_packages_the_agents_line_waits_for_the_signal(tmp_path, livekit_url, said) -> None:
    environment = {
        **os.environ,
        "FLEET_DIR": str(tmp_path / "f"),
        "LIVEKIT_URL": livekit_url,
        "PYTHONPATH": str(tmp_path),
    }
    # Where the packages are, they are hidden by what can be found of them here.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['livekit'] = None")
    command = [sys.executable, "-m", "trio_stt", "fleet", "agent"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert said in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_where_redis_is_elsewhere_its_line_waits_for_the_signal(tmp_path: Path) -> None:
    environment = {**os.environ, "FLEET_DIR": str(tmp_path / "f"), "REDIS_URL": "redis://127.0.0.1:1"}
    command = [sys.executable, "-m", "trio_stt", "fleet", "redis"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "REDIS_URL is set" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
