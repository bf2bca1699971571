"""One process at a time works on a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console


@contextmanager
def exclusive(models_dir: Path, language: str, console: Console) -> Iterator[None]:
    """Holds the lock of the model for `language`; waits, and says so, while another process has it.

    The lock is the kernel's: it ends with the process that holds it, however that ends.
    """
    folder = models_dir / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{language}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"Another process is working on the model for {language}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
