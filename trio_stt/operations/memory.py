"""Gives memory back to the system that the C library holds on to (glibc; elsewhere nothing is done).

Recognisers are large and come and go in worker threads. Left alone, glibc keeps a heap for each thread, and the holes
that freed recognisers leave. jemalloc (`trio_stt.operations.allocator`) needs none of this.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Final

import trio

from trio_stt.operations import allocator

SPARE_HEAPS: Final = 4
"""Heaps besides those of the decoding threads: the event loop's, and those of threads that load, trim or wait."""

COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)
"""Rarer runs than Python's own (700, 10, 10): messages come and go without leaving cycles behind."""

TRIM_EVERY_S: Final = 1.0

_M_ARENA_MAX: Final = -8  # malloc.h


def limit_heaps(decoding_threads: int) -> None:
    """Threads started from now on share so many heaps that those which decode have one each.

    Two that decode in one heap wait for each other at every allocation: the same audio then costs twice the time.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_ARENA_MAX, decoding_threads + SPARE_HEAPS)


def settle_garbage_collector() -> None:
    """What exists now (modules, the model) stays for good: the collector need not walk through it ever again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def keep_trimming() -> None:
    """Gives unused pages back every `TRIM_EVERY_S`, in a thread. Runs until cancelled."""
    library = _glibc()
    while library is not None:
        await trio.sleep(TRIM_EVERY_S)
        await trio.to_thread.run_sync(library.malloc_trim, 0)


def resident_mb() -> int | None:
    """The memory in use by this process that the system has given it, in MB; None where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000
    except (OSError, ValueError, IndexError):
        return None


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or allocator.in_use() != "system":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
