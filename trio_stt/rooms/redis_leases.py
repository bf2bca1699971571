"""What agents and servers know together, in Redis: see `trio_stt.rooms.leases.Leases` for what its methods promise.

On Trio and on asyncio alike. One connection, whose loss is one event: what was asked then is `AwayError`, and so is all
that is asked until another connection works.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskStatus
from coredis.connection import BaseConnection
from coredis.exceptions import RedisError

from trio_stt.redis_address import read_redis_url
from trio_stt.rooms import redis_scripts as scripts
from trio_stt.rooms.leases import (
    LEASE_S,
    ORPHANED_S,
    AgentRecord,
    AwayError,
    Held,
    Kept,
    Lease,
    Leases,
    RoomSeen,
    read_record,
    read_stored,
)
from trio_stt.sessions.redis_connection import LOST, open_connection, reason_of, release

ANSWER_S: Final = 1.0
"""The longest that Redis may take to answer; nobody's captions wait for it."""

CONNECT_S: Final = 1.0

FIRST_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 1.0
"""Between attempts to connect; the waits double from the first to the longest, with a quarter of jitter."""

BEAT_EVERY_S: Final = 1.0
"""How often a connection is asked whether it is still there."""

logging.getLogger("coredis").setLevel(logging.CRITICAL)  # a stack for each attempt to connect; we say it in a line

_SHAS: Final = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode() for script in scripts.ALL
}


class RedisLeases(Leases):
    """One end. Call `run` in a task; until then nobody can be asked."""

    def __init__(self, url: str, *, lease_s: float = LEASE_S, orphaned_s: float = ORPHANED_S) -> None:
        """`url`: as in REDIS_URL. Raises ValueError if it is none."""
        self._address = read_redis_url(url)
        self._lease_ms = round(lease_s * 1000)
        self._orphaned_ms = round(orphaned_s * 1000)
        self._connection: BaseConnection | None = None
        self._came_up = anyio.Event()
        self._log = structlog.get_logger()

    @property
    def up(self) -> bool:
        """Whether anybody can be asked."""
        return self._connection is not None

    async def wait_up(self) -> None:
        """Returns when somebody can be asked. May be cancelled."""
        while not self.up:
            await self._came_up.wait()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keeps a connection, until cancelled."""
        task_status.started()
        wait_s, said = FIRST_RETRY_S, False
        while True:
            came_up, reason = self._came_up, "closed"
            try:
                async with anyio.create_task_group() as tasks:
                    await self._use_connection(tasks)
            except* (RedisError, *LOST) as errors:
                reason = reason_of(errors)
            finally:
                self._connection = None
            if came_up.is_set():
                wait_s, said = FIRST_RETRY_S, False
            if not said:
                self._log.warning("rooms_redis_down", reason=reason)
                said = True
            await anyio.sleep(wait_s * (1 + random.random() / 4))
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _use_connection(self, tasks: anyio.abc.TaskGroup) -> None:
        """Connects and serves until the connection is lost, which it raises."""
        with anyio.fail_after(CONNECT_S):
            connection = open_connection(self._address, CONNECT_S)
            try:
                await tasks.start(connection.run)
            except BaseException:
                release(connection)
                raise
            for script in scripts.ALL:
                await connection.create_request(b"SCRIPT LOAD", script)
        self._connection = connection
        self._log.info("rooms_redis_up")
        self._came_up.set()
        self._came_up = anyio.Event()
        while True:
            await connection.create_request(b"PING", timeout=ANSWER_S)
            await anyio.sleep(BEAT_EVERY_S)

    async def _call(self, script: str, keys: Sequence[str], *arguments: str | int) -> Any:
        connection = self._connection
        if connection is None:
            raise AwayError("there is no connection to Redis")
        sent = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
        try:
            return await connection.create_request(b"EVALSHA", _SHAS[script], len(keys), *keys, *sent, timeout=ANSWER_S)
        except (RedisError, *LOST) as error:
            # Also what Redis refuses, because it is full, or a replica, or has lost our scripts: it may be different on
            # another connection, and until then others are not asked in vain.
            connection.invalidate("it does not do what it should")
            if self._connection is connection:
                self._connection = None
            raise AwayError(reason_of(error)) from error

    async def claim(self, lease: Lease, *, orphaned: bool = False) -> Lease | Held | None:
        """See `Leases`."""
        room = lease.wanted.room_name
        arguments = (room, lease.holder, lease.wanted.as_json(), self._lease_ms, int(orphaned))
        outcome, holder, request = await self._call(scripts.CLAIM, scripts.ROOM_KEYS, *arguments)
        if outcome == b"held":
            return Held(holder.decode().partition(" ")[0], read_stored(room, request))
        if outcome == b"unwanted":
            return None
        return Lease(read_stored(room, request), lease.agent_id, lease.token)

    async def renew(self, leases: Sequence[Lease]) -> Mapping[str, Kept]:
        """See `Leases`."""
        if not leases:
            return {}
        each: list[str] = []
        for lease in leases:
            each += [lease.wanted.room_name, lease.holder, lease.wanted.as_json()]
        answers = await self._call(scripts.RENEW, scripts.ROOM_KEYS, self._lease_ms, *each)
        return {lease.wanted.room_name: Kept(answer.decode()) for lease, answer in zip(leases, answers, strict=True)}

    async def release(self, lease: Lease, *, wanted: bool) -> None:
        """See `Leases`."""
        await self._call(scripts.RELEASE, scripts.ROOM_KEYS, lease.wanted.room_name, lease.holder, int(wanted))

    async def orphans(self, most: int) -> Sequence[str]:
        """See `Leases`."""
        found = await self._call(scripts.ORPHANS, scripts.ROOM_KEYS, most, self._orphaned_ms)
        return [room.decode() for room in found]

    async def cancel(self, room_name: str) -> bool:
        """See `Leases`."""
        return bool(await self._call(scripts.CANCEL, scripts.ROOM_KEYS, room_name))

    async def look(self, room_name: str) -> RoomSeen:
        """See `Leases`."""
        found = await self._call(scripts.LOOK, (*scripts.ROOM_KEYS, scripts.AGENT_KEYS[1]), room_name)
        if not found:
            return RoomSeen(None)
        agent, request, about = found
        record = read_record(about)
        return RoomSeen(Held(agent.decode(), read_stored(room_name, request)), record.url if record else "")

    async def announce(self, record: AgentRecord) -> None:
        """See `Leases`."""
        await self._call(scripts.ANNOUNCE, scripts.AGENT_KEYS, record.agent_id, record.as_json(), self._lease_ms)

    async def withdraw(self, agent_id: str) -> None:
        """See `Leases`."""
        with suppress(AwayError):  # then what it said of itself expires
            await self._call(scripts.WITHDRAW, scripts.AGENT_KEYS, agent_id)

    async def agents(self) -> Sequence[AgentRecord]:
        """See `Leases`."""
        found = await self._call(scripts.AGENTS, scripts.AGENT_KEYS)
        return [record for text in found if (record := read_record(text)) is not None]
