"""The threads that decode: as many at once as the instance has cores, whatever the number of streams.

A thread that has made one call makes the next one that is due without going back to the event loop: the loop need not
run before a core has work again, and the model's weights are still in the core's cache. For the same reason another
thread is started only when calls would wait noticeably.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import outcome
import trio
from attrs import frozen

from trio_stt.recognition.schedule import Schedule, Turn

T = TypeVar("T")


@frozen
class DecoderStatistics:
    """Threads in use and in all, calls waiting for one, the age in seconds of the oldest call under way.

    `delay_s`: how late, in seconds, recent calls began (their age weighs by `DELAY_MEMORY_S`). `cpu_s`: the processor
    time of all calls so far.
    """

    busy: int
    threads: int
    waiting: int
    calls: int
    oldest_call_s: float
    delay_s: float
    cpu_s: float


@frozen
class CallUnderWay:
    """A call that has begun and not returned: whose it is, and how long it has taken so far."""

    owner: str
    age_s: float


OnSpent: TypeAlias = Callable[[str, float, float], None]
"""Is told whose call it was, its CPU time in s, and how much audio, in s, it decoded before that was due (0: none)."""

MAX_CHUNK_MS = 400
"""Longest chunk: partials come later and later, finals do not."""

SPEAKERS_AT_EASE = 2
"""Speakers a thread serves with the shortest chunks. With more, each call finds the processor's caches cold, and fewer
but longer calls cost less for the same audio."""

TOLERATED_WAIT_S = 0.04
"""Calls may be expected to wait so long, or wait so long in fact, before another thread helps."""

DELAY_MEMORY_S = 2.0
"""Time constant with which `DecoderStatistics.delay_s` forgets."""


def chunk_ms(shortest_ms: int, speaking: int, threads: int) -> int:
    """How much audio a call is given when `speaking` speakers share `threads` threads, in ms."""
    return min(max(MAX_CHUNK_MS, shortest_ms), shortest_ms * max(1, math.ceil(speaking / (SPEAKERS_AT_EASE * threads))))


class _Job:
    """One call. Its times are on the monotonic clock, which threads can read."""

    def __init__(self, call: Callable[[], Any], turn: Turn, owner: str, task: trio.lowlevel.Task) -> None:
        self.call = call
        self.turn = turn
        self.owner = owner
        self.task = task
        self.began: float | None = None
        self.cpu_ns = 0
        self.has_returned = False

    @property
    def ahead_s(self) -> float:
        """Its audio, if it was not due yet when it began."""
        return self.turn.audio_s if self.began is not None and self.began < self.turn.due else 0.0


class Decoders:
    """Runs blocking recogniser calls in worker threads, in the order of `trio_stt.recognition.schedule`."""

    def __init__(self, threads: int, on_spent: OnSpent = lambda owner, cpu_s, ahead_s: None) -> None:
        """`on_spent` is told on the event loop, of each call, failed ones too."""
        self._threads = threads
        self._on_spent = on_spent
        self._lock = threading.Lock()  # for all below: threads take, the event loop puts
        self._schedule: Schedule[_Job] = Schedule()
        self._under_way: set[_Job] = set()
        self._busy = 0
        self._finished: deque[tuple[_Job, outcome.Outcome[Any]]] = deque()
        self._calls = 0
        self._cpu_ns = 0
        self._call_s = 0.01  # about how long a call takes: the mean of the last 20 or so
        self._delay_s = 0.0
        self._delay_at = time.monotonic()

    def set_threads(self, threads: int) -> None:
        """So many from now on; calls that more threads make by now are made to their end."""
        with self._lock:
            self._threads = threads

    async def run(self, call: Callable[[], T], turn: Turn = Turn(), *, owner: str = "") -> T:  # noqa: B008  (frozen)
        """Runs `call` in a thread when its turn (`due` on Trio's clock) has come; returns or raises what it did.

        `owner`: the stream it is for; "": the instance itself.
        Waiting for the turn may be cancelled; a call that has begun is always waited for, because a thread that was
        left behind would go on using a recogniser that somebody else is given.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        to_monotonic = time.monotonic() - trio.current_time()
        now = time.monotonic()
        due = max(turn.due + to_monotonic, now) if turn.due > -math.inf else now
        turn = Turn(due, turn.audio_s, turn.tenant, turn.ends_utterance, turn.catch_up)
        job = _Job(call, turn, owner, trio.lowlevel.current_task())
        self._calls += 1
        if self._put(job, start=False):
            # Neither may a call wait behind others that take longer than calls do, or for ever.
            with trio.CancelScope(deadline=due - to_monotonic + TOLERATED_WAIT_S):
                return cast(T, await self._wait(job))
            self._put(job, start=True)
        return cast(T, await self._wait(job))

    def _put(self, job: _Job, *, start: bool) -> bool:
        """Has the job wait its turn. Starts a thread if needed, with `start` if there is one left.

        Returns whether there is one left that was not started.
        """
        with self._lock:
            self._schedule.put(job)
            idle = self._busy < self._threads
            expected_wait_s = len(self._schedule) * self._call_s / max(self._busy, 1)
            start = idle and (start or not self._busy or expected_wait_s > TOLERATED_WAIT_S)
            self._busy += start
        if start:
            token = trio.lowlevel.current_trio_token()
            trio.lowlevel.start_thread_soon(lambda: self._work(token), _raise_if_broken, "decoder")
        return idle and not start

    async def _wait(self, job: _Job) -> Any:
        def abort(_: object) -> trio.lowlevel.Abort:
            with self._lock:
                if job.began is not None:
                    return trio.lowlevel.Abort.FAILED
                self._schedule.withdraw(job)
                return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        """Makes calls until none is left. In a thread."""
        job: _Job | None = None
        cpu_ns = time.thread_time_ns()
        while True:
            with self._lock:
                now = time.monotonic()
                if job is not None and job.began is not None:
                    self._under_way.remove(job)
                    self._call_s += (now - job.began - self._call_s) / 20
                    self._cpu_ns += job.cpu_ns
                job = self._schedule.take(now) if self._busy <= self._threads else None
                if job is None:
                    # Under the lock: whoever puts the next job sees it and starts a thread.
                    self._busy -= 1
                    return
                job.began = now
                self._under_way.add(job)
                self._note_delay(now, max(now - job.turn.due, 0.0))
            result = outcome.capture(job.call)
            del job.call  # it may hold the last reference to a recogniser, which is freed in this thread
            before_ns, cpu_ns = cpu_ns, time.thread_time_ns()
            job.cpu_ns = cpu_ns - before_ns
            job.has_returned = True
            self._finished.append((job, result))
            token.run_sync_soon(self._deliver, idempotent=True)

    def _deliver(self) -> None:
        while self._finished:
            job, result = self._finished.popleft()
            self._on_spent(job.owner, job.cpu_ns / 1e9, job.ahead_s)
            trio.lowlevel.reschedule(job.task, result)

    def _note_delay(self, now: float, delay_s: float) -> None:
        weight = 1 - math.exp(-max(now - self._delay_at, 0.001) / DELAY_MEMORY_S)
        self._delay_s += weight * (delay_s - self._delay_s)
        self._delay_at = now

    def under_way(self) -> list[CallUnderWay]:
        """The calls that have begun and not returned, the oldest first."""
        with self._lock:
            now = time.monotonic()
            calls = [
                CallUnderWay(job.owner, now - job.began)
                for job in self._under_way
                if job.began is not None and not job.has_returned
            ]
        return sorted(calls, key=lambda call: call.age_s, reverse=True)

    def statistics(self) -> DecoderStatistics:
        """A snapshot, for health and metrics."""
        with self._lock:
            now = time.monotonic()
            began = [job.began for job in self._under_way if job.began is not None]
            forgotten = math.exp(-(now - self._delay_at) / DELAY_MEMORY_S) if not len(self._schedule) else 1.0
            return DecoderStatistics(
                busy=self._busy,
                threads=self._threads,
                waiting=len(self._schedule),
                calls=self._calls,
                oldest_call_s=now - min(began, default=now),
                delay_s=self._delay_s * forgotten,
                cpu_s=self._cpu_ns / 1e9,
            )


def _raise_if_broken(result: outcome.Outcome[None]) -> None:
    result.unwrap()
