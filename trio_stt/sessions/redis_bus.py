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
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Literal, cast

import structlog
import trio
from attrs import evolve, frozen
from coredis.connection import BaseConnection
from coredis.exceptions import RedisError

from trio_stt.dialects.events import Transcript, Translation
from trio_stt.redis_address import read_redis_url
from trio_stt.sessions import redis_scripts as scripts
from trio_stt.sessions.bus import (
    INSTANCE_S,
    KEPT_ENTRIES,
    KEPT_STREAMS,
    PRESENCE_S,
    Bus,
    BusEvent,
    BusStatistics,
    Call,
    Down,
    Entry,
    Following,
    Here,
    InstanceRecord,
    InstanceSeen,
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
from trio_stt.sessions.bus_messages import Message, decode, decode_instance, encode, encode_instance
from trio_stt.sessions.redis_connection import LOST, concerns_all, look, open_connection, reason_of, release
from trio_stt.sessions.redis_scripts import PREFIX, Keys

ANSWER_S: Final = 0.25
"""The longest that Redis may take to answer; a resume has 300 ms for two requests, of which the first finds it down."""

READ_S: Final = 1.0
"""The same for reading what is kept of a call to catch up, which nobody's captions wait for."""

CONNECT_S: Final = 1.0

FIRST_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 1.0
"""Between attempts to connect; the waits double from the first to the longest, with a quarter of jitter."""

LASTING_S: Final = 5.0
"""A connection that was lost sooner was none: the waits go on from where they were."""

BEAT_EVERY_S: Final = 1.0
"""How often an end sends itself a message: finds a connection that is dead but not closed, and measures the delay."""

PAGE_ENTRIES: Final = 100
"""What is read, decoded and handed over at once: a few milliseconds of work."""

CATCH_UPS_AT_ONCE: Final = 4
"""Calls that are caught up at the same time after a loss, so that the answers stay far below what Redis holds for a
subscriber (32 MB by default)."""

REFUSALS_EVERY_S: Final = 60.0
"""A call that Redis refuses is logged so often."""

_ALL_CALLS: Final = Call("", "")
"""None that exists: its channel stands for those of all, and what is of no call counts as its."""

_Unanswered = Literal[Outcome.DOWN, Outcome.REFUSED]

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
_MEET = _Script(scripts.MEET)


class RedisBus(Bus):
    """An end of a bus on Redis. Call `run` in a nursery; until then everything ends `DOWN`."""

    def __init__(self, url: str, *, ttl_s: float, presence_s: float = PRESENCE_S) -> None:
        """`url`: as in REDIS_URL; `ttl_s`: how long a call is kept after its last sign of life.

        `presence_s`: how long a client counts as present after its own. Raises ValueError if `url` is none.
        """
        self._address = read_redis_url(url)
        self._ttl_ms = round(ttl_s * 1000)
        self._presence_ms = round(presence_s * 1000)
        self._origin = secrets.token_hex(8)
        self._beat_channel = f"{PREFIX}:beat:{self._origin}"
        self._connection: BaseConnection | None = None
        self._nursery: trio.Nursery | None = None
        self._generation = 0
        self._up_since = -math.inf
        self._lost_because = ""
        self._came_up = trio.Event()
        self._followed: dict[str, _Followed] = {}  # by channel
        self._delay_s = math.nan
        self._beat_heard = False
        self._catching_up = trio.CapacityLimiter(CATCH_UPS_AT_ONCE)
        self._refused_at: OrderedDict[Call, float] = OrderedDict()  # when that was logged
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
            generation = self._generation
            reason = await self._serve_once()
            if self._generation > generation:
                said = False
                if trio.current_time() - self._up_since >= LASTING_S:
                    wait_s = FIRST_RETRY_S
            if not said:
                self._log.warning("bus_down", reason=reason)
                said = True
            await self._pause(wait_s * (1 + random.random() / 4))
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _pause(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def _serve_once(self) -> str:
        """Connects and serves until the connection is lost; returns why."""
        self._lost_because, reason = "", "closed"
        try:
            async with trio.open_nursery() as nursery:
                await self._use_connection(nursery)
        except* (RedisError, *LOST) as errors:
            reason = reason_of(errors)
        return self._lost_because or reason

    async def _use_connection(self, nursery: trio.Nursery) -> None:
        """Connects and serves until the connection is lost, which it raises."""
        with trio.fail_after(CONNECT_S):
            await look(self._address)
            connection = open_connection(self._address, CONNECT_S)
            try:
                await nursery.start(connection.run)
            except BaseException:
                release(connection)
                raise
            # A Redis that cannot store (full, or a replica) answers pings: only what was stored counts.
            await connection.create_request(b"SET", f"{PREFIX}:probe:{self._origin}", b"1", b"PX", b"1000")
            for script in scripts.ALL:
                await connection.create_request(b"SCRIPT LOAD", script)
            # A refusal of SUBSCRIBE would be taken for the answer to another request. So it is found out by a command
            # that needs the same permission, and the first SUBSCRIBE has the connection to itself.
            for channel in (self._beat_channel, Keys.of(_ALL_CALLS).channel):
                await connection.create_request(b"PUBLISH", channel, b"")
            connection.send_command(b"SUBSCRIBE", self._beat_channel)
            pushes = connection.push_messages
            await anext(pushes)
        self._connection, self._nursery = connection, nursery
        try:
            self._generation += 1
            self._up_since = trio.current_time()
            self._log.info("bus_up", connected=self._generation)
            for followed in self._followed.values():
                connection.send_command(b"SUBSCRIBE", followed.keys.channel)
            nursery.start_soon(self._beat, connection)
            self._came_up.set()
            self._came_up = trio.Event()
            async for push in pushes:
                self._take_push(cast(list[Any], push))
        finally:
            self._connection = self._nursery = None

    def _lose(self, connection: BaseConnection, reason: str) -> None:
        """Gives up a connection that does not do what it should."""
        connection.invalidate(reason)
        if self._connection is connection:
            self._connection = None
            self._lost_because = reason

    async def _beat(self, connection: BaseConnection) -> None:
        while True:
            self._beat_heard = False
            await self._ask(b"PUBLISH", self._beat_channel, repr(trio.current_time()))
            await trio.sleep(BEAT_EVERY_S)
            if not self._beat_heard:  # it answers, but our channels are dead
                self._lose(connection, "nothing comes over its channels")

    async def _ask(
        self, command: bytes, *arguments: str | bytes | int, call: Call | None = None, within_s: float = ANSWER_S
    ) -> Any:
        """Redis' answer; `Outcome.DOWN` if there is none in time; of a `call`: `REFUSED` if it is an error for that."""
        connection = self._connection
        if connection is None:
            await trio.lowlevel.checkpoint()
            return Outcome.DOWN
        try:
            return await connection.create_request(command, *map(_sendable, arguments), timeout=within_s)
        except LOST as error:
            self._lose(connection, f"{command.decode()}: {reason_of(error)}")
        except RedisError as error:
            if call is not None and not concerns_all(error):
                self._say_refused(call, command.decode(), error)
                return Outcome.REFUSED
            self._log.warning("bus_refused", command=command.decode(), error=type(error).__name__)
            self._lose(connection, f"{command.decode()}: {error!r}")
        return Outcome.DOWN

    async def _call(
        self, call: Call, script: _Script, keys: Sequence[str], *arguments: str | bytes | int | None
    ) -> Any:
        """A script's answer, as `_ask`; None among the arguments: something that cannot be written."""
        if None in arguments:
            await trio.lowlevel.checkpoint()
            return Outcome.REFUSED
        written = cast(Sequence[str | bytes | int], arguments)
        return await self._ask(b"EVALSHA", script.sha, len(keys), *keys, *written, call=call)

    def _tell(self, command: bytes, *arguments: str | bytes | int) -> None:
        """Asks without waiting for the answer."""
        if self._connection is not None:
            try:
                self._connection.create_request(command, *map(_sendable, arguments))
            except LOST as error:
                self._lose(self._connection, f"{command.decode()}: {reason_of(error)}")

    def _encoded(self, call: Call, event: BusEvent) -> bytes | None:
        try:
            return encode(event, self._origin)
        except (ValueError, TypeError, AttributeError) as error:  # a boundary: one value's fault is not the others'
            self._say_refused(call, "encode", error)
            return None

    def _say_refused(self, call: Call, command: str, error: Exception) -> None:
        now = trio.current_time()
        while self._refused_at and next(iter(self._refused_at.values())) <= now - REFUSALS_EVERY_S:
            self._refused_at.popitem(last=False)
        if call not in self._refused_at:
            self._refused_at[call] = now
            self._log.warning(
                "bus_call_refused",
                command=command,
                error=type(error).__name__,
                session_id=call.session_id,
                tenant=call.tenant,
            )

    # ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────

    async def take_epoch(self, call: Call, stream_id: str, known: int) -> int | Down:
        taken = await self._raise_epoch(call, stream_id, known, 1)
        return Outcome.DOWN if taken is Outcome.REFUSED else taken

    async def claim_epoch(self, call: Call, stream_id: str, epoch: int) -> int | Down:
        highest = await self._raise_epoch(call, stream_id, epoch, 0)
        return epoch if highest is Outcome.REFUSED else highest

    async def _raise_epoch(self, call: Call, stream_id: str, least: int, step: int) -> int | _Unanswered:
        keys = Keys.of(call)
        arguments = (stream_id, least, step, self._ttl_ms, KEPT_STREAMS)
        answer = await self._call(call, _RAISE_EPOCH, [keys.streams, keys.used], *arguments)
        return cast(_Unanswered, answer) if isinstance(answer, Outcome) else int(answer)

    async def publish_final(self, call: Call, final: Transcript, *, epoch: int, follows: int) -> Published:
        keys = Keys.of(call)
        answer = await self._call(
            call,
            _PUBLISH_FINAL,
            [keys.entries, keys.segments, keys.streams, keys.used],
            keys.channel,
            self._encoded(call, StoredFinal(final, epoch, follows)),
            self._ttl_ms,
            KEPT_ENTRIES,
            final.stream_id,
            epoch,
            final.segment_id,
            final.start_sample,
            final.end_sample,
            KEPT_STREAMS,
        )
        if isinstance(answer, Outcome):
            return Published(answer)
        outcome, end_sample = answer
        return Published(Outcome(outcome.decode()), int(end_sample))

    async def publish_translation(self, call: Call, translation: Translation) -> Outcome:
        keys = Keys.of(call)
        answer = await self._call(
            call,
            _PUBLISH_TRANSLATION,
            [keys.entries, keys.segments, keys.streams, keys.used],
            keys.channel,
            self._encoded(call, translation),
            self._ttl_ms,
            KEPT_ENTRIES,
            f"{translation.segment_id} {translation.language}",
        )
        return answer if isinstance(answer, Outcome) else Outcome(answer.decode())

    def publish_partial(self, call: Call, partial: Transcript) -> None:
        message = self._encoded(call, partial)
        if message is not None:
            self._tell(b"PUBLISH", Keys.of(call).channel, b"- " + message)

    async def stream_finals(self, call: Call, stream_id: str) -> tuple[StoredFinal, ...] | Down:
        entries = await self._read(call, None, ANSWER_S)
        return Outcome.DOWN if entries is Outcome.DOWN else finals_of_stream(entries, stream_id)

    async def read(self, call: Call, after: str | None) -> tuple[Entry, ...] | Down:
        return await self._read(call, after, READ_S)

    async def _read(self, call: Call, after: str | None, within_s: float) -> tuple[Entry, ...] | Down:
        """What is stored after that id; each answer may take `within_s`."""
        place = await self._place_to_read_from(call, after)
        found: list[Entry] = []
        while not isinstance(place, Outcome):
            page = await self._read_page(call, place, within_s)
            if isinstance(page, Outcome):
                break
            found += (entry for entry, _ in page.entries)
            place = page.end
            if page.last:
                return tuple(found)
        return Outcome.DOWN

    async def _place_to_read_from(self, call: Call, after: str | None) -> str | _Unanswered | None:
        """`after`, unless Redis lost everything, and perhaps its clock went back: then these are other entries."""
        if after is None:
            return None
        newest = await self._ask(b"XREVRANGE", Keys.of(call).entries, "+", "-", "COUNT", 1, call=call)
        if isinstance(newest, Outcome):
            return cast(_Unanswered, newest)
        return after if newest and place_of(newest[0][0].decode()) >= place_of(after) else None

    async def _read_page(self, call: Call, after: str | None, within_s: float) -> _Page | _Unanswered:
        begin = "-" if after is None else f"({after}"
        arguments = (Keys.of(call).entries, begin, "+", "COUNT", PAGE_ENTRIES)
        answer = await self._ask(b"XRANGE", *arguments, call=call, within_s=within_s)
        if isinstance(answer, Outcome):
            return cast(_Unanswered, answer)
        found = []
        for id, fields in answer:
            message = self._decode(fields[1], call)
            if message is not None and isinstance(message.event, StoredFinal | Translation):
                found.append((Entry(id.decode(), message.event), message.origin))
        return _Page(found, answer[-1][0].decode() if answer else after, len(answer) < PAGE_ENTRIES)

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
            except LOST as error:
                self._lose(self._connection, f"{command.decode()}: {reason_of(error)}")

    def _take_push(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1].decode()
        if channel == self._beat_channel:
            with suppress(ValueError):  # somebody else's
                if kind == b"message":
                    self._delay_s = trio.current_time() - float(push[2])
                    self._beat_heard = True
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
        async with self._catching_up:
            wanted = followed.round == round and not followed.following.closed
            if wanted and await self._catch_up_stored(followed, round):
                await self._catch_up_held(followed, round)

    async def _catch_up_stored(self, followed: _Followed, round: int) -> bool:
        """Hands over what is stored and who is there; False: there was no answer, or it is not wanted any more."""
        following = followed.following
        earlier = not following.caught_up.is_set()
        before: list[BusEvent] = []  # in one piece, because readers want the last few of all of it
        end = await self._place_to_read_from(following.call, following.after)
        while not isinstance(end, Outcome):
            page = await self._read_page(following.call, end, READ_S)
            if following.closed or followed.round != round or page is Outcome.DOWN:
                return False
            if page is Outcome.REFUSED:
                break
            end = page.end
            if earlier:
                before += (entry.kept for entry, _ in page.entries)
            else:
                following.after = end
                following.hand_over([entry.kept for entry, origin in page.entries if origin != self._origin], False)
            if page.last:
                break
        present = await self._call(following.call, _PRESENT, [followed.keys.present])
        if following.closed or followed.round != round or Outcome.DOWN in (end, present):
            return False
        if earlier:
            following.after = None if isinstance(end, Outcome) else end
            following.hand_over(before, True)
        self._hear_present(following, [] if present is Outcome.REFUSED else present)
        return True

    async def _catch_up_held(self, followed: _Followed, round: int) -> None:
        read_to = followed.following.after
        while followed.held:
            some, followed.held = followed.held[:PAGE_ENTRIES], followed.held[PAGE_ENTRIES:]
            for message in some:
                self._hear(followed, message, read_to)
            await trio.lowlevel.checkpoint()
            if followed.round != round:
                return
        followed.catching_up = False
        followed.following.caught_up.set()

    def _hear_present(self, following: Following, answer: list[bytes]) -> None:
        presents = []
        for message in answer:
            stamp, _, payload = message.partition(b" ")
            found = self._decode(payload, following.call)
            if found is not None and isinstance(found.event, Joined) and found.origin != self._origin:
                presents.append(evolve(found.event.present, order=int(stamp)))
        following.hand_over([Here(tuple(presents))], False)

    def _hear(self, followed: _Followed, message: bytes, read_to: str | None = None) -> None:
        """Takes a message; `read_to`: entries up to that one are known."""
        following = followed.following
        stamp, _, payload = message.partition(b" ")
        found = self._decode(payload, following.call)
        if found is None:
            return
        event: BusEvent = found.event
        try:
            if isinstance(event, StoredFinal | Translation):
                place = place_of(stamp.decode())
                if read_to is not None and place <= place_of(read_to):
                    return
                following.after = stamp.decode()
            elif isinstance(event, Joined):
                event = Joined(evolve(event.present, order=int(stamp)))
        except ValueError:
            self._log.warning("bus_message_unreadable", bytes=len(message))
            return
        if found.origin != self._origin:
            following.hand_over([event], False)

    def _decode(self, payload: bytes, call: Call) -> Message | None:
        message = decode(payload, call)
        if message is None:
            self._log.warning("bus_message_unreadable", bytes=len(payload))
        return message

    # ── who is there ─────────────────────────────────────────────────────────────────────────────────────────────

    async def announce(self, call: Call, present: Present, age_s: float = 0.0) -> int | Down:
        keys = Keys.of(call)
        answer = await self._call(
            call,
            _ANNOUNCE,
            [keys.present, keys.streams, keys.used],
            keys.channel,
            present.client_id,
            present.connection,
            self._encoded(call, Joined(present)),
            self._presence_ms,
            self._ttl_ms,
            round(max(0.0, age_s) * 1_000_000),
        )
        return Outcome.DOWN if isinstance(answer, Outcome) else int(answer)

    async def refresh(self, call: Call, presents: Sequence[Present]) -> Outcome:
        keys = Keys.of(call)
        each: list[str | bytes | None] = []
        for one in presents:
            each += [one.client_id, f"{one.order} {one.connection}", self._encoded(call, Joined(one))]
        answer = await self._call(
            call,
            _REFRESH,
            [keys.present, keys.entries, keys.segments, keys.streams, keys.used],
            keys.channel,
            self._encoded(call, Here(tuple(presents))),
            self._presence_ms,
            self._ttl_ms,
            *each,
        )
        return Outcome.DOWN if isinstance(answer, Outcome) else Outcome.STORED

    def depart(self, call: Call, present: Present) -> None:
        keys = Keys.of(call)
        left = self._encoded(call, Left(present.client_id, present.connection))
        if left is not None:
            arguments = (keys.channel, present.client_id, present.connection, left)
            self._tell(b"EVALSHA", _DEPART.sha, 1, keys.present, *arguments)

    async def meet_instances(self, record: InstanceRecord) -> tuple[InstanceSeen, ...] | Down:
        arguments = (record.name, encode_instance(record), round(INSTANCE_S * 1000))
        answer = await self._call(_ALL_CALLS, _MEET, [scripts.INSTANCES], *arguments)
        if isinstance(answer, Outcome):
            return Outcome.DOWN
        seen = []
        for message in answer:
            age_ms, _, payload = message.partition(b" ")
            found = decode_instance(payload)
            if found is not None:  # else it is of a version that nobody here knows
                seen.append(InstanceSeen(found, int(age_ms) / 1000))
        return tuple(sorted(seen, key=lambda one: one.record.name))


@frozen
class _Page:
    """Some entries, each with who published it; `end`: where the next page begins; `last`: there is none."""

    entries: Sequence[tuple[Entry, str]]
    end: str | None
    last: bool


class _Followed:
    """A following, its keys, and where it is in catching up."""

    def __init__(self, following: Following, keys: Keys) -> None:
        self.following = following
        self.keys = keys
        self.round = 0
        self.catching_up = True
        self.held: list[bytes] = []  # messages that came while what is stored was read


def _sendable(argument: str | bytes | int) -> bytes | int:
    # Half a surrogate pair has no UTF-8, but is no reason to lose the connection; nobody reads these back.
    return argument.encode(errors="surrogatepass") if isinstance(argument, str) else argument
