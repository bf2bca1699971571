"""LiveKit's real server, our real server with the real model, and an agent, shared by a module's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import cache, server_process
from tests.livekit.agents import agent_process
from tests.livekit.livekit_server import livekit_server

__all__ = ["cache"]


@pytest.fixture(scope="module")
def livekit() -> Iterator[str]:
    """ws:// address of a livekit-server."""
    with livekit_server() as server:
        yield server.url


@pytest.fixture(scope="module")
def stt(model: Path) -> Iterator[str]:
    """ws:// address of the server."""
    with server_process(VOSK_MODEL_PATH=str(model)) as process:
        yield process.wait_for("ready", 60)["url"].replace("http:", "ws:")
        process.signal()
        assert process.ended() == 0


@pytest.fixture(scope="module")
def agent(livekit: str, stt: str) -> Iterator[str]:
    """http:// address of an agent."""
    with agent_process(livekit, stt) as (url, process):
        yield url
        process.signal()
        assert process.ended() == 0
