"""Which models are installed, and where: ``vosk-model`` (English) and ``vosk-model-LANG`` in the folder of models."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import graph_kind, layout_of

__all__ = ["InstalledModel", "folder_of", "graph_kind", "installed"]

_ENGLISH = "vosk-model"


@frozen
class InstalledModel:
    """A model on the disk."""

    language: str
    path: Path
    compiled: bool
    size_bytes: int


def folder_of(models_dir: Path, language: str) -> Path:
    """The folder of the model for `language`: the rule of `Settings.model_path`."""
    return models_dir / (_ENGLISH if language == "en" else f"{_ENGLISH}-{language}")


def installed(models_dir: Path) -> list[InstalledModel]:
    """The models in `models_dir`, English first, then by language. Folders without a Vosk model are left out."""
    found = []
    for path in [models_dir / _ENGLISH, *sorted(models_dir.glob(f"{_ENGLISH}-*"))]:
        try:
            layout_of(path)
        except ModelStoreError:
            continue
        language = path.name.removeprefix(_ENGLISH).removeprefix("-") or "en"
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        found.append(InstalledModel(language, path, graph_kind(path) == "compiled", size))
    return found
