"""Processes in one event loop that can be frozen: then none of their tasks makes a step, while time goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import outcome
import trio

PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""Whose task this is: inherited by the tasks that it starts."""


class Process:
    """What is frozen together. Its deadlines pass meanwhile, and are noticed when it is thawed."""

    def __init__(self) -> None:
        self.frozen = False
        self._held: list[trio.lowlevel.Task] = []

    def freeze(self) -> None:
        """From now on no task of this process goes on."""
        self.frozen = True

    def thaw(self) -> None:
        """All go on, with what happened meanwhile."""
        self.frozen = False
        held, self._held = self._held, []
        for task in held:
            trio.lowlevel.reschedule(task)

    def hold(self, task: trio.lowlevel.Task) -> None:
        """`task` waits to be thawed."""
        self._held.append(task)


class Freezing(trio.abc.Instrument):
    """Gives each task of a process steps that wait while it is frozen. Add it before the first one starts."""

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        process = task.context.get(PROCESS)
        if process is not None:
            task.coro = _Steps(task, process)  # type: ignore[assignment]


class _Steps:
    """A task's coroutine as Trio uses it."""

    def __init__(self, task: trio.lowlevel.Task, process: Process) -> None:
        self._task = task
        self._coroutine = task.coro
        self._process = process
        self._due: tuple[Callable[[Any], object], Any] | None = None  # the step that was held up

    def send(self, value: Any) -> object:
        return self._step(self._coroutine.send, value)

    def throw(self, error: Any) -> object:
        return self._step(self._coroutine.throw, error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def _step(self, step: Callable[[Any], object], value: Any) -> object:
        if self._due is None:
            self._due = step, value
        if self._process.frozen:
            self._process.hold(self._task)
            return _WAIT
        (step, value), self._due = self._due, None
        return step(value)


def _what_waits() -> object:
    """What a coroutine yields to Trio that waits and cannot be cancelled."""
    waiting = trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)  # noqa: ASYNC105
    yielded: object = waiting.send(None)
    try:
        waiting.send(outcome.Value(None))
    except StopIteration:
        pass
    return yielded


_WAIT = _what_waits()
