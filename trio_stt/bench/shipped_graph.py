"""A model as its author ships it, beside the same model with a compiled graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trio_stt.models.linked_model import has_shipped_graph, linked_model


@contextlib.contextmanager
def shipped(model: Path) -> Iterator[Path | None]:
    """A temporary folder that is `model` without its compiled graph; None where the graph's sources were removed.

    Raises `ModelStoreError` if `model` is no model.
    """
    if not has_shipped_graph(model):
        yield None
        return
    with linked_model(model, shipped_graph=True) as copy:
        yield copy
