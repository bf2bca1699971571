"""Which models are installed, and where: ``vosk-model`` (English) and ``vosk-model-LANG`` in the folder of models."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import graph_kind, layout_of

__all__ = ["InstalledModel", "folder_of", "graph_kind", "installed", "installed_folders", "is_model", "language_of"]

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


def language_of(folder: Path) -> str:
    """The language of the model in `folder`, by the same rule; of any other name: the name itself."""
    return "en" if folder.name == _ENGLISH else folder.name.removeprefix(f"{_ENGLISH}-")


def is_model(folder: Path) -> bool:
    """Whether a Vosk model lies in `folder`; two or three looks at the disk."""
    try:
        layout_of(folder)
    except ModelStoreError:
        return False
    return True


def installed_folders(models_dir: Path) -> list[Path]:
    """The folders of the models in `models_dir`, English first, then by language."""
    return [path for path in [models_dir / _ENGLISH, *sorted(models_dir.glob(f"{_ENGLISH}-*"))] if is_model(path)]


def installed(models_dir: Path) -> list[InstalledModel]:
    """The models in `models_dir`, English first, then by language. Folders without a Vosk model are left out."""
    found = []
    for path in installed_folders(models_dir):
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        found.append(InstalledModel(language_of(path), path, graph_kind(path) == "compiled", size))
    return found
