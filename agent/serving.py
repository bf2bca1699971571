"""The agent's process: its address, its rooms, its end at a signal."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import structlog
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config, Sockets

from agent.http import AgentParts, Speak, agent_app
from agent.metrics import AgentMetrics
from agent.pool import Pool, RoomWorker
from trio_stt.gateway.keys import check_access, keys_of
from trio_stt.rooms.access import RoomAccess
from trio_stt.rooms.leases import LEASE_S, RENEW_EVERY_S, Leases, MemoryLeases
from trio_stt.rooms.passes import Passes
from trio_stt.rooms.redis_leases import RedisLeases
from trio_stt.rooms.wanted import WantedRoom
from trio_stt.settings import Settings

GRACE_S: Final = 1.0
"""At the end: for answers that are still on their way."""

REDIS_START_S: Final = 2.0
"""The longest that a start waits for Redis."""


class AddressError(OSError):
    """The address cannot be listened on. The message says what to do."""


async def serve_agent(
    settings: Settings,
    make_room: Callable[[WantedRoom], RoomWorker],
    *,
    stop: asyncio.Event,
    speak: Speak | None = None,
    lease_s: float = LEASE_S,
    renew_every_s: float = RENEW_EVERY_S,
    on_ready: Callable[[str, Pool], None] = lambda url, pool: None,
) -> None:
    """Serves until `stop` is set, then hands its rooms on and leaves them, within `drain_timeout_s`.

    `make_room`: a new life in a room, which does nothing until it is run; `speak`: None: it has no voice; `lease_s` and
    `renew_every_s`: for tests; `on_ready`: told the URL at which it is reached. Raises `AddressError`, or `AccessError`
    where AUTH_MODE does not fit the rest. If cancelled, rooms are left to expire.
    """
    as_a_server = attrs.evolve(settings, server_host=settings.agent_host)  # type: ignore[misc]  # as in settings.py
    check_access(as_a_server, keys_of(settings))
    log = structlog.get_logger()
    with _listen(settings) as listener:
        url = settings.agent_own_url.rstrip("/") or _url_of(listener)
        # Ids stand before a space in Redis, and two agents must not have the same.
        agent_id = f"{''.join(settings.instance.split())}-{secrets.token_hex(3)}"
        leases: Leases = RedisLeases(settings.redis_url, lease_s=lease_s) if settings.redis_url else MemoryLeases()
        pool = Pool(
            agent_id,
            url,
            leases,
            make_room,
            most_rooms=settings.agent_max_rooms,
            most_tracks=settings.agent_max_tracks,
            renew_every_s=renew_every_s,
        )
        passes = Passes.of(settings) if settings.auth_mode == "required" else None
        access = RoomAccess.of(settings)
        app = agent_app(AgentParts(pool, leases, access, passes, speak, AgentMetrics(pool)))
        background = [asyncio.create_task(leases.run())] if isinstance(leases, RedisLeases) else []
        if isinstance(leases, RedisLeases):
            with suppress(TimeoutError):
                async with asyncio.timeout(REDIS_START_S):
                    await leases.wait_up()
        background.append(asyncio.create_task(pool.run()))
        ended = asyncio.Event()
        serving = asyncio.create_task(
            worker_serve(
                ASGIWrapper(app),
                _configuration(),
                sockets=Sockets([], [listener], []),
                shutdown_trigger=ended.wait,
            )
        )
        background.append(serving)
        try:
            # What exists now stays for good: the collector, which is called for each room, need not walk through it.
            gc.collect()
            gc.freeze()
            log.info("agent_ready", url=url, agent=agent_id)
            on_ready(url, pool)
            await _first_of(stop, background)
            await pool.drain(settings.drain_timeout_s)
            ended.set()
            await asyncio.wait([serving], timeout=GRACE_S)
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            log.info("agent_stopped", agent=agent_id)


async def serve_until_signal(
    settings: Settings, make_room: Callable[[WantedRoom], RoomWorker], speak: Speak | None = None
) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl-C); a second one ends the drain. Raises as `serve_agent`."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    serving = asyncio.create_task(serve_agent(settings, make_room, stop=stop, speak=speak))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait([serving, hurrying], return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not serving.done():
        serving.cancel()
        await asyncio.wait([serving])
    elif (error := serving.exception()) is not None:
        raise error


async def _first_of(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Returns when `stop` is set; raises what ends one of the tasks before that."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for task in done - {stopping}:
        task.result()


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.agent_host, settings.agent_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise AddressError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. "
            "Is another agent running? AGENT_HOST and AGENT_PORT choose the address."
        ) from error


def _url_of(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _configuration() -> Config:
    config = Config()
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = GRACE_S / 2
    return config
