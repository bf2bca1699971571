"""The raw engine's figures: how fast it decodes, how well, and what memory it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from trio_stt.bench.engine_process import CHUNK_MS, EngineProcess, Round
from trio_stt.bench.figures import Figure, percentiles
from trio_stt.bench.shipped_graph import shipped
from trio_stt.bench.speech import Clip
from trio_stt.bench.word_errors import total
from trio_stt.models.layout import graph_kind

_RECOGNISERS = 5
"""So many are opened to see what each takes."""


def measure_engine(
    model: Path, clips: Sequence[Clip], rounds: int, say: Callable[[str], None]
) -> tuple[list[Figure], list[str]]:
    """Figures and notes for the compiled graph of `model` and for the one its author ships, taken in turn. Blocks.

    The first round warms up and is not counted. Raises `ModelStoreError`, `ModelError` or `EngineError`.
    """
    with shipped(model) as as_shipped:
        folders = {"compiled graph": model} if graph_kind(model) == "compiled" else {}
        if as_shipped is not None:
            folders["shipped graph"] = as_shipped
        missing = {"compiled graph", "shipped graph"} - set(folders)
        notes = [f"The {name} is not in this model, so it was not measured." for name in missing]
        figures = _measure(folders, clips, rounds, say)
    return figures, notes


def _measure(folders: dict[str, Path], clips: Sequence[Clip], rounds: int, say: Callable[[str], None]) -> list[Figure]:
    done: dict[tuple[str, bool], list[Round]] = {}
    with contextlib.ExitStack() as stack:
        say("Loading the model")
        engines = {name: stack.enter_context(EngineProcess(folder, clips)) for name, folder in folders.items()}
        for number in range(rounds + 1):
            say(f"Round {number} of {rounds}" if number else "Warming up")
            for name, engine in engines.items():
                for fresh in (True, False):
                    decoded = engine.decode(fresh=fresh)
                    if number:
                        done.setdefault((name, fresh), []).append(decoded)
        say("Memory of recognisers")
        each_mb = {name: engine.recogniser_mb(_RECOGNISERS) for name, engine in engines.items()}
    figures = [figure for name in folders for figure in _speed(name, done)]
    for name in folders:
        figures.append(Figure(f"{name}: memory with the model loaded", engines[name].loaded_mb, "MB"))
        figures.append(Figure(f"{name}: memory for each recogniser", max(0.0, each_mb[name]), "MB"))
    return figures + _comparison(done)


def _speed(name: str, done: dict[tuple[str, bool], list[Round]]) -> list[Figure]:
    figures = []
    for fresh, kind in ((True, "new recognisers"), (False, "one recogniser")):
        rounds = done[name, fresh]
        errors = total(each.errors for each in rounds)
        calls = percentiles([time for each in rounds for time in each.call_s])
        figures += [
            Figure(f"{name}, {kind}: CPU per second of audio", _real_time_factor(rounds), "s"),
            Figure(f"{name}, {kind}: a {CHUNK_MS} ms call, p99", calls.p99_ms, "ms"),
            Figure(f"{name}, {kind}: word error rate", errors.rate * 100, "%"),
        ]
    return figures


def _comparison(done: dict[tuple[str, bool], list[Round]]) -> list[Figure]:
    if ("compiled graph", True) not in done or ("shipped graph", True) not in done:
        return []
    return [
        Figure(
            f"shipped graph's CPU to the compiled one's, {kind}",
            _real_time_factor(done["shipped graph", fresh]) / _real_time_factor(done["compiled graph", fresh]),
            "×",
        )
        for fresh, kind in ((True, "new recognisers"), (False, "one recogniser"))
    ]


def _real_time_factor(rounds: Sequence[Round]) -> float:
    return sum(each.cpu_s for each in rounds) / sum(each.audio_s for each in rounds)
