"""A model as libvosk is given it: a temporary folder of links to its files, with what must differ from the author's."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trio_stt.models.layout import graph_folder, layout_of
from trio_stt.models.network import step_option

_COMPILED = ("HCLG.fst", "words.txt")
"""What compiling adds to the folder of the graph."""

_ANY_RATE = b"\n--allow-upsample=true\n--allow-downsample=true\n"
"""Kaldi resamples by itself, but fails on a rate below the model's own unless its features are told that it may."""


def has_shipped_graph(model: Path) -> bool:
    """Whether the halves of the decoding graph are there, as the model's author ships them.

    Raises `ModelStoreError` if `model` is no model.
    """
    graph = graph_folder(model)
    return (graph / "HCLr.fst").is_file() and (graph / "Gr.fst").is_file()


@contextlib.contextmanager
def linked_model(model: Path, *, shipped_graph: bool = False, step_ms: int | None = None) -> Iterator[Path]:
    """A temporary folder that is `model`, made to take sound of any sample rate; it costs nothing.

    `shipped_graph`: without its compiled graph. `step_ms`: sound that the network takes at once; None: as its author
    has it. Whoever has loaded the model needs the folder no more. Raises `ModelStoreError` if `model` is no model.
    """
    model = model.resolve()
    configuration = Path(layout_of(model).configuration)
    added = {configuration / "mfcc.conf": _ANY_RATE}
    if step_ms is not None and (model / configuration / "model.conf").is_file():
        added[configuration / "model.conf"] = step_option(model, step_ms).encode()
    graph = graph_folder(model)
    with tempfile.TemporaryDirectory(prefix="trio-stt-model-") as name:
        copy = Path(name)
        for file in model.rglob("*"):
            if not file.is_file() or (shipped_graph and file.parent == graph and file.name in _COMPILED):
                continue
            link = copy / file.relative_to(model)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        for file, options in added.items():
            (copy / file).unlink()
            (copy / file).write_bytes((model / file).read_bytes() + options)
        yield copy
