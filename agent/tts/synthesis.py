"""The synthesiser's process as the agent sees it: started at the first sentence, asked one at a time, started anew.

Sentences wait in line, first come, first served. When the process dies it is started again, after a pause that doubles
each time up to `MOST_PAUSE_S`, and the sentence is tried once more; one during which it died twice is given up. After
`IDLE_S` without a sentence it is ended, which gives its memory back.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog
from attrs import define, field, frozen

from agent.tts.frames import LENGTHS, MOST_OBJECT_BYTES, MOST_SAMPLES_BYTES, line

MOST_WAITING: Final = 32
"""Sentences in line, of all rooms; one more is `BusyError`."""

START_S: Final = 120.0
"""The longest that the model may take to load. It took two to three seconds."""

ANSWER_S: Final = 120.0
"""The longest that a sentence may take. One of 93 characters took 8 to 10 s on a busy machine."""

CANCEL_S: Final = 10.0
"""The longest that a process may take to see that a sentence is not wanted; then it is killed."""

FIRST_PAUSE_S: Final = 0.5
MOST_PAUSE_S: Final = 30.0
IDLE_S: Final = 600.0

TRIES: Final = 2

Sound = npt.NDArray[np.float32]


class SynthesisError(Exception):
    """A sentence could not be spoken. The message says why, and holds nothing of it."""


class BusyError(SynthesisError):
    """Too many sentences wait."""


class LateError(SynthesisError):
    """Its turn did not come in time."""


class _DiedError(Exception):
    """The process ended, or does not do what it should."""


@frozen
class Times:
    """How long is waited, in seconds; for tests."""

    start_s: float = START_S
    answer_s: float = ANSWER_S
    cancel_s: float = CANCEL_S
    first_pause_s: float = FIRST_PAUSE_S
    most_pause_s: float = MOST_PAUSE_S
    idle_s: float = IDLE_S


@define(eq=False)
class _Job:
    text: str = field(repr=False)
    voice: str
    done: asyncio.Future[Sound]
    late_at: float | None
    tries: int = 0


class Synthesis:
    """Owns the process that `command` starts. Use with ``async with``; leaving it ends the process."""

    def __init__(self, command: Sequence[str], times: Times | None = None) -> None:
        self.starts = 0
        """How often the process was started."""
        self._command = command
        self._times = times or Times()
        self._jobs: deque[_Job] = deque()
        self._news = asyncio.Event()
        self._process: _Process | None = None
        self._pause_s = 0.0
        self._last_id = 0
        self._worker: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    @property
    def waiting(self) -> int:
        """Sentences in line."""
        return len(self._jobs)

    @property
    def pid(self) -> int | None:
        """The process's id; None: there is none now."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Synthesis:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])

    async def sound_of(self, text: str, voice: str, *, begin_within_s: float | None = None) -> Sound:
        """The sound of a sentence: from -1 to 1, `agent.tts.frames.SAMPLE_RATE`.

        Raises `BusyError`, `LateError` when it was not begun within `begin_within_s`, and `SynthesisError`. If
        cancelled it leaves the line, or is broken off.
        """
        if self._worker is None or self._worker.done():
            raise SynthesisError("the synthesiser was ended")
        if len(self._jobs) >= MOST_WAITING:
            raise BusyError(f"{MOST_WAITING} sentences wait already")
        loop = asyncio.get_running_loop()
        late_at = None if begin_within_s is None else loop.time() + begin_within_s
        job = _Job(text, voice, loop.create_future(), late_at)
        self._jobs.append(job)
        self._news.set()
        timer = None if late_at is None else loop.call_at(late_at, self._give_up, job)
        try:
            return await job.done
        finally:
            if timer is not None:
                timer.cancel()
            if job in self._jobs:
                self._jobs.remove(job)

    def _give_up(self, job: _Job) -> None:
        """Its time is over: unless it is being spoken, it leaves the line."""
        if job in self._jobs and not job.done.done():
            job.done.set_exception(LateError("its turn did not come in time"))

    # ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(self._times.idle_s if self._process is not None else None):
                        await self._news.wait()
                except TimeoutError:
                    await self._end()
                    continue
                await self._speak_all()
        finally:
            for job in self._jobs:
                if not job.done.done():
                    job.done.set_exception(SynthesisError("the synthesiser was ended"))
            self._jobs.clear()
            await self._end()

    async def _speak_all(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if job.done.done():  # not wanted any more
                continue
            try:
                job.tries += 1
                process = self._process or await self._start()
                await self._speak(process, job)
                self._pause_s = 0.0
            except _DiedError as error:
                if job.tries < TRIES:
                    self._jobs.appendleft(job)
                elif not job.done.done():
                    job.done.set_exception(SynthesisError(f"the synthesiser does not work: {error}"))
                await self._end()
                self._pause_s = min(max(2 * self._pause_s, self._times.first_pause_s), self._times.most_pause_s)
                self._log.warning("synthesiser_died", why=str(error), again_in_s=self._pause_s)
                await asyncio.sleep(self._pause_s)
            finally:
                if not job.done.done() and job not in self._jobs:  # it is us who are ended
                    job.done.set_exception(SynthesisError("the synthesiser was ended"))
        self._news.clear()

    async def _start(self) -> _Process:
        self.starts += 1
        try:
            self._process = process = await _Process.start(self._command)
        except OSError as error:
            raise _DiedError(f"it cannot be started: {error}") from error
        try:
            async with asyncio.timeout(self._times.start_s):
                content, _ = await process.answer()
        except TimeoutError as error:
            raise _DiedError(f"the model was not loaded within {self._times.start_s:.0f} s") from error
        if content.get("status") != "ready":
            raise _DiedError(f"the model cannot be loaded: {content.get('error')}")
        return process

    async def _speak(self, process: _Process, job: _Job) -> None:
        """Has one sentence spoken. Returns when its answer is there, however it is."""
        if job.done.done():  # cancelled while the process was started
            return
        self._last_id = id = self._last_id + 1
        process.ask({"id": id, "text": job.text, "voice": job.voice})
        answer = asyncio.create_task(process.answer())
        try:
            either: list[asyncio.Future[Any]] = [answer, job.done]
            await asyncio.wait(either, timeout=self._times.answer_s, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and job.done.done():
                process.ask({"cancel": id})
                await asyncio.wait([answer], timeout=self._times.cancel_s)
            if not answer.done():
                raise _DiedError("it does not answer")
            content, samples = answer.result()
        finally:
            answer.cancel()
            await asyncio.wait([answer])
        if content.get("id") != id:
            raise _DiedError("it answers what was not asked")
        if job.done.done():
            return
        if content.get("status") == "spoken":
            job.done.set_result(np.frombuffer(samples, "<i2").astype(np.float32) / np.float32(32767))
        else:
            job.done.set_exception(SynthesisError(f"it failed: {content.get('error')}"))

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class _Process:
    """The process itself and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> _Process:
        """Starts it, by its program and never by a copy of this process, which has other libraries' threads."""
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def ask(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - `start` made it
        self._process.stdin.write(line(content))

    async def answer(self) -> tuple[dict[str, Any], bytes]:
        """Its next frame. Raises `_DiedError` when none comes, or something else."""
        assert self._process.stdout is not None  # noqa: S101 - `start` made it
        read: Callable[[int], Any] = self._process.stdout.readexactly
        try:
            head_bytes, samples_bytes = LENGTHS.unpack(await read(LENGTHS.size))
            if head_bytes > MOST_OBJECT_BYTES or samples_bytes > MOST_SAMPLES_BYTES:
                raise _DiedError("it writes no frames")
            content = json.loads(await read(head_bytes))
            samples = await read(samples_bytes)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _DiedError("it ended") from error
        except ValueError as error:
            raise _DiedError("it writes no frames") from error
        if not isinstance(content, dict):
            raise _DiedError("it writes no frames")
        return content, samples

    async def end(self) -> None:
        """Kills it, as it has nothing to lose, and waits for its end. Not to be cancelled in the middle."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.shield(asyncio.ensure_future(self._process.wait()))
        assert self._process.stdin is not None  # noqa: S101 - `start` made it
        self._process.stdin.close()
