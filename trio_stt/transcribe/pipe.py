"""A pipe, such as standard input, that can be read with a way to stop although nothing more comes."""

from __future__ import annotations

import os
import queue
import threading
from typing import BinaryIO

PIPE_READ_BYTES = 4096
"""Most bytes taken at once: an eighth of a second at 16 kHz, so that live sound is not held back."""

_MAX_HELD_READS = 16


class Pipe:
    """What FFmpeg needs of a file, and `stop`. A thread of its own waits for the bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._descriptor = stream.fileno()
        self._held: queue.Queue[bytes] = queue.Queue(_MAX_HELD_READS)
        self._rest = b""
        self._ended = False
        # Nothing ends a blocked read; a daemon thread does not keep the process. os.read, because a thread that holds
        # the lock of a buffered stream when the interpreter ends makes that end a crash.
        threading.Thread(target=self._pump, name="standard input", daemon=True).start()

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`, as soon as there are any; none at the end or after `stop`. Blocks."""
        if not self._rest and not self._ended:
            self._rest = self._held.get()
        self._ended = self._ended or not self._rest
        if self._ended:
            return b""
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def stop(self) -> None:
        """Ends the stream for its reader, from any thread."""
        self._ended = True
        try:
            self._held.put_nowait(b"")
        except queue.Full:
            pass  # then the reader is not waiting

    def _pump(self) -> None:
        while not self._ended:
            try:
                data = os.read(self._descriptor, PIPE_READ_BYTES)
            except OSError:  # the other side is gone, or the descriptor closed: the end all the same
                data = b""
            self._held.put(data)
            if not data:
                return
