"""Generators in processes of their own, so that their processor time is known and their pauses are nobody else's."""

from __future__ import annotations

import multiprocessing
import os
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from types import TracebackType

from attrs import evolve

from trio_stt.bench.generator.event_loop import generate
from trio_stt.bench.generator.load import FramedSession, Load, LoadResult

_ENDED = "a load generator ended by itself"


class GeneratorError(Exception):
    """A generator ended by itself."""


class Generators:
    """`count` processes that share each load between them. A context manager."""

    def __init__(self, library: Sequence[FramedSession], count: int = 1) -> None:
        """`library`: all sessions that loads will speak of. More processes than cores are not made."""
        self._library = tuple(library)
        spawning = multiprocessing.get_context("spawn")
        self._pipes: list[Pipe] = []
        self._processes = []
        for _ in range(min(count, len(os.sched_getaffinity(0)))):
            ours, theirs = spawning.Pipe()
            self._pipes.append(ours)
            self._processes.append(spawning.Process(target=_serve, args=(theirs,), daemon=True))

    def __enter__(self) -> Generators:
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            # Not as an argument: starting a process that dies before it has read large ones would never end.
            self._send(pipe, self._library)
        self._answers()  # each says that it is ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=1 if kind is None else 0)
            if process.is_alive():
                process.terminate()
                process.join()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes."""
        return tuple(process.pid for process in self._processes if process.pid is not None)

    def generate(self, load: Load) -> LoadResult:
        """Generates `load` and returns what was seen; talkers keep their numbers. Blocks. Raises `GeneratorError`.

        ``{number}`` in the load's target becomes a number that no other connection of the load has.
        """
        count = len(self._pipes)
        for index, pipe in enumerate(self._pipes):
            target = load.target.replace("{number}", f"{index}-{{number}}")
            self._send(pipe, evolve(load, talkers=load.talkers[index::count], target=target))
        results = self._answers()
        connections = [
            evolve(connection, talker=connection.talker * count + index)
            for index, result in enumerate(results)
            for connection in result.connections
        ]
        late_s = array("d")
        for result in results:
            late_s.extend(result.late_s)
        return LoadResult(
            tuple(connections),
            late_s,
            max(result.over_at for result in results),
            sum(result.cpu_s for result in results),
            sum(result.messages for result in results),
        )

    def _send(self, pipe: Pipe, message: Load | tuple[FramedSession, ...]) -> None:
        try:
            pipe.send(message)
        except BrokenPipeError:
            raise GeneratorError(_ENDED) from None

    def _answers(self) -> list[LoadResult]:
        try:
            return [pipe.recv() for pipe in self._pipes]
        except (EOFError, ConnectionResetError):
            raise GeneratorError(_ENDED) from None


def _serve(requests: Pipe) -> None:
    try:
        library: Sequence[FramedSession] = requests.recv()
        requests.send(None)
        while True:
            requests.send(generate(library, requests.recv()))
    except (EOFError, KeyboardInterrupt):
        return
