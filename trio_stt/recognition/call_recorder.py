"""Records every recogniser call with its samples, so that the benchmark can make the same calls again without a server.

The file holds people's speech: it is made readable by its owner alone, and only where somebody asked for it.

Format: `MAGIC`, then for each call, in the order in which the calls ended, a header (`_HEADER`, little-endian:
operation u8, recogniser u32, begin u64 in ns of the monotonic clock, thread CPU time u64 in ns, samples u32) and the
samples as s16le.
"""

from __future__ import annotations

import atexit
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TypeVar

import numpy as np
from attrs import frozen

from trio_stt.recognition.engine import Engine, HeardWord, PlainOptions, PlainRecogniser, Recogniser, Samples

T = TypeVar("T")

MAGIC = b"TRIO-STT CALLS 1\n"
"""The first bytes of a recording."""

_HEADER = struct.Struct("<BIQQI")
_BUFFER_BYTES = 8 * 2**20
_NO_SAMPLES: Samples = np.zeros(0, np.int16)


class Operation(Enum):
    """What was called."""

    OPEN = 1
    ACCEPT = 2
    PARTIAL = 3
    FINISH = 4
    FORGET = 5
    CLOSE = 6


@frozen
class RecordedCall:
    """One call: on which recogniser (numbered from 1 in the order of opening), when it began, what CPU time it took."""

    operation: Operation
    recogniser: int
    began_ns: int
    cpu_ns: int
    samples: Samples


class CallRecorder:
    """Writes calls into one file, which is complete whenever no recogniser is open. Safe to use from many threads."""

    def __init__(self, file: Path) -> None:
        """Makes `file` anew, for its owner's eyes only. Raises `OSError`."""
        # A large buffer: writing costs time of the server that is measured.
        self._file = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", _BUFFER_BYTES)
        atexit.register(self.close)
        self._file.write(MAGIC)
        self._file.flush()
        self._lock = threading.Lock()
        self._open = 0

    def call(
        self, operation: Operation, recogniser: int, function: Callable[[], T], samples: Samples = _NO_SAMPLES
    ) -> T:
        """Calls `function` and notes that. A call that raises is not noted."""
        began_ns = time.monotonic_ns()
        cpu_ns = time.thread_time_ns()
        result = function()
        cpu_ns = time.thread_time_ns() - cpu_ns
        header = _HEADER.pack(operation.value, recogniser, began_ns, cpu_ns, len(samples))
        with self._lock:
            self._file.write(header)
            self._file.write(samples.astype("<i2", copy=False).data)
            self._open += (operation is Operation.OPEN) - (operation is Operation.CLOSE)
            if not self._open:
                self._file.flush()
        return result

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()


class _RecordedRecogniser:
    def __init__(self, recogniser: Recogniser, number: int, recorder: CallRecorder) -> None:
        self.recogniser = recogniser
        self.number = number
        self._recorder = recorder

    def accept(self, samples: Samples) -> None:
        self._recorder.call(Operation.ACCEPT, self.number, lambda: self.recogniser.accept(samples), samples)

    def partial(self) -> str:
        return self._recorder.call(Operation.PARTIAL, self.number, self.recogniser.partial)

    def finish(self) -> tuple[HeardWord, ...]:
        return self._recorder.call(Operation.FINISH, self.number, self.recogniser.finish)

    def forget(self) -> None:
        self._recorder.call(Operation.FORGET, self.number, self.recogniser.forget)


class RecordingEngine:
    """An engine that does what `engine` does, and has every call noted by `recorder`."""

    def __init__(self, engine: Engine, recorder: CallRecorder) -> None:
        self._engine = engine
        self._recorder = recorder
        self._opened = 0
        self._lock = threading.Lock()

    @property
    def description(self) -> dict[str, object]:
        """The engine's own."""
        return self._engine.description

    @property
    def recogniser_limit(self) -> int | None:
        """The engine's own."""
        return self._engine.recogniser_limit

    def recogniser_mb(self, decoded_s: float) -> float:
        """The engine's own."""
        return self._engine.recogniser_mb(decoded_s)

    def open(self) -> Recogniser:
        """A recogniser whose calls are noted. Raises `EngineError`."""
        with self._lock:
            self._opened += 1
            number = self._opened
        return _RecordedRecogniser(
            self._recorder.call(Operation.OPEN, number, self._engine.open), number, self._recorder
        )

    def load_phrases(self) -> None:
        """The engine's own. Raises `ModelError`."""
        self._engine.load_phrases()

    def open_plain(self, options: PlainOptions) -> PlainRecogniser:
        """The engine's own: its calls are not noted. Raises `EngineError`."""
        return self._engine.open_plain(options)

    def unload(self) -> None:
        """Frees the model of the engine."""
        self._engine.unload()

    def close(self, recogniser: Recogniser | PlainRecogniser) -> None:
        """Takes a recogniser of this engine back."""
        if not isinstance(recogniser, _RecordedRecogniser):
            self._engine.close(recogniser)
            return
        self._recorder.call(Operation.CLOSE, recogniser.number, lambda: self._engine.close(recogniser.recogniser))


class RecordingReader:
    """Reads a recording, also one that is still growing."""

    def __init__(self, file: Path) -> None:
        """Raises `OSError`; `ValueError` for a file that is no recording."""
        self._file = file
        with file.open("rb") as recording:
            if recording.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{file} is not a recording of recogniser calls.")
        self._position = len(MAGIC)

    def new_calls(self) -> Iterator[RecordedCall]:
        """The calls that were not read yet, in order. Raises `OSError`; `ValueError` if the last one is not whole."""
        with self._file.open("rb") as recording:
            recording.seek(self._position)
            while header := recording.read(_HEADER.size):
                if len(header) < _HEADER.size:
                    raise self._cut_short()
                operation, recogniser, began_ns, cpu_ns, count = _HEADER.unpack(header)
                payload = recording.read(2 * count)
                if len(payload) < 2 * count:
                    raise self._cut_short()
                self._position = recording.tell()
                samples = np.frombuffer(payload, "<i2").astype(np.int16, copy=False)
                yield RecordedCall(Operation(operation), recogniser, began_ns, cpu_ns, samples)

    def _cut_short(self) -> ValueError:
        return ValueError(f"{self._file} ends within a call; was the server killed?")
