# ruff: noqa: D102  (the protocol says what each method promises)
"""The result bus on Redis: see `trio_stt.sessions.bus.Bus` for what its methods promise.

Everything goes over one connection, whose loss is one event: what was asked ends `DOWN`, and so does all that is asked
until another connection works, stores a probe and has its channels again. Such a breaker needs no count of failures:
one request without an answer is enough, because local captions wait for it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import structlog
import trio
from attrs import evolve
from coredis.connection import BaseConnection, Location
from coredis.exceptions import ConnectionError as RedisConnectionError
from coredis.exceptions import RedisError
from coredis.pool import ConnectionPool

from trio_stt.dialects.events import Transcript, Translation
from trio_stt.sessions import redis_scripts as scripts
from trio_stt.sessions.bus import (
    KEPT_ENTRIES,
    PRESENCE_S,
    Bus,
    BusEvent,
    BusStatistics,
    Call,
    Down,
    Entry,
    Following,
    Here,
    Joined,
    Left,
    Outcome,
    Present,
    Published,
    Receive,
    StoredFinal,
    finals_of_stream,
    place_of,
)
from trio_stt.sessions.bus_messages import Message, decode, encode
from trio_stt.sessions.redis_scripts import PREFIX, Keys

ANSWER_S: Final = 0.25
"""The longest that Redis may take to answer; a resume has 300 ms for two requests, of which the first finds it down."""

READ_S: Final = 1.0
"""The same for reading all that is kept of a call, which nobody's captions wait for."""

CONNECT_S: Final = 1.0

FIRST_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 1.0
"""Between attempts to connect; the waits double from the first to the longest, with a quarter of jitter."""

BEAT_EVERY_S: Final = 1.0
"""How often an end sends itself a message: finds a connection that is dead but not closed, and measures the delay."""

_LOST_BY_SYSTEM: Final = (OSError, trio.TooSlowError, trio.ClosedResourceError, trio.BrokenResourceError)
_LOST: Final = (RedisError, *_LOST_BY_SYSTEM)

logging.getLogger("coredis").setLevel(logging.CRITICAL)  # a stack for each attempt to connect; we say it in a line


class _Script:
    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_PUBLISH_FINAL = _Script(scripts.PUBLISH_FINAL)
_PUBLISH_TRANSLATION = _Script(scripts.PUBLISH_TRANSLATION)
_RAISE_EPOCH = _Script(scripts.RAISE_EPOCH)
_ANNOUNCE = _Script(scripts.ANNOUNCE)
_REFRESH = _Script(scripts.REFRESH)
_DEPART = _Script(scripts.DEPART)
_PRESENT = _Script(scripts.PRESENT)


class RedisBus(Bus):
    """An end of a bus on Redis. Call `run` in a nursery; until then everything ends `DOWN`."""

    def __init__(self, url: str, *, ttl_s: float) -> None:
        """`url`: as in REDIS_URL; `ttl_s`: how long a call is kept after its last sign of life."""
        # The pool reads the URL; connections are made one after another.
        pool = cast(Any, ConnectionPool.from_url(url, connect_timeout=CONNECT_S))
        self._location: Location = pool.location
        self._make_connection: Callable[[], BaseConnection] = lambda: pool.connection_class(
            pool.location, **pool.connection_kwargs
        )
        self._ttl_ms = round(ttl_s * 1000)
        self._presence_ms = round(PRESENCE_S * 1000)
        self._origin = secrets.token_hex(8)
        self._beat_channel = f"{PREFIX}:beat:{self._origin}"
        self._connection: BaseConnection | None = None
        self._nursery: trio.Nursery | None = None
        self._generation = 0
        self._came_up = trio.Event()
        self._followed: dict[str, _Followed] = {}  # by channel
        self._delay_s = math.nan
        self._beat_heard = False
        self._log = structlog.get_logger()

    @property
    def up(self) -> bool:
        return self._connection is not None

    @property
    def generation(self) -> int:
        return self._generation

    def statistics(self) -> BusStatistics:
        return BusStatistics(self.up, self._generation, len(self._followed), self._delay_s)

    async def wait_up(self, after: int) -> int:
        await trio.lowlevel.checkpoint()
        while not self.up or self._generation <= after:
            await self._came_up.wait()
        return self._generation

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        wait_s, said = FIRST_RETRY_S, False
        while True:
            generation, reason = self._generation, "closed"
            try:
                async with trio.open_nursery() as nursery:
                    await self._use_connection(nursery)
            except* _LOST as errors:
                reason = repr(_first_leaf(errors))
            if self._generation > generation:
                wait_s, said = FIRST_RETRY_S, False
            if not said:
                self._log.warning("bus_down", reason=reason)
                said = True
            await trio.sleep(wait_s * (1 + random.random() / 4))
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _use_connection(self, nursery: trio.Nursery) -> None:
        """Connects and serves until the connection is lost, which it raises."""
        with trio.fail_after(CONNECT_S):
            # A connection of coredis that finds nobody leaves channels open: so we look first.
            if not await self._location.check():
                raise OSError("nobody answers there")
            connection = self._make_connection()
            await nursery.start(connection.run)
            # A Redis that cannot store (full, or a replica) answers pings: only what was stored counts.
            await connection.create_request(b"SET", f"{PREFIX}:probe:{self._origin}", b"1", b"PX", b"1000")
            for script in scripts.ALL:
                await connection.create_request(b"SCRIPT LOAD", script)
        self._connection, self._nursery = connection, nursery
        try:
            self._generation += 1
            self._log.info("bus_up", connected=self._generation)
            for followed in self._followed.values():
                connection.send_command(b"SUBSCRIBE", followed.keys.channel)
            connection.send_command(b"SUBSCRIBE", self._beat_channel)
            nursery.start_soon(self._beat, connection)
            self._came_up.set()
            self._came_up = trio.Event()
            async for push in connection.push_messages:
                self._take_push(cast(list[Any], push))
        finally:
            self._connection = self._nursery = None

    def _lose(self, connection: BaseConnection | None) -> None:
        """Gives up a connection that does not do what it should."""
        if connection is not None:
            connection.invalidate("no answer, or a bad one")
        if self._connection is connection:
            self._connection = None

    async def _beat(self, connection: BaseConnection) -> None:
        while True:
            self._beat_heard = False
            await self._ask(b"PUBLISH", self._beat_channel, repr(trio.current_time()))
            await trio.sleep(BEAT_EVERY_S)
            if not self._beat_heard:  # it answers, but our channels are dead
                self._lose(connection)

    async def _ask(self, command: bytes, *arguments: str | bytes | int, within_s: float = ANSWER_S) -> Any:
        """Redis' answer; `Outcome.DOWN` if there is none in time, or it is an error."""
        connection = self._connection
        if connection is None:
            await trio.lowlevel.checkpoint()
            return Outcome.DOWN
        try:
            return await connection.create_request(command, *arguments, timeout=within_s)
        except (RedisConnectionError, *_LOST_BY_SYSTEM, ReferenceError):  # the last: it went while it was asked
            self._lose(connection)
        except RedisError as error:
            # It answers, but does not do it: it is out of memory or read-only, or has lost our scripts.
            self._log.warning("bus_refused", command=command.decode(), error=type(error).__name__)
            self._lose(connection)
        return Outcome.DOWN

    async def _call(self, script: _Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return await self._ask(b"EVALSHA", script.sha, len(keys), *keys, *arguments)

    def _tell(self, command: bytes, *arguments: str | bytes | int) -> None:
        """Asks without waiting for the answer."""
        if self._connection is not None:
            try:
                self._connection.create_request(command, *arguments)
            except _LOST:
                self._lose(self._connection)

    # ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────

    async def take_epoch(self, call: Call, stream_id: str, known: int) -> int | Down:
        return await self._raise_epoch(call, stream_id, known, 1)

    async def claim_epoch(self, call: Call, stream_id: str, epoch: int) -> int | Down:
        return await self._raise_epoch(call, stream_id, epoch, 0)

    async def _raise_epoch(self, call: Call, stream_id: str, least: int, step: int) -> int | Down:
        answer = await self._call(_RAISE_EPOCH, [Keys.of(call).streams], stream_id, least, step, self._ttl_ms)
        return Outcome.DOWN if answer is Outcome.DOWN else int(answer)

    async def publish_final(self, call: Call, final: Transcript, *, epoch: int, follows: int) -> Published:
        keys = Keys.of(call)
        answer = await self._call(
            _PUBLISH_FINAL,
            [keys.entries, keys.segments, keys.streams],
            keys.channel,
            encode(StoredFinal(final, epoch, follows), self._origin),
            self._ttl_ms,
            KEPT_ENTRIES,
            final.stream_id,
            epoch,
            final.segment_id,
            final.start_sample,
            final.end_sample,
        )
        if answer is Outcome.DOWN:
            return Published(Outcome.DOWN)
        outcome, end_sample = answer
        return Published(Outcome(outcome.decode()), int(end_sample))

    async def publish_translation(self, call: Call, translation: Translation) -> Outcome:
        keys = Keys.of(call)
        answer = await self._call(
            _PUBLISH_TRANSLATION,
            [keys.entries, keys.segments, keys.streams],
            keys.channel,
            encode(translation, self._origin),
            self._ttl_ms,
            KEPT_ENTRIES,
            f"{translation.segment_id} {translation.language}",
        )
        return Outcome.DOWN if answer is Outcome.DOWN else Outcome(answer.decode())

    def publish_partial(self, call: Call, partial: Transcript) -> None:
        self._tell(b"PUBLISH", Keys.of(call).channel, b"- " + encode(partial, self._origin))

    async def stream_finals(self, call: Call, stream_id: str) -> tuple[StoredFinal, ...] | Down:
        entries = await self._read(call, None, ANSWER_S)
        if entries is Outcome.DOWN:
            return Outcome.DOWN
        return finals_of_stream([entry for entry, _ in entries], stream_id)

    async def read(self, call: Call, after: str | None) -> tuple[Entry, ...] | Down:
        entries = await self._read(call, after, READ_S)
        return Outcome.DOWN if entries is Outcome.DOWN else tuple(entry for entry, _ in entries)

    async def _read(self, call: Call, after: str | None, within_s: float) -> list[tuple[Entry, str]] | Down:
        """What is stored after that id, each with who published it."""
        key = Keys.of(call).entries
        if after is not None:
            newest = await self._ask(b"XREVRANGE", key, "+", "-", "COUNT", 1)
            if newest is Outcome.DOWN:
                return Outcome.DOWN
            if newest and place_of(newest[0][0].decode()) < place_of(after):
                after = None  # Redis lost everything, and its clock went back: these are other entries
        answer = await self._ask(b"XRANGE", key, "-" if after is None else f"({after}", "+", within_s=within_s)
        if answer is Outcome.DOWN:
            return Outcome.DOWN
        found = []
        for id, fields in answer:
            message = self._decode(fields[1], call)
            if message is not None and isinstance(message.event, StoredFinal | Translation):
                found.append((Entry(id.decode(), message.event), message.origin))
        return found

    # ── what is heard ────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, call: Call, receive: Receive, after: str | None = None) -> Following:
        keys = Keys.of(call)
        if keys.channel in self._followed:
            raise RuntimeError("this call is followed already")
        following = Following(call, receive, after, lambda _: self._unfollow(keys.channel))
        self._followed[keys.channel] = _Followed(following, keys)
        self._send(b"SUBSCRIBE", keys.channel)
        return following

    def _unfollow(self, channel: str) -> None:
        del self._followed[channel]
        self._send(b"UNSUBSCRIBE", channel)

    def _send(self, command: bytes, channel: str) -> None:
        if self._connection is not None:
            try:
                self._connection.send_command(command, channel)
            except _LOST:
                self._lose(self._connection)

    def _take_push(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1].decode()
        if channel == self._beat_channel:
            if kind == b"message":
                self._beat_heard = True
                self._delay_s = trio.current_time() - float(push[2])
            return
        followed = self._followed.get(channel)
        if followed is None:
            return
        if kind == b"subscribe" and self._nursery is not None:
            followed.catching_up = True
            followed.round += 1
            self._nursery.start_soon(self._catch_up, followed, followed.round)
        elif kind == b"message":
            if followed.catching_up:
                followed.held.append(push[2])
            else:
                self._hear(followed, push[2])

    async def _catch_up(self, followed: _Followed, round: int) -> None:
        """What was stored before the channel was ours, then what came over it meanwhile, then the rest as it comes."""
        following = followed.following
        entries = await self._read(following.call, following.after, READ_S)
        present = await self._call(_PRESENT, [followed.keys.present])
        if following.closed or followed.round != round or entries is Outcome.DOWN or present is Outcome.DOWN:
            return
        earlier = not following.caught_up.is_set()
        known = {entry.id for entry, _ in entries}
        events = [entry.kept for entry, origin in entries if earlier or origin != self._origin]
        if entries:
            following.after = entries[-1][0].id
        following.receive(events, earlier)
        self._hear_present(following, present)
        held, followed.held = followed.held, []
        followed.catching_up = False
        for message in held:
            if message.partition(b" ")[0].decode() not in known:
                self._hear(followed, message)
        following.caught_up.set()

    def _hear_present(self, following: Following, answer: list[bytes]) -> None:
        presents = []
        for message in answer:
            stamp, _, payload = message.partition(b" ")
            found = self._decode(payload, following.call)
            if found is not None and isinstance(found.event, Joined) and found.origin != self._origin:
                presents.append(evolve(found.event.present, order=int(stamp)))
        following.receive([Here(tuple(presents))], False)

    def _hear(self, followed: _Followed, message: bytes) -> None:
        following = followed.following
        stamp, _, payload = message.partition(b" ")
        found = self._decode(payload, following.call)
        if found is None:
            return
        event: BusEvent = found.event
        try:
            if isinstance(event, StoredFinal | Translation):
                place_of(stamp.decode())
                following.after = stamp.decode()
            elif isinstance(event, Joined):
                event = Joined(evolve(event.present, order=int(stamp)))
        except ValueError:
            self._log.warning("bus_message_unreadable", bytes=len(message))
            return
        if found.origin != self._origin and not following.closed:
            following.receive([event], False)

    def _decode(self, payload: bytes, call: Call) -> Message | None:
        message = decode(payload, call)
        if message is None:
            self._log.warning("bus_message_unreadable", bytes=len(payload))
        return message

    # ── who is there ─────────────────────────────────────────────────────────────────────────────────────────────

    async def announce(self, call: Call, present: Present) -> int | Down:
        keys = Keys.of(call)
        answer = await self._call(
            _ANNOUNCE,
            [keys.present, keys.streams],
            keys.channel,
            present.client_id,
            present.connection,
            encode(Joined(present), self._origin),
            self._presence_ms,
            self._ttl_ms,
        )
        return Outcome.DOWN if answer is Outcome.DOWN else int(answer)

    async def refresh(self, call: Call, presents: Sequence[Present]) -> Outcome:
        keys = Keys.of(call)
        each: list[str | bytes] = []
        for one in presents:
            each += [one.client_id, f"{one.order} {one.connection}", encode(Joined(one), self._origin)]
        answer = await self._call(
            _REFRESH,
            [keys.present, keys.entries, keys.segments, keys.streams],
            keys.channel,
            encode(Here(tuple(presents)), self._origin),
            self._presence_ms,
            self._ttl_ms,
            *each,
        )
        return Outcome.DOWN if answer is Outcome.DOWN else Outcome.STORED

    def depart(self, call: Call, present: Present) -> None:
        keys = Keys.of(call)
        left = encode(Left(present.client_id, present.connection), self._origin)
        arguments = (keys.channel, present.client_id, present.connection, left)
        self._tell(b"EVALSHA", _DEPART.sha, 1, keys.present, *arguments)


class _Followed:
    """A following, its keys, and where it is in catching up."""

    def __init__(self, following: Following, keys: Keys) -> None:
        self.following = following
        self.keys = keys
        self.round = 0
        self.catching_up = True
        self.held: list[bytes] = []  # messages that came while what is stored was read


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
