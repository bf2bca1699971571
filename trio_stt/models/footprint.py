"""How much memory a model takes, estimated from its files before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trio_stt.models.layout import graph_folder, layout_of

ACOUSTIC_GROWTH: Final = 1.6
SHIPPED_GROWTH: Final = 2.0
"""What libvosk keeps in memory for each byte of the acoustic model's files, and of the two halves of the graph as it is
shipped. The compiled graph takes just its size. Together they give what the small English model takes, compiled and as
shipped (283 and 130 MB of resident memory), and the Korean as shipped (521 MB), within 6 %."""

_BYTES_PER_MB = 1_000_000


def memory_mb(model: Path) -> float:
    """About what the model in folder `model` takes once it is loaded, without recognisers, in MB (10^6 bytes).

    Raises `ModelStoreError` if `model` holds no model.
    """
    graph = graph_folder(model)
    if not (graph / "HCLG.fst").is_file():
        return _shipped_mb(model)
    return (_size([graph / "HCLG.fst", graph / "words.txt"]) + _acoustic_bytes(model)) / _BYTES_PER_MB


def phrases_mb(model: Path) -> float:
    """What the graph as its author ships it takes besides the compiled one, in MB; 0 if there is no compiled one.

    Raises `ModelStoreError` if `model` holds no model.
    """
    return _shipped_mb(model) if (graph_folder(model) / "HCLG.fst").is_file() else 0.0


def _shipped_mb(model: Path) -> float:
    graph = graph_folder(model)
    halves = _size([graph / "HCLr.fst", graph / "Gr.fst"])
    return (SHIPPED_GROWTH * halves + _acoustic_bytes(model)) / _BYTES_PER_MB


def _acoustic_bytes(model: Path) -> float:
    """The acoustic model, and what else is loaded with any graph."""
    folders = [model / "ivector", model / "rescore", model / "rnnlm"]
    inside = [file for folder in folders if folder.is_dir() for file in folder.rglob("*")]
    return ACOUSTIC_GROWTH * _size([model / layout_of(model).marker, *inside])


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
