"""Where the parts of a Vosk model lie. libvosk knows two layouts (``src/model.cc``); a folder has one or the other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from trio_stt.models.errors import ModelStoreError

GraphKind = Literal["compiled", "dynamic"]
"""compiled: ``HCLG.fst`` is there and libvosk uses it; dynamic: ``HCLr.fst`` and ``Gr.fst``, composed in decoding."""

_TOO_SMALL_BYTES = 100_000  # the smallest acoustic model published is 15 MB; an error page is a few kB


@frozen
class Layout:
    """The folders inside a model folder, relative to it."""

    acoustic: str
    configuration: str
    graph: str

    @property
    def marker(self) -> str:
        """The file that every model of this layout has, relative to its folder."""
        return f"{self.acoustic}final.mdl"


CURRENT = Layout("am/", "conf/", "graph/")
"""Most models."""

FLAT = Layout("", "", "")
"""Older ones, such as the small Portuguese."""


def layout_of(model: Path) -> Layout:
    """The layout of the model in folder `model`. Raises `ModelStoreError` when it holds neither."""
    for layout in (CURRENT, FLAT):
        if (model / layout.marker).is_file() and (model / layout.configuration / "mfcc.conf").is_file():
            return layout
    raise ModelStoreError(
        f"{model} holds no Vosk model: no am/final.mdl with conf/mfcc.conf, nor final.mdl with mfcc.conf."
    )


def graph_folder(model: Path) -> Path:
    """The folder of the decoding graph of `model`. Raises `ModelStoreError` when `model` holds no model."""
    return model / layout_of(model).graph


def graph_kind(model: Path) -> GraphKind:
    """Which decoding graph libvosk takes when it opens `model`. Raises `ModelStoreError` when it holds no model."""
    return "compiled" if (graph_folder(model) / "HCLG.fst").is_file() else "dynamic"


def check_structure(model: Path) -> None:
    """Checks that everything libvosk needs is there. Raises `ModelStoreError` naming what is missing."""
    layout = layout_of(model)
    graph = model / layout.graph
    missing = [
        str(path.relative_to(model))
        for path in (graph / "HCLr.fst", graph / "Gr.fst", graph / "disambig_tid.int")
        if not path.is_file() and not (graph / "HCLG.fst").is_file()
    ]
    if (graph / "HCLG.fst").is_file() and not (graph / "words.txt").is_file():
        missing.append(str((graph / "words.txt").relative_to(model)))
    if (model / "ivector").is_dir():
        missing += [f"ivector/{name}" for name in ("final.ie", "final.mat") if not (model / "ivector" / name).is_file()]
    if missing:
        raise ModelStoreError(f"{model} is not a whole Vosk model: {', '.join(missing)} missing.")
    if (model / layout.marker).stat().st_size < _TOO_SMALL_BYTES:
        raise ModelStoreError(f"{model / layout.marker} is too small to be an acoustic model.")
