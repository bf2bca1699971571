"""Work that gives way, in threads as the kernel sees them."""

import os
import sys
import threading

import pytest

from trio_stt.operations.gently import NICENESS, gently


def test_it_returns_what_was_returned_from_a_thread_that_ends() -> None:
    assert gently(threading.current_thread) is not threading.current_thread()
    assert "gently" not in [thread.name for thread in threading.enumerate()]


def test_it_raises_what_was_raised() -> None:
    with pytest.raises(SystemExit, match="7"):
        gently(lambda: sys.exit(7))


def test_the_work_gives_way_and_its_caller_does_not() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert gently(niceness) == max(NICENESS, before)
    assert niceness() == before
