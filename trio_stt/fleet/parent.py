"""Ends with one's parent: what a process manager started does not outlive it, not even if that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def end_with_parent() -> None:
    """Has the kernel send SIGTERM to this process when its parent ends; kept over exec. Not on Linux: does nothing.

    To be called in the main thread, by a child of a thread that lasts: it is that thread whose end counts.
    """
    if _LIBC is not None:
        parent = os.getppid()
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended in between
            os.kill(os.getpid(), signal.SIGTERM)
