"""A client's side of a stream that survives its connections: the state machine, without event loop, sockets or clock.

A driver (`resuming_connection` on Trio, `asyncio_connection` on asyncio) opens what `next_attempt` asks for, tells what
happens to it, sends what `next_message` gives, and hands `next_event` to the user. Each try to connect has a number;
whatever is told of a number that is not wanted any more is ignored. Times are seconds on any clock that only goes
forward. docs/resume.md has the rules and their reasons.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from math import inf
from random import Random
from typing import Any, Final

import attrs

from trio_stt.client.doubts import Doubts
from trio_stt.client.held_samples import HeldSamples
from trio_stt.client.native_client import NativeClient, WireError, stream_url
from trio_stt.client.reconnection import Reconnection, Verdict, verdict_on_close, verdict_on_status
from trio_stt.client.refusal import ServerUnreachableError, StreamRefusedError
from trio_stt.client.resume_events import (
    Ended,
    EndReason,
    Interrupted,
    Lost,
    Restarted,
    Resumed,
    ResumeUnavailable,
    ResumingEvent,
)
from trio_stt.client.taken_captions import TakenCaptions
from trio_stt.dialects.events import (
    Ack,
    Close,
    Configured,
    Failure,
    GoAway,
    Pong,
    Ready,
    ServerEvent,
    StreamRequest,
    Transcript,
    Translation,
    Word,
)
from trio_stt.dialects.native import BYTES_PER_SAMPLE, echoable, parse_object
from trio_stt.dialects.request import MAX_HISTORY

LEAST_ROOM_S: Final = 120.0
"""The longest that a server may need to deal with a sample: 30 s of utterance, its backlog, and an outage."""

SLACK: Final = 1.25
"""A live source may fill this many times its room before a connection that is too slow for it is given up."""

MISSED_HEARTBEATS: Final = 3
STEADY_S: Final = 5.0
"""A connection that lasted so long after its ``ready`` was a good one, also if nobody spoke."""

MAX_EVENTS: Final = 4096
"""So many events may wait for the user; then nothing more is read from the server until some were taken."""

MAX_UNANSWERED: Final = 1024
"""So many of `finalize` and `configure` may wait for their answer."""

FRAME_BYTES: Final = 64 * 1024
"""Samples in one frame at most: what is heard need not wait until the largest frame allowed has gone out."""

CONFIGURABLE: Final[Mapping[str, type]] = {
    "transcript": bool,
    "translation": bool,
    "language": str,
    "read_language": str,
    "target": list,
    "partials": bool,
}
"""What `configure` changes, and a later connection then asks for, with the types in ``configured``."""

JOINED_SLACK_S: Final = 2.0
"""How far the clocks of two instances may be apart for a caption that was made as this client joined."""


Token = str | Callable[[], Awaitable[str]] | None
"""The access token for the drivers; what gets a new one; or none."""


@attrs.frozen
class Attempt:
    """A try to connect. `fresh_bearer`: the access token used before is over; a new one is needed."""

    number: int
    url: str
    fresh_bearer: bool


@attrs.define
class _Try:
    """A try whose upgrade has not been answered yet."""

    number: int
    server: int
    token: str | None = attrs.field(repr=False)  # with which it will resume
    until: float
    fresh_bearer: bool


@attrs.define
class _Connection:
    """The connection in use."""

    number: int
    server: int
    resumes: bool
    until: float  # until when `ready` must be there
    rejoins: bool  # this client was in the call before
    heard_at: float
    greeting: str | None = attrs.field(default=None, repr=False)  # the `resume` message, until it is sent
    resumes_from: int = 0
    ready: Ready | None = None
    ready_at: float = 0
    cursor: int = 0  # position of the next sample to send
    acked: bool = False  # an `ack` came: the stored finals are all here
    failure: Failure | None = None


@attrs.define
class _Command:
    """A text message of the user that acts at a place among the samples, until it is answered."""

    kind: str  # finalize, configure, eof
    at: int
    message: str
    names: tuple[str, ...] = ()  # of the values that a `configure` changes
    sent_on: int = 0  # the connection's number


class StreamEndedError(Exception):
    """The stream is over; `ended` says why."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(f"the stream is over: {ended.reason.value} {ended.message}".rstrip())
        self.ended = ended


class ResumingClient:
    """One stream, or one after another where no server can resume; see the module.

    `request`: as for `open_stream`; its framing is always ``seq``. A listener (``speak=False``) is connected again with
    the history of what it missed. `live`: samples come as they are spoken, so when there is no more room the oldest are
    dropped, and reported if that loses them; else `room_samples` says how many may be added. `renews_bearer`: the
    driver can get a new access token. `patience_s`: how long the stream may be without a server; None: for ever.
    """

    def __init__(
        self,
        servers: Sequence[str],
        request: StreamRequest,
        *,
        random: Random,
        now: float,
        live: bool = True,
        room_s: float = LEAST_ROOM_S,
        renews_bearer: bool = False,
        patience_s: float | None = None,
    ) -> None:
        """Raises ValueError for no server, an address that is none, or a `room_s` below `LEAST_ROOM_S`."""
        if not servers:
            raise ValueError("no server is given; expected one address at least")
        if room_s < LEAST_ROOM_S:
            raise ValueError(f"room_s is {room_s:g}; expected {LEAST_ROOM_S:g} or more")
        for server in servers:
            stream_url(server, request)
        self._request = attrs.evolve(request, framing="seq", resume=False)
        self._live = live
        self._room_samples = int(room_s * request.sample_rate)
        self._renews_bearer = renews_bearer
        self._patience_s = patience_s
        self._held = HeldSamples(BYTES_PER_SAMPLE[request.encoding])
        self._wire = NativeClient(self._request)
        self._reconnection = Reconnection(servers, random)
        self._commands: deque[_Command] = deque()
        self._events: deque[ResumingEvent] = deque()
        self._taken = TakenCaptions()
        self._doubts = Doubts()
        # Of the stream that goes on; all positions are the user's.
        self._stream_id: str | None = None
        self._first_sample = 0  # of the stream
        self._token: str | None = None
        self._acked = 0
        self._accepted = 0
        self._sent = 0
        # Of its connections.
        self._number = 0
        self._try: _Try | None = None
        self._connection: _Connection | None = None
        self._try_at: float | None = now
        self._stalled_since: float | None = now
        self._stall_told = False
        self._stalls_because = "no answer in time"
        self._joined_at = inf  # on the servers' clock: the first `ready`
        self._abandoned = 0  # tries without a `ready`: one that arrives late may yet replace a later one
        self._fresh_bearer = False
        self._resume_unavailable = False
        self._ending = False
        self._ended: Ended | None = None
        self._unsettled = b""

    # ── the user's side ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def given_samples(self) -> int:
        """How many samples the user has given so far: the position of the next one."""
        return self._held.newest

    @property
    def acked(self) -> int:
        """All finals of samples before this one were received; nothing before it is needed any more."""
        return self._acked

    @property
    def stream_begins_at(self) -> int:
        """The user's position of the first sample of the stream that goes on."""
        return self._first_sample

    @property
    def ended(self) -> Ended | None:
        """Why the stream is over; None while it is not."""
        return self._ended

    @property
    def unsettled(self) -> bytes:
        """Once the stream is over: the samples at its end of which the server said nothing, for another stream."""
        return self._unsettled

    @property
    def room_samples(self) -> int:
        """How many samples a source that can wait may add now."""
        if self._live:
            return self._room_samples
        return max(0, self._room_samples - (self._held.newest - max(self._held.oldest, self._droppable())))

    def pieces(self, payload: bytes) -> Iterator[bytes]:
        """`payload` in pieces that there will be room for, one after the other. Raises ValueError for half a sample."""
        self._held.check_whole(payload)
        room_bytes = self._room_samples * BYTES_PER_SAMPLE[self._request.encoding]
        step = len(payload) if self._live else min(FRAME_BYTES, room_bytes)
        return (payload[start : start + step] for start in range(0, len(payload), step or 1))

    def takes(self, piece: bytes) -> bool:
        """Whether `add` does not lack room for `piece` now."""
        count = len(piece) // BYTES_PER_SAMPLE[self._request.encoding]
        return self._live or self._ended is not None or count <= self.room_samples

    def add(self, payload: bytes) -> None:
        """Takes whole samples in the request's encoding, any number of them.

        Raises ValueError for half a sample, after `end`, from a listener, and for more than `room_samples`;
        `StreamEndedError` once the stream is over.
        """
        self._must_go_on()
        if not self._request.speak:
            raise ValueError("a stream that was opened with speak=False takes no samples")
        self._held.check_whole(payload)
        if not self.takes(payload):
            raise ValueError(f"{len(payload)} bytes are more than there is room for: {self.room_samples} samples")
        for start in range(0, len(payload), FRAME_BYTES):
            self._held.add(payload[start : start + FRAME_BYTES])
            self._make_room()

    def finalize(self, id: str | int | None = None) -> None:
        """Asks for the finals of all given before, then an `Ack` with `id`.

        `id`: up to 128 characters, or a whole number within ±2^53. Raises ValueError for any other, and as `configure`.
        """
        if id is not None and not echoable(id):
            raise ValueError(f"id {id!r} cannot be sent back; expected up to 128 characters, or a number within ±2^53")
        self._command("finalize", self._wire.finalize(id))

    def configure(self, **changes: object) -> None:
        """Asks for new values, from here on; `Configured` or `Failure` answers.

        Raises ValueError after `end` and when too many wait for their answer, `StreamEndedError` once the stream is
        over.
        """
        self._command("configure", self._wire.configure(**changes), tuple(changes))

    def end(self) -> None:
        """Says that no more audio comes: last finals follow, then `Ended`. Raises as `configure`."""
        self._command("eof", self._wire.end())
        self._ending = True

    def next_event(self) -> ResumingEvent | None:
        """Takes the next event for the user; None if there is none now. `Ended` is the last."""
        return self._events.popleft() if self._events else None

    def _command(self, kind: str, message: str, names: tuple[str, ...] = ()) -> None:
        self._must_go_on()
        if len(self._commands) >= MAX_UNANSWERED:
            raise ValueError(f"{MAX_UNANSWERED} messages wait for their answer already")
        self._commands.append(_Command(kind, self._held.newest, message, names))

    def _must_go_on(self) -> None:
        if self._ended is not None:
            raise StreamEndedError(self._ended)
        if self._ending:
            raise ValueError("the stream was told to end; nothing may follow")

    # ── the driver's side ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_full(self) -> bool:
        """Whether the user must take events before more is read from the server."""
        return len(self._events) >= MAX_EVENTS

    def is_wanted(self, number: int) -> bool:
        """Whether the try or connection `number` is still of use; if not, the driver drops it."""
        return any(each is not None and each.number == number for each in (self._try, self._connection))

    def wakes_at(self) -> float | None:
        """When `tick` and `next_attempt` are due, if nothing happens before."""
        moments = [self._patience_until()]
        if self._try is not None:
            moments.append(self._try.until)
        elif not self.is_full:
            moments.append(self._try_at)
        if self._connection is not None:
            moments.append(self._connection.until if self._connection.ready is None else self._silent_at())
        return min((moment for moment in moments if moment is not None), default=None)

    def tick(self, now: float) -> None:
        """Gives up what takes too long."""
        if self._ended is not None:
            return
        waiting, connection = self._try, self._connection
        if connection is not None and self.is_full:  # nobody listens
            connection.heard_at = now
            connection.until = now + self._reconnection.limit_s
        if waiting is not None and now >= waiting.until:
            self._try = None
            self._abandon(waiting.server, now)
        if connection is not None and connection.ready is None and now >= connection.until:
            self._connection = None
            self._abandon(connection.server, now)
        silent_at = self._silent_at()
        if connection is not None and self._lacks_samples(connection):
            self._interrupt(now, "too slow for a live source")
        elif silent_at is not None and now >= silent_at:
            self._interrupt(now, "no heartbeat")
        patience_until = self._patience_until()
        if patience_until is not None and now >= patience_until:
            message = f"no server was ready within {self._patience_s:g} s: {self._stalls_because}"
            self._end(Ended(EndReason.UNREACHABLE, message=message))

    def next_attempt(self, now: float) -> Attempt | None:
        """The connection to open now, if any. With several servers they are tried in turn."""
        if self._ended is not None or self._try is not None or self.is_full:
            return None
        if self._try_at is None or now < self._try_at:
            return None
        server = self._reconnection.pick(now)
        self._number += 1
        token = self._token if self._request.speak else None
        fresh_bearer, self._fresh_bearer, self._try_at = self._fresh_bearer, False, None
        until = now + self._reconnection.limit_s
        self._try = _Try(self._number, server, token, until, fresh_bearer)
        request = self._request
        if self._joined_at < inf:
            request = attrs.evolve(request, resume=token is not None, history=MAX_HISTORY)
        return Attempt(self._number, stream_url(self._reconnection.address(server), request), fresh_bearer)

    def opened(self, number: int, now: float) -> None:
        """The upgrade was answered. An older connection is not used any more."""
        opened = self._try
        if opened is None or opened.number != number:
            return
        if self._connection is not None:  # it was told to go away
            self._lose_connection(now, "moved to another instance")
        self._try = self._try_at = None
        until = now + self._reconnection.limit_s
        rejoins = self._joined_at < inf
        self._connection = _Connection(number, opened.server, opened.token is not None, until, rejoins, now)
        if opened.token is not None:
            resumes_from = max(self._acked, self._held.oldest)
            self._doubts.add(self._settled(), resumes_from)
            self._connection.resumes_from = resumes_from
            self._connection.greeting = self._wire.resume(
                opened.token, resumes_from - self._first_sample, max(0, self._accepted - self._first_sample)
            )

    def refused(
        self,
        number: int,
        now: float,
        *,
        status: int,
        code: str | None = None,
        parameter: str | None = None,
        message: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        """The upgrade was answered with the HTTP error `status`; the rest is from its body and headers."""
        refused = self._try
        if refused is None or refused.number != number:
            return
        self._try = None
        verdict = verdict_on_status(status, code, parameter)
        if verdict is Verdict.NEW_BEARER and refused.fresh_bearer:
            verdict = Verdict.END
        if verdict is Verdict.RESUME:
            until = None if retry_after_s is None else now + max(0.0, retry_after_s)
            self._reconnection.turn_away(refused.server, until)
            no = StreamRefusedError(status, code, message, parameter, retry_after_s)
            self._tell_stall(f"refused with HTTP {status} {code or ''}".rstrip(), no)
        reason = EndReason.UNAUTHORISED if status == 401 else EndReason.REFUSED
        self._follow(verdict, now, Ended(reason, status=status, code=code, message=message))

    def failed(self, number: int, now: float, failure: ServerUnreachableError | None = None) -> None:
        """Nobody answered the upgrade: no server there, or it hung up. `failure` says more, for the user."""
        if self._try is not None and self._try.number == number:
            self._reconnection.turn_away(self._try.server)
            self._try = None
            self._tell_stall("no server answers", failure)
            self._try_again(now)

    def closed(self, number: int, now: float, close: Close) -> None:
        """The connection is closed; `close.code` 1006: without a close frame."""
        connection = self._connection
        if connection is None or connection.number != number:
            return
        if close.code == 1000:
            self._finish(close)
            return
        if connection.ready is None and close.code == 1006:
            self._abandoned += 1  # what was sent on it may still arrive
        failure = connection.failure
        verdict = verdict_on_close(close.code, failure.code if failure else None)
        if verdict is Verdict.REPLACED:
            verdict, self._abandoned = (
                (Verdict.RESUME, self._abandoned - 1) if self._abandoned else (verdict, self._abandoned)
            )
        self._lose_connection(now, f"closed with {close.code} {close.reason}".rstrip())
        reason = {Verdict.REPLACED: EndReason.REPLACED, Verdict.NEW_BEARER: EndReason.UNAUTHORISED}.get(verdict)
        code, message = (failure.code, failure.message) if failure else (None, close.reason)
        self._follow(verdict, now, Ended(reason or EndReason.CLOSED, close, None, code, message))

    def received(self, number: int, now: float, message: str | bytes) -> None:
        """A message came on the connection. One that is against the protocol costs the connection."""
        connection = self._connection
        if self._ended is not None or connection is None or connection.number != number:
            return
        connection.heard_at = now
        try:
            event = self._wire.receive(message)
            if event is not None:
                self._take(connection, event, now, message)
        except WireError as error:
            self._interrupt(now, f"not the protocol: {error}")

    def next_message(self, number: int) -> bytes | str | None:
        """What to send next on the connection; None if there is nothing now. It counts as sent."""
        connection = self._connection
        if connection is None or connection.number != number:
            return None
        if connection.greeting is not None:
            greeting, connection.greeting = connection.greeting, None
            return greeting
        if connection.ready is None:
            return None
        command = next((command for command in self._commands if command.sent_on != number), None)
        if command is not None and command.at <= connection.cursor:
            command.sent_on = number
            return command.message
        return self._samples_until(connection, self._held.newest if command is None else command.at)

    # ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _samples_until(self, connection: _Connection, end: int) -> bytes | None:
        start = connection.cursor
        if self._lacks_samples(connection):
            return None
        end = min(end, start + FRAME_BYTES // BYTES_PER_SAMPLE[self._request.encoding])
        if start == end:
            return None
        self._wire.skip_to(start - self._first_sample)
        (frame,) = self._wire.audio(self._held.between(start, end))
        connection.cursor = end
        self._sent = max(self._sent, end)
        return frame

    def _settled(self) -> int:
        """Where the samples begin of which nothing is known yet."""
        return max(self._accepted, self._acked)

    def _pinned(self) -> int | None:
        """The oldest sample that the connection will still want."""
        if self._connection is None:
            return None
        return self._connection.resumes_from if self._connection.ready is None else self._connection.cursor

    def _droppable(self) -> int:
        """Up to where samples may go without any loss."""
        pinned = self._pinned()
        return self._accepted if pinned is None else min(self._accepted, pinned)

    def _make_room(self) -> None:
        """Drops the oldest samples if there are too many; a connection that waits for them gets a little longer."""
        keep_from = self._held.newest - self._room_samples
        if keep_from <= self._held.oldest:
            return
        if not self._live:
            self._held.drop_before(min(keep_from, self._droppable()))
            return
        pinned = self._pinned()
        has_slack = self._held.newest - self._held.oldest <= SLACK * self._room_samples
        self._held.drop_before(min(keep_from, pinned) if pinned is not None and has_slack else keep_from)

    def _lacks_samples(self, connection: _Connection) -> bool:
        return connection.ready is not None and connection.cursor < self._held.oldest

    # ── messages of the server ───────────────────────────────────────────────────────────────────────────────────

    def _take(self, connection: _Connection, event: ServerEvent, now: float, message: str | bytes) -> None:
        if isinstance(event, Failure):
            self._take_failure(connection, event)
            return
        if isinstance(event, Ready):
            self._take_ready(connection, event, now, message)
            return
        if connection.ready is None:
            raise WireError(f"{type(event).__name__} before ready")
        match event:
            case Ack():
                self._take_ack(connection, event)
            case Transcript():
                self._take_transcript(connection, event)
            case Translation():
                self._take_caption(connection, event)
            case Configured():
                self._take_configured(event)
            case GoAway():
                if self._try is None:
                    self._reconnection.turn_away(connection.server)
                    self._try_at = self._reconnection.spread(now, event.deadline_ms / 2000)
            case Pong():
                pass
            case _:
                self._events.append(event)

    def _take_ready(self, connection: _Connection, ready: Ready, now: float, message: str | bytes) -> None:
        if connection.ready is not None:
            raise WireError("a second ready")
        timestamp = _timestamp_of(message)
        if connection.resumes:
            start = self._from_wire(ready.from_sample)
            if ready.stream_id != self._stream_id or not connection.resumes_from <= start <= self._held.newest:
                raise WireError(f"ready for {ready.stream_id} from {start}: not what was asked for")
            self._token = ready.resume_token or self._token
        else:
            start = self._begin_stream(ready)
        connection.ready, connection.ready_at, connection.cursor = ready, now, start
        if self._lacks_samples(connection):
            return  # `tick` tries again from where they begin now
        stall_s = now - (now if self._stalled_since is None else self._stalled_since)
        self._stalled_since, self._stall_told = None, False
        self._reconnection.ready()
        first = self._joined_at == inf
        if first:
            self._joined_at = timestamp
        self._events.append(self._tell_ready(connection, ready, stall_s, first))
        if not connection.resumes:
            self._report_losses()
            if self._token is None and self._request.speak:
                self._tell_no_resume("the server gives no resume tokens")

    def _tell_ready(self, connection: _Connection, ready: Ready, stall_s: float, first: bool) -> ResumingEvent:
        if connection.resumes:
            return Resumed(ready, stall_s, self._sent - connection.cursor)
        return ready if first else Restarted(ready, stall_s, connection.cursor)

    def _begin_stream(self, ready: Ready) -> int:
        """A new stream begins with the first sample of which nothing is known: where that is."""
        start = max(self._settled(), self._held.oldest)
        self._doubts.add(self._settled(), start)
        self._held.drop_before(start)
        self._stream_id, self._token = ready.stream_id, ready.resume_token
        self._first_sample = self._acked = self._accepted = start
        return start

    def _take_ack(self, connection: _Connection, ack: Ack) -> None:
        position = self._from_wire(ack.sample)
        if position > connection.cursor:
            raise WireError(f"ack of sample {position}, before it was sent")
        moved = position > self._acked
        if moved:
            self._acked = position
            self._held.drop_before(position)
            self._reconnection.steady()
        self._token = ack.resume_token or self._token
        if not connection.acked:
            connection.acked = True
            self._report_losses()
        answers = ack.from_finalize and self._answered("finalize") is not None
        if answers or moved:
            self._events.append(Ack(position, answers, ack.id if answers else None))

    def _take_transcript(self, connection: _Connection, transcript: Transcript) -> None:
        if transcript.stream_id != self._stream_id:
            self._take_caption(connection, transcript)
            return
        start, end = self._from_wire(transcript.start_sample), self._from_wire(transcript.end_sample)
        if not start <= end <= connection.cursor:
            raise WireError(f"a caption of samples {start} to {end}, of which {connection.cursor} were sent")
        if transcript.is_final:
            follows = start if transcript.follows is None else self._from_wire(transcript.follows)
            self._doubts.settle(min(follows, start), end)
        if start < self._accepted or self._taken.has_ended(transcript):
            return
        if transcript.is_final:
            self._accepted = end
            self._reconnection.steady()
        self._take_caption(connection, _moved(transcript, self._first_sample))

    def _take_caption(self, connection: _Connection, caption: Transcript | Translation) -> None:
        if caption.history and connection.rejoins and caption.timestamp < self._joined_at - JOINED_SLACK_S:
            return  # said before this client came
        if self._taken.has_ended(caption):
            return
        if caption.is_final:
            self._taken.take(caption)
        elif self._events and _replaces(caption, self._events[-1]):
            self._events.pop()
        self._events.append(caption)

    def _take_configured(self, configured: Configured) -> None:
        changes: dict[str, Any] = {
            name: _checked(name, configured.values[name]) for name in CONFIGURABLE if name in configured.values
        }
        self._request = attrs.evolve(self._request, **changes)
        self._answered("configure")
        self._events.append(configured)

    def _take_failure(self, connection: _Connection, failure: Failure) -> None:
        connection.failure = failure
        if failure.code in ("bad_value", "language_unavailable"):
            self._answered("configure", failure.extra)
        if failure.code != "resume_refused":
            self._events.append(failure)

    def _answered(self, kind: str, extra: Mapping[str, object] | None = None) -> _Command | None:
        """Forgets the first message of this kind that was sent on this connection; `extra`: of the error about it."""
        number = self._connection.number if self._connection else 0
        for command in self._commands:
            if command.kind == kind and command.sent_on == number:
                if extra is not None and extra.get("parameter") not in command.names:
                    continue
                self._commands.remove(command)
                return command
        return None

    def _from_wire(self, position: object) -> int:
        """The user's position of one in the stream."""
        if type(position) is not int or position < 0:
            raise WireError(f"{position!r} is no position")
        return position + self._first_sample

    # ── losing connections ───────────────────────────────────────────────────────────────────────────────────────

    def _silent_at(self) -> float | None:
        """When the connection counts as lost unless something comes."""
        connection = self._connection
        if connection is None or connection.ready is None:
            return None
        if self._lacks_samples(connection):
            return 0.0
        heartbeat_ms = connection.ready.heartbeat_ms
        return connection.heard_at + MISSED_HEARTBEATS * heartbeat_ms / 1000 if heartbeat_ms > 0 else None

    def _patience_until(self) -> float | None:
        if self._patience_s is None or self._stalled_since is None:
            return None
        return self._stalled_since + self._patience_s

    def _interrupt(self, now: float, why: str) -> None:
        self._lose_connection(now, why)
        self._try_again(now)

    def _lose_connection(self, now: float, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._reconnection.turn_away(connection.server)
        if self._stalled_since is None:
            self._stalled_since = now
            if now - connection.ready_at >= STEADY_S:
                self._reconnection.steady()
        self._tell_stall(why)

    def _tell_stall(self, why: str, failure: ServerUnreachableError | StreamRefusedError | None = None) -> None:
        """Says why there is no connection, once until there is one."""
        self._stalls_because = why
        if self._stalled_since is not None and not self._stall_told:
            self._stall_told = True
            self._events.append(Interrupted(why, failure))

    def _abandon(self, server: int, now: float) -> None:
        self._abandoned += 1
        self._reconnection.too_slow()
        self._reconnection.turn_away(server)
        self._tell_stall("no answer in time")
        self._try_again(now)

    def _try_again(self, now: float) -> None:
        if self._try is None and self._ended is None:
            try_at = self._reconnection.next_try(now)
            self._try_at = try_at if self._try_at is None else min(try_at, self._try_at)

    def _follow(self, verdict: Verdict, now: float, otherwise: Ended) -> None:
        if verdict is Verdict.NEW_BEARER and self._renews_bearer:
            self._fresh_bearer = True
        elif verdict is Verdict.NEW_STREAM:
            self._token = None
            if otherwise.status is not None:
                self._tell_no_resume(otherwise.message)
        elif verdict is not Verdict.RESUME:
            if self._connection is None:  # else that one may go on as long as it can
                self._end(otherwise)
            return
        self._try_again(now)

    def _tell_no_resume(self, why: str) -> None:
        if not self._resume_unavailable:
            self._resume_unavailable = True
            self._events.append(ResumeUnavailable(why))

    def _finish(self, close: Close) -> None:
        if any(command.kind == "eof" and self.is_wanted(command.sent_on) for command in self._commands):
            self._acked = self._held.newest  # the server heard all of it
        self._end(Ended(EndReason.FINISHED, close, message=close.reason))

    def _end(self, ended: Ended) -> None:
        self._doubts.add(self._settled(), self._held.newest)
        self._report_losses()
        self._unsettled = self._held.between(max(self._settled(), self._held.oldest), self._held.newest)
        self._held.drop_before(self._held.newest)
        self._connection = self._try = self._try_at = None
        self._ended = ended
        self._events.append(ended)

    def _report_losses(self) -> None:
        self._events.extend(Lost(start, end) for start, end in self._doubts.take())


def _timestamp_of(message: str | bytes) -> float:
    fields = parse_object(message) if isinstance(message, str) else None
    timestamp = (fields or {}).get("timestamp")
    if not isinstance(timestamp, int | float):
        raise WireError("ready without a timestamp")
    return timestamp


def _checked(name: str, value: Any) -> object:
    """A value of ``configured`` as `StreamRequest` has it."""
    if type(value) is not CONFIGURABLE[name]:
        raise WireError(f"configured with {name} {value!r}")
    if not isinstance(value, list):
        return value
    if not all(isinstance(tag, str) for tag in value):
        raise WireError(f"configured with {name} {value!r}")
    return tuple(value)


def _moved(transcript: Transcript, samples: int) -> Transcript:
    """The caption at the user's positions, without what only the client needs."""
    if not samples and transcript.follows is None:
        return transcript
    seconds = samples / transcript.sample_rate
    words = tuple(
        Word(word.text, word.start + seconds, word.end + seconds, word.confidence) for word in transcript.words
    )
    start, end = transcript.start_sample + samples, transcript.end_sample + samples
    return attrs.evolve(transcript, start_sample=start, end_sample=end, words=words, follows=None)


def _replaces(partial: Transcript | Translation, waiting: ResumingEvent) -> bool:
    """Whether the user, who has not taken `waiting`, need not see it any more."""
    return (
        type(waiting) is type(partial)
        and isinstance(waiting, Transcript | Translation)
        and not waiting.is_final
        and (waiting.segment_id, waiting.language) == (partial.segment_id, partial.language)
    )
