"""The generator: one thread, one epoll, no parsing beyond frames: a message costs it far less than it costs a server.

That is why it is not written with Trio and the product's client, as the other benchmarks' speakers are: beside a
server on the same few cores, what the load costs is taken from what is measured.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import heapq
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Sequence

from trio_stt.bench.generator.load import Connection, FramedSession, Load, LoadResult, Talker
from trio_stt.bench.generator.websocket_bytes import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    masked_frame,
    read_answer,
    split_frames,
    upgrade_request,
)

RETRY_S = 1.0
"""After a refusal without a Retry-After, or a connection that was lost, a talker comes back so much later."""

_READ_BYTES = 1 << 16
_LEAST_BUFFER_BYTES = 1  # the kernel makes it the least that it works with
_READ = select.EPOLLIN
_WRITE = select.EPOLLOUT


def generate(library: Sequence[FramedSession], load: Load) -> LoadResult:
    """Lets all talkers of `load` talk, until the server has closed all or had its `last_words_s`. Blocks."""
    collecting = gc.isenabled()
    gc.disable()  # a pause of the collector would be late frames
    try:
        return _EventLoop(library, load).run()
    finally:
        if collecting:
            gc.enable()


class _Link:
    """A connection's socket: connecting, then upgrading, then open, until it is closed."""

    def __init__(self, loop: _EventLoop, record: Connection, talker: _TalkerState) -> None:
        self.record = record
        self.talker = talker
        self.open = False
        self.upgrading = False
        self._loop = loop
        self._unsent: deque[bytes] = deque()
        self._received = b""
        self._deaf = not talker.plan.reads
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._deaf:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LEAST_BUFFER_BYTES)
        self.number = self._socket.fileno()

    def connect(self) -> None:
        load = self._loop.load
        code = self._socket.connect_ex((load.host, load.port))
        self._loop.epoll.register(self.number, _WRITE)
        if code not in (0, errno.EINPROGRESS):
            self.lose()

    def send(self, data: bytes) -> None:
        """Sends what the kernel takes now; the rest goes when it takes more."""
        if not data:
            return
        if not self.open or self._unsent:
            self._unsent.append(data)
            return
        sent = self._send(data)
        if sent < len(data):
            self._unsent.append(data[sent:])
            self._watch()

    def _send(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the peer is gone: what it had to say is read first, then the end is noticed
            return len(data)

    def writable(self) -> None:
        if not self.upgrading and not self.open:
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.lose()
                return
            load = self._loop.load
            session = self._loop.library[self.record.session]
            target = load.target.format(number=self._loop.next_number(), sample_rate=session.sample_rate)
            self._send(upgrade_request(load.host, load.port, target))
            self.upgrading = True
            self._watch()
            return
        while self._unsent:
            data = self._unsent.popleft()
            sent = self._send(data)
            if sent < len(data):
                self._unsent.appendleft(data[sent:])
                return
        self._watch()

    def _watch(self) -> None:
        wanted = 0 if self._deaf and self.open else _READ
        self._loop.epoll.modify(self.number, wanted | (_WRITE if self.open and self._unsent else 0))

    def readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:
            self.lose()
            return
        self._received = self._received + data if self._received else data
        if not self.open and not self._answered(now):
            return
        frames, self._received = split_frames(self._received)
        for opcode, payload in frames:
            self._loop.messages += 1
            if opcode == TEXT:
                self.record.replies.append((now, payload))
            elif opcode == PING:
                self.send(masked_frame(PONG, payload))
            elif opcode == CLOSE:
                self.send(masked_frame(CLOSE, payload))
                self.lose(now)
                return

    def _answered(self, now: float) -> bool:
        """Whether the connection is open now; a refused one is closed."""
        found = read_answer(self._received)
        if found is None:
            return False
        answer, self._received = found
        self.record.status = answer.status
        self.record.answered_at = now
        if answer.status != 101:
            self.shut()
            self.talker.came_to_nothing(self, now + (answer.retry_after_s or RETRY_S))
            return False
        self.open = True
        self.writable()
        return True

    def lose(self, now: float | None = None) -> None:
        """The server has closed, or is not there."""
        now = time.monotonic() if now is None else now
        self.shut()
        if self.record.goodbye_at is not None:
            self.record.ended_at = now
        else:
            self.record.dropped = self.record.accepted
            self.talker.came_to_nothing(self, now + RETRY_S)

    def shut(self) -> None:
        """Frees the socket, without a word."""
        if self._socket.fileno() != -1:
            self._loop.links.pop(self.number, None)
            self._loop.epoll.unregister(self.number)
            self._socket.close()
        self.open = False


class _TalkerState:
    """Where a talker is in what it says."""

    def __init__(self, loop: _EventLoop, index: int, plan: Talker) -> None:
        self.plan = plan
        self._loop = loop
        self._index = index
        self._turn = -1
        self._link: _Link | None = None
        self._frame = 0
        self._session = loop.library[plan.sessions[0]]

    def act(self, due: float) -> None:
        """What is due now: the next session or the next frame."""
        if self._link is None:
            self._begin(due)
        else:
            self._say(self._link, due)

    def _begin(self, due: float) -> None:
        self._turn += 1
        place = self.plan.sessions[self._turn % len(self.plan.sessions)]
        self._session = self._loop.library[place]
        self._frame = self.plan.skipped_frames % len(self._session.frames) if self._turn == 0 else 0
        record = Connection(self._index, place, self._frame, time.monotonic())
        self._loop.records.append(record)
        self._link = link = _Link(self._loop, record, self)
        self._loop.links[link.number] = link
        link.send(self._session.opening)
        self._loop.schedule(due + self._session.frame_s / self.plan.pace, self)
        link.connect()

    def _say(self, link: _Link, due: float) -> None:
        now = time.monotonic()
        self._loop.late_s.append(now - due)
        link.record.sent_at.append(now)
        link.send(self._session.frames[self._frame])
        if self.plan.beside:
            link.send(self.plan.beside)
        self._loop.messages += 1
        self._frame += 1
        if self._frame < len(self._session.frames):
            self._loop.schedule(due + self._session.frame_s / self.plan.pace, self)
            return
        link.record.said_all = True
        self._link = None
        if self.plan.vanishes[self._turn % len(self.plan.vanishes)]:
            link.shut()
        else:
            self._take_leave(link)
        self._loop.schedule(due, self)

    def _take_leave(self, link: _Link) -> None:
        link.record.goodbye_at = time.monotonic()
        link.send(self._loop.load.goodbye)

    def came_to_nothing(self, link: _Link, again_at: float) -> None:
        """The connection was refused or lost: its next frame is not due any more."""
        if self._link is link:
            self._link = None
            self._loop.unschedule(self)
            self._loop.schedule(again_at, self)

    def stop(self) -> None:
        """No more is said."""
        if self._link is not None:
            self._take_leave(self._link)
            self._link = None


class _EventLoop:
    def __init__(self, library: Sequence[FramedSession], load: Load) -> None:
        self.library = library
        self.load = load
        self.epoll = select.epoll()
        self.links: dict[int, _Link] = {}
        self.records: list[Connection] = []
        self.late_s: array[float] = array("d")
        self.messages = 0
        self._numbers = 0
        self._due: list[tuple[float, int, _TalkerState]] = []
        self._entries = 0
        self._dead: set[int] = set()  # entries of `_due` that are not to happen
        self._entry_of: dict[_TalkerState, int] = {}

    def run(self) -> LoadResult:
        began_cpu_s = time.process_time()
        talkers = [_TalkerState(self, index, plan) for index, plan in enumerate(self.load.talkers)]
        for talker in talkers:
            self.schedule(self.load.begins_at + talker.plan.starts_s, talker)
        with contextlib.closing(self.epoll):
            self._run_until(self.load.begins_at + self.load.seconds)
            self._due.clear()
            for talker in talkers:
                talker.stop()
            self._run_until(time.monotonic() + self.load.last_words_s, until_closed=True)
            over_at = time.monotonic()
            for link in list(self.links.values()):
                link.shut()
        return LoadResult(tuple(self.records), self.late_s, over_at, time.process_time() - began_cpu_s, self.messages)

    def next_number(self) -> int:
        """A number that no connection of this load had before."""
        self._numbers += 1
        return self._numbers

    def schedule(self, at: float, talker: _TalkerState) -> None:
        self._entries += 1
        self._entry_of[talker] = self._entries
        heapq.heappush(self._due, (at, self._entries, talker))

    def unschedule(self, talker: _TalkerState) -> None:
        self._dead.add(self._entry_of[talker])

    def _run_until(self, deadline: float, until_closed: bool = False) -> None:
        while not (until_closed and not self.links):
            now = time.monotonic()
            while self._due and self._due[0][0] <= min(now, deadline):
                due, entry, talker = heapq.heappop(self._due)
                if entry in self._dead:
                    self._dead.remove(entry)
                else:
                    talker.act(due)
            now = time.monotonic()
            if now >= deadline:
                return
            wake_at = min(self._due[0][0], deadline) if self._due else deadline
            for number, events in self.epoll.poll(max(0.0, wake_at - now)):
                link = self.links.get(number)
                if link is None:
                    continue
                if events & ~_WRITE:
                    link.readable()
                if events & _WRITE and number in self.links:
                    link.writable()
