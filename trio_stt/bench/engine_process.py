"""The raw engine in a process of its own: so two engines can be measured in turn, each with its own memory."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from attrs import frozen

from trio_stt.bench.process_usage import resident_mb
from trio_stt.bench.speech import SAMPLE_RATE, Clip
from trio_stt.bench.word_errors import WordErrors, total, word_errors
from trio_stt.recognition.engine import EngineError, ModelError, Recogniser
from trio_stt.recognition.vosk_engine import VoskEngine, warm_up

CHUNK_MS = 100
"""Audio given in one call, as the server does by default (DECODE_CHUNK_MS)."""

_CHUNK_SAMPLES = SAMPLE_RATE * CHUNK_MS // 1000

_UNBOUNDED_MB = 1_000_000

_CLIPS_TO_WARM = 4
"""After so many clips a recogniser's caches have grown to most of their size."""

_Answer = TypeVar("_Answer")


@frozen
class Round:
    """All clips decoded once: processor time of the decoding thread, the audio, the errors, and each call's time."""

    cpu_s: float
    audio_s: float
    errors: WordErrors
    call_s: tuple[float, ...]

    @property
    def real_time_factor(self) -> float:
        """Processor seconds for each second of audio."""
        return self.cpu_s / self.audio_s


@frozen
class Slice:
    """Audio decoded on some threads at once, and their processor time."""

    cpu_s: float
    audio_s: float


@frozen
class _RoundRequest:
    fresh: bool
    clips: Sequence[Clip] | None


@frozen
class _SliceRequest:
    threads: int
    seconds: float
    together: int


@frozen
class _MemoryRequest:
    recognisers: int


class EngineProcess:
    """A child process with a loaded and warmed model. A context manager."""

    def __init__(self, model: Path, clips: Sequence[Clip]) -> None:
        """Raises `ModelError` or `EngineError` on entering, if the model cannot be used."""
        spawning = multiprocessing.get_context("spawn")
        self._ours, self._theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(self._theirs, model, clips), daemon=True)
        self.loaded_mb = 0.0

    def __enter__(self) -> EngineProcess:
        self._process.start()
        self._theirs.close()
        self.loaded_mb = self._answer(float)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def decode(self, *, fresh: bool, clips: Sequence[Clip] | None = None) -> Round:
        """Decodes all clips, or these, with a new recogniser for each (`fresh`) or one for all. Blocks.

        Raises `EngineError`.
        """
        self._ours.send(_RoundRequest(fresh, clips))
        return self._answer(Round)

    def decode_for(self, seconds: float, threads: int, together: int = 1) -> Slice:
        """Decodes clips on `threads` threads at once, a new recogniser for each, for `seconds` or a little longer.

        Each thread decodes `together` clips at a time, `CHUNK_MS` of one, then of the next. Blocks. Raises
        `EngineError`.
        """
        self._ours.send(_SliceRequest(threads, seconds, together))
        return self._answer(Slice)

    def recogniser_mb(self, count: int) -> float:
        """Memory that each of `count` more recognisers takes once it has decoded some clips. Blocks."""
        self._ours.send(_MemoryRequest(count))
        return self._answer(float)

    def _answer(self, kind: type[_Answer]) -> _Answer:
        try:
            answer = self._ours.recv()
        except EOFError:
            raise EngineError("the engine's process ended by itself") from None
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, kind):
            raise TypeError(f"the engine's process answered {answer!r}")
        return answer


def _serve(requests: Connection, model: Path, clips: Sequence[Clip]) -> None:
    try:
        engine = VoskEngine(model, recogniser_memory_mb=_UNBOUNDED_MB)
        warm_up(engine)
        slices = _Slices(engine, clips)
        requests.send(resident_mb(os.getpid()))
        while True:
            match requests.recv():
                case _RoundRequest(fresh, others):
                    requests.send(_decode_all(engine, clips if others is None else others, fresh=fresh))
                case _SliceRequest(threads, seconds, together):
                    requests.send(slices.decode_for(seconds, threads, together))
                case _MemoryRequest(count):
                    requests.send(_memory_of_each(engine, clips, count))
    except EOFError:
        return
    except (ModelError, EngineError) as error:
        requests.send(error)


def _decode_all(engine: VoskEngine, clips: Sequence[Clip], *, fresh: bool) -> Round:
    cpu_s = 0.0
    errors: list[WordErrors] = []
    call_s: list[float] = []
    recogniser = engine.open()
    for number, clip in enumerate(clips):
        if fresh and number:
            recogniser = engine.open()  # the last one is not given back: it would be handed out again
        began_s = time.thread_time()
        heard = _decode(recogniser, clip, call_s)
        cpu_s += time.thread_time() - began_s
        errors.append(word_errors(clip.words, heard))
    return Round(cpu_s, sum(clip.seconds for clip in clips), total(errors), tuple(call_s))


def _decode(recogniser: Recogniser, clip: Clip, call_s: list[float]) -> list[str]:
    for start in range(0, len(clip.samples), _CHUNK_SAMPLES):
        began_s = time.thread_time()
        recogniser.accept(clip.samples[start : start + _CHUNK_SAMPLES])
        recogniser.partial()
        call_s.append(time.thread_time() - began_s)
    return [word.text for word in recogniser.finish()]


class _Slices:
    """Goes through the clips again and again; each slice goes on where the last of its kind stopped."""

    def __init__(self, engine: VoskEngine, clips: Sequence[Clip]) -> None:
        self._engine = engine
        self._clips = itertools.cycle(clips)
        self._going: dict[tuple[int, int], Iterator[int]] = {}

    def decode_for(self, seconds: float, threads: int, together: int) -> Slice:
        deadline = time.monotonic() + seconds
        going = [self._going.setdefault((together, thread), self._decode(together)) for thread in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(lambda calls: _run_until(deadline, calls), going))
        return Slice(sum(part.cpu_s for part in parts), sum(part.audio_s for part in parts))

    def _decode(self, together: int) -> Iterator[int]:
        """Decodes without end, a chunk with each step; what it tells is the chunk's samples."""
        while True:
            speakers = [(self._engine.open(), next(self._clips).samples) for _ in range(together)]
            for at in range(0, max(len(spoken) for _, spoken in speakers), _CHUNK_SAMPLES):
                for recogniser, spoken in speakers:
                    if at < len(spoken):
                        chunk = spoken[at : at + _CHUNK_SAMPLES]
                        recogniser.accept(chunk)
                        recogniser.partial()
                        yield len(chunk)


def _run_until(deadline: float, calls: Iterator[int]) -> Slice:
    samples = 0
    began_s = time.thread_time()
    while time.monotonic() < deadline:
        samples += next(calls)
    return Slice(time.thread_time() - began_s, samples / SAMPLE_RATE)


def _memory_of_each(engine: VoskEngine, clips: Sequence[Clip], count: int) -> float:
    gc.collect()
    before_mb = resident_mb(os.getpid())
    recognisers = [engine.open() for _ in range(count)]
    for recogniser in recognisers:
        for clip in clips[:_CLIPS_TO_WARM]:
            _decode(recogniser, clip, [])
    return (resident_mb(os.getpid()) - before_mb) / count
