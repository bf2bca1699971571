"""What instances say of themselves: ``/health`` of each, asked at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
import trio

from trio_stt.fleet.autoscale import Use

TIMEOUT_S = 2.0


async def ask_all(ports: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The answers by port; those that gave none within `TIMEOUT_S` are missing. May be cancelled."""
    answers: dict[int, dict[str, Any]] = {}
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as client, trio.open_nursery() as nursery:

        async def ask(port: int) -> None:
            try:
                body = (await client.get(f"http://127.0.0.1:{port}/health")).json()
            except (httpx.HTTPError, ValueError):
                return
            if isinstance(body, dict):
                answers[port] = body

        for port in ports:
            nursery.start_soon(ask, port)
    return answers


def use_of(health: dict[str, Any]) -> Use:
    """How much of an instance is used, by its answer."""
    capacity = health["capacity"]
    return Use(capacity["streams"], capacity["limit"])
