"""A model as its author ships it, beside the same model with a compiled graph."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trio_stt.models.layout import graph_folder

_COMPILED = ("HCLG.fst", "words.txt")
"""What compiling adds to the folder of the graph."""


@contextlib.contextmanager
def shipped(model: Path) -> Iterator[Path | None]:
    """A temporary folder that is `model` without its compiled graph; None where the graph's sources were removed.

    It is made of links, so it costs nothing. Raises `ModelStoreError` if `model` is no model.
    """
    model = model.resolve()
    graph = graph_folder(model)
    if not (graph / "HCLr.fst").is_file() or not (graph / "Gr.fst").is_file():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="trio-stt-bench-") as name:
        copy = Path(name)
        _link_all(model, copy, but={graph.name} if graph != model else set(_COMPILED))
        if graph != model:
            (copy / graph.name).mkdir()
            _link_all(graph, copy / graph.name, but=set(_COMPILED))
        yield copy


def _link_all(source: Path, target: Path, but: set[str]) -> None:
    for entry in source.iterdir():
        if entry.name not in but:
            (target / entry.name).symlink_to(entry)
