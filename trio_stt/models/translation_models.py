"""Translation models on the disk: what they are made of, which the catalogue knows, which are installed.

Two kinds, both for CTranslate2 with sentencepiece: Argos packages (``metadata.json``, ``model/``,
``sentencepiece.model``) and OPUS-MT models converted by CTranslate2's own tools (``model.bin``, ``source.spm``,
``target.spm``). A model for English to Vietnamese lies in the folder ``translation-en-vi`` of the models' folder.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

from attrs import frozen

from trio_stt.models.catalogue import CatalogueModel
from trio_stt.models.errors import ModelStoreError

FOLDER = "translation-"
"""What the names of their folders begin with."""

_PAIR = re.compile(r"([a-z]{2,3})-([a-z]{2,3})")


@frozen
class TranslationLayout:
    """Where the parts lie, relative to the model's folder."""

    model: str
    source_pieces: str
    target_pieces: str

    @property
    def is_opus_mt(self) -> bool:
        """Whether it is a converted OPUS-MT model, else an Argos package."""
        return self == OPUS_MT

    @property
    def parts(self) -> tuple[str, ...]:
        """The files that must be there."""
        needed = (f"{self.model}/model.bin".removeprefix("./"), self.source_pieces, self.target_pieces)
        return tuple(dict.fromkeys(needed if self.is_opus_mt else (*needed, "metadata.json")))


ARGOS = TranslationLayout("model", "sentencepiece.model", "sentencepiece.model")
OPUS_MT = TranslationLayout(".", "source.spm", "target.spm")
LAYOUTS = (ARGOS, OPUS_MT)


@frozen
class InstalledTranslation:
    """A translation model on the disk."""

    source: str
    target: str
    path: Path

    @property
    def name(self) -> str:
        """What `trio-stt models` calls it."""
        return f"{self.source}-{self.target}"


def layout_of_translation(model: Path) -> TranslationLayout:
    """The layout of the model in folder `model`. Raises `ModelStoreError` when it holds none that is whole."""
    for layout in LAYOUTS:
        if all((model / part).is_file() for part in layout.parts):
            return layout
    wanted = " or ".join(", ".join(layout.parts) for layout in LAYOUTS)
    raise ModelStoreError(f"{model} holds no translation model (expected {wanted}).")


def translation_root(archive: str, names: set[str]) -> str:
    """The prefix of the model's files among the `names` in an archive. Raises `ModelStoreError`."""
    for layout in LAYOUTS:
        marker = layout.parts[-1]
        roots = {name.removesuffix(marker) for name in names if name == marker or name.endswith("/" + marker)}
        roots = {root for root in roots if all(root + part in names for part in layout.parts)}
        if len(roots) == 1:
            return roots.pop()
        if roots:
            raise ModelStoreError(f"{archive} holds several models: {', '.join(sorted(roots))}.")
    wanted = " or ".join(", ".join(layout.parts) for layout in LAYOUTS)
    raise ModelStoreError(f"{archive} holds no translation model for CTranslate2 (expected {wanted}).")


def check_translation(model: Path, pair: str) -> None:
    """Checks that `model` is whole and translates `pair`, as far as it says so itself. Raises `ModelStoreError`."""
    if layout_of_translation(model).is_opus_mt:
        return
    try:
        metadata = json.loads((model / "metadata.json").read_text(encoding="utf-8"))
        says = f"{metadata['from_code']}-{metadata['to_code']}"
    except (ValueError, KeyError, TypeError) as error:
        raise ModelStoreError(f"{model / 'metadata.json'} does not say which languages the model is for.") from error
    if says != pair:
        raise ModelStoreError(f"The archive is a model for {says}, not for {pair}.")


def is_pair(name: str) -> bool:
    """Whether `name` is one of the catalogue's pairs of languages, such as ``en-vi``."""
    return name in load_translations()


def check_pair(name: str) -> None:
    """Raises `ModelStoreError` unless `name` is two language subtags with a hyphen."""
    match = _PAIR.fullmatch(name)
    if match is None or match[1] == match[2]:
        raise ModelStoreError(f"{name!r} is no pair of languages: expected two subtags, such as en-vi.")


def folder_of_translation(models_dir: Path, pair: str) -> Path:
    """The folder of the model for `pair`."""
    return models_dir / f"{FOLDER}{pair}"


def installed_translations(models_dir: Path) -> list[InstalledTranslation]:
    """The translation models in `models_dir`, by name. Folders without one are left out."""
    found = []
    for path in sorted(models_dir.glob(f"{FOLDER}*")):
        match = _PAIR.fullmatch(path.name.removeprefix(FOLDER))
        if match is None:
            continue
        try:
            layout_of_translation(path)
        except ModelStoreError:
            continue
        found.append(InstalledTranslation(match[1], match[2], path))
    return found


def load_translations() -> dict[str, CatalogueModel]:
    """The catalogue's translation models by pair, read from ``translation_catalogue.json`` beside this file.

    Names are those of the author's index. The sums of en-vi and vi-en were published by two projects each, which
    measured the author's files independently of each other; the others are trusted at their first download.
    """
    file = resources.files(__package__).joinpath("translation_catalogue.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    return {
        entry["pair"]: CatalogueModel(
            language=entry["pair"],
            name=entry["name"],
            archive=entry["archive"],
            url=data["author_site"] + entry["archive"],
            bytes=entry.get("bytes"),
            licence=data["licence"],
            sha256=entry.get("sha256"),
            packaged=None,
        )
        for entry in data["models"]
    }
