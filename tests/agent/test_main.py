"""`python -m agent`: what it says when it cannot start, and its end at a signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from agent.settings import agent_settings
from agent.tokens import room_token
from trio_stt.drill.free_ports import free_ports
from trio_stt.settings import load

ROOT = Path(__file__).resolve().parents[2]
LIVEKIT = {
    "LIVEKIT_URL": "ws://127.0.0.1:9",
    "LIVEKIT_API_KEY": "devkey",
    "LIVEKIT_API_SECRET": "a secret of LiveKit's that is long enough",
}


def agent(folder: Path, **environment: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    settings = {**kept, "PYTHONPATH": str(ROOT), "LOG_FORMAT": "json", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "agent"],
        cwd=folder,
        env=settings,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET must be set for the agent"),
        ({**LIVEKIT, "LIVEKIT_API_SECRET": ""}, "LIVEKIT_API_SECRET must be set for the agent"),
        ({**LIVEKIT, "LIVEKIT_URL": "ftp://livekit"}, "LIVEKIT_URL='ftp://livekit' (in the environment) is not"),
        ({**LIVEKIT, "AUTH_MODE": "off", "AGENT_HOST": "0.0.0.0"}, "AUTH_MODE"),
        ({**LIVEKIT, "AUTH_MODE": "off", "AGENT_HOST": "203.0.113.1"}, "AUTH_MODE"),
    ],
)
def test_what_is_missing_is_named_without_a_traceback(tmp_path, environment, said):
    output, errors = (process := agent(tmp_path, **environment)).communicate(timeout=120)
    assert process.returncode == 1
    assert said in errors
    assert "Traceback" not in errors
    assert output == ""


def test_a_port_that_is_taken_is_named(tmp_path):
    port = free_ports()
    environment = {**LIVEKIT, "AUTH_MODE": "off", "AGENT_PORT": str(port), "INSTANCE": "one"}
    first = agent(tmp_path, **environment)
    try:
        assert first.stderr is not None
        while "agent_ready" not in (line := first.stderr.readline()):
            assert line, "it ended"
        second = agent(tmp_path, **environment)
        assert f"Cannot listen on 127.0.0.1:{port}" in second.communicate(timeout=120)[1]
        assert second.returncode == 1
        first.send_signal(signal.SIGTERM)
        errors = first.communicate(timeout=120)[1]
        assert first.returncode == 0
        assert "agent_stopped" in errors
    finally:
        first.kill()
        first.communicate()


def test_its_token_is_for_one_room_and_short():
    settings = agent_settings(load({**LIVEKIT, "AGENT_NAME": "scribe"}, Path("no such file")))
    claims = jwt.decode(room_token(settings, "Team meeting/1"), LIVEKIT["LIVEKIT_API_SECRET"], algorithms=["HS256"])
    assert (claims["iss"], claims["sub"], claims["kind"]) == ("devkey", "scribe", "agent")
    assert claims["video"] == {
        "roomJoin": True,
        "room": "Team meeting/1",
        "canPublish": True,
        "canSubscribe": True,
        "canPublishData": True,
        "agent": True,
    }
    assert claims["exp"] - claims["nbf"] <= 700


def test_nothing_of_a_secret_is_shown():
    settings = agent_settings(load(LIVEKIT, Path("no such file")))
    assert LIVEKIT["LIVEKIT_API_SECRET"] not in repr(settings)
