"""Work that gives way to everything else on this machine: a server that starts does not delay those that run."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")

NICENESS: Final = 10
"""About a tenth of the processor beside a thread of the usual niceness that could use all of it (sched(7))."""


def gently(call: Callable[[], T]) -> T:
    """Returns what `call` returns, or raises what it raises; it runs in a thread of lower priority.

    In a thread of its own, which ends with it: without privileges a priority that was lowered is never raised again.
    Blocks. Threads that `call` starts inherit the priority. Only Linux gives threads their own: elsewhere `call` runs
    at the usual one.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        if sys.platform.startswith("linux"):
            with suppress(OSError):
                usual = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(usual, NICENESS))
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001  (raised where it was waited for)
            failure.append(error)

    # A daemon, so that Ctrl-C need not wait until it is through.
    thread = threading.Thread(target=run, name="gently", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure.pop()
    return outcome.pop()
