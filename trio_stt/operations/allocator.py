"""jemalloc in place of the C library's allocator, where it is installed.

Kaldi makes and frees a small object for each token and each link of its search: with glibc's allocator a sixth of all
decoding time goes there, and the caches suffer (docs/tuning.md has the figures). An allocator can only be chosen when a
process starts, so this one is started anew, in place.

Python's own small objects go there as well (``PYTHONMALLOC``): Python gives memory back a megabyte at a time, and
captions that are kept for minutes among messages that are gone at once leave few of those empty.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from typing import Final

LIBRARY: Final = "libjemalloc.so.2"
"""As Debian's package libjemalloc2 and others name it."""

FOLDERS: Final = (
    "/usr/local/lib",
    f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
    "/usr/lib64",
    "/usr/lib",
    f".tools/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
)
"""Where it may be: as systems install it, and where set-up unpacks it when it may not install. The last is relative to
the working folder: a space in what stands above it would end the name in ``LD_PRELOAD``."""

OPTIONS: Final = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0"
"""Memory that nobody uses for a second goes back to the system."""

_STARTED: Final = "TRIO_STT_ALLOCATOR_CHOSEN"


def in_use() -> str:
    """``jemalloc``, or ``system``."""
    return "jemalloc" if _has_jemalloc() else "system"


def is_chosen() -> bool:
    """Whether whoever started this process saw to its allocator: here, or `preloaded`. Says so once."""
    if os.environ.pop(_STARTED, None) is None:
        return False
    # Programs that this process starts need none of it.
    for name in ("LD_PRELOAD", "MALLOC_CONF", "PYTHONMALLOC"):
        os.environ.pop(name, None)
    return True


def start_with_jemalloc() -> None:
    """Replaces this process by itself with jemalloc, if that is there and not chosen yet; otherwise returns.

    To be called before anything that would not survive: threads, open files, buffered output. Whoever names another
    allocator in ``LD_PRELOAD`` keeps it.
    """
    if is_chosen() or _has_jemalloc():
        return
    environment = preloaded(os.environ)
    if _STARTED in environment:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def preloaded(inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables for a server that is to begin with jemalloc; as they are without it, or with another one chosen."""
    library = find_library()
    if library is None or "LD_PRELOAD" in inherited:
        return dict(inherited)
    return {"MALLOC_CONF": OPTIONS, "PYTHONMALLOC": "malloc", **inherited, "LD_PRELOAD": library, _STARTED: "1"}


def find_library(folders: Iterable[str] = FOLDERS) -> str | None:
    """The first file of that name; None if there is none, or where this cannot be done.

    The dynamic linker cannot be asked: it refuses to load an allocator into a process that runs already.
    """
    if not sys.platform.startswith("linux"):
        return None
    return next((file for folder in folders if os.path.isfile(file := f"{folder}/{LIBRARY}")), None)


def _has_jemalloc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallctl")
