"""Keeps one command running: started again whenever it ends, until a signal comes.

For process managers that stop everything when one process ends, as honcho does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Protocol

import trio

from trio_stt.fleet.parent import end_with_parent

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
"""Before a command that ended soon is started again: from the first to the longest, doubling."""

STEADY_S = 10.0
"""A command that ran for so long is started again after the first pause."""


class Child(Protocol):
    """A process that runs."""

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it. May be cancelled."""
        ...

    def send(self, number: int) -> None:
        """Sends it a signal; nothing, if it has ended."""
        ...


async def keep(spawn: Callable[[], Child], signals: AsyncIterable[int], say: Callable[[str], None]) -> int:
    """Runs `spawn`'s process again and again; returns when one of `signals` has come and it has ended.

    Every signal is passed on. Returns its exit code (128 + the signal that ended it), 0 if there was none at that time.
    If `spawn` raises OSError at first, so does this; later it counts as a process that ended at once. If cancelled,
    the process is left running.
    """
    ending = trio.Event()
    child: Child | None = None
    code = 0
    cannot: OSError | None = None

    async def pass_on() -> None:
        async for number in signals:
            ending.set()
            if child is not None:
                child.send(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on)
        pause_s, first = FIRST_PAUSE_S, True
        while not ending.is_set():
            began = trio.current_time()
            try:
                child = spawn()
                code = await child.wait()
                ended = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
            except OSError as error:
                if first:
                    cannot = error
                    break
                ended = f"could not be started: {error.strerror}"
            child, first = None, False
            if ending.is_set():
                break
            code = 0
            pause_s = FIRST_PAUSE_S if trio.current_time() - began >= STEADY_S else pause_s
            say(f"{ended}; started again in {pause_s:g} s")
            with trio.move_on_after(pause_s):
                await ending.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        nursery.cancel_scope.cancel()
    if cannot is not None:
        raise cannot
    return code if code >= 0 else 128 - code


class CommandChild:
    """A command as a child of this process, in a session of its own: signals reach it through us alone, and once."""

    def __init__(self, command: Sequence[str], *, end_by: int | None = None) -> None:
        """Starts it. Blocks for a moment; in this thread, with whose end it would end. Raises OSError.

        `end_by`: the signal that it is sent in place of any other; None: none in particular.
        """
        self._end_by = end_by
        self._process = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it. May be cancelled."""
        if self._process.poll() is None:
            ended = os.pidfd_open(self._process.pid)
            try:
                await trio.lowlevel.wait_readable(ended)
            finally:
                os.close(ended)
        return self._process.wait()

    def send(self, number: int) -> None:
        """Sends it a signal; nothing, if it has ended."""
        self._process.send_signal(number if self._end_by is None else self._end_by)


async def keep_command(command: Sequence[str], say: Callable[[str], None], *, end_by: int | None = None) -> int:
    """Keeps a command running until this process gets a signal; the same in all else as `keep`."""
    with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
        return await keep(lambda: CommandChild(command, end_by=end_by), signals, say)
