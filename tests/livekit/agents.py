"""Agents as processes, and what they are asked."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.e2e.conftest import ServerProcess, server_process
from tests.livekit_tokens import API_KEY, API_SECRET
from trio_stt.drill.free_ports import free_ports


@contextmanager
def agent_process(livekit_url: str, stt_url: str, **environment: str) -> Iterator[tuple[str, ServerProcess]]:
    """`python -m agent`, which believes everybody, and its address."""
    settings = {
        "LIVEKIT_URL": livekit_url,
        "LIVEKIT_API_KEY": API_KEY,
        "LIVEKIT_API_SECRET": API_SECRET,
        "STT_URL": stt_url,
        "AGENT_PORT": str(free_ports()),
        "AGENT_EMPTY_ROOM_S": "2",
        **environment,
    }
    with server_process(("agent",), **settings) as process:
        process.wait_for("agent_ready", 60)
        yield f"http://127.0.0.1:{settings['AGENT_PORT']}", process


def send_agent(agent: str, room_name: str, **wanted: object) -> str:
    """What becomes of it."""
    answer = httpx.post(f"{agent}/rooms", json={"room_name": room_name, **wanted}, trust_env=False, timeout=30)
    return answer.json()["result"]


def rooms_of(agent: str) -> dict:
    return httpx.get(f"{agent}/rooms", trust_env=False, timeout=30).json()
