"""What was installed: the sum of the archive and of every file, written inside the model's folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import attrs
from attrs import frozen

from trio_stt.models.errors import ModelStoreError

NAME = "manifest.json"


@frozen
class Origin:
    """The archive that a model came from."""

    archive: str
    """File name."""
    source: str
    """Where it was had: a URL, a file, or coordinates in a registry."""
    sha256: str
    bytes: int


@frozen
class FileSum:
    """A file of a model."""

    sha256: str
    bytes: int


@frozen
class Manifest:
    """Everything that was installed as one model."""

    language: str
    origin: Origin
    installed_at: str
    """UTC, ISO 8601."""
    files: dict[str, FileSum]
    """By name relative to the model's folder, with slashes."""


def sha256_of(file: Path) -> str:
    """The SHA-256 of `file` in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def describe(model: Path, language: str, origin: Origin) -> Manifest:
    """The manifest of all files that now lie in `model`."""
    sums = {name: sum_of(model / name) for name in _names(model)}
    return Manifest(language, origin, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), sums)


def sum_of(file: Path) -> FileSum:
    """Sum and size of `file`."""
    return FileSum(sha256_of(file), file.stat().st_size)


def write(model: Path, manifest: Manifest) -> None:
    """Puts `manifest` into `model`, whole or not at all."""
    write_atomically(model / NAME, json.dumps(attrs.asdict(manifest), indent=1) + "\n")


def read(model: Path) -> Manifest | None:
    """The manifest of `model`; None when it has none. Raises `ModelStoreError` when it is broken."""
    try:
        data = json.loads((model / NAME).read_text(encoding="utf-8"))
        files = {name: FileSum(**entry) for name, entry in data["files"].items()}
        return Manifest(data["language"], Origin(**data["origin"]), data["installed_at"], files)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelStoreError(f"{model / NAME} is broken ({error}). Remove the model and install it again.") from error


def faults(model: Path, manifest: Manifest) -> list[str]:
    """How the files of `model` differ from `manifest`, one sentence each; empty when they do not."""
    found = []
    present = set(_names(model))
    for name, expected in sorted(manifest.files.items()):
        if name not in present:
            found.append(f"{name} is missing")
        elif (size := (model / name).stat().st_size) != expected.bytes:
            found.append(f"{name} has {size:,} bytes instead of {expected.bytes:,}")
        elif sha256_of(model / name) != expected.sha256:
            found.append(f"{name} has changed: its SHA-256 is another one")
    found += [f"{name} was not installed" for name in sorted(present - manifest.files.keys())]
    return found


def write_atomically(file: Path, text: str) -> None:
    """Replaces `file` by `text`: readers and a crash see the old or the new content, never a part."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)


def _names(model: Path) -> list[str]:
    return [
        path.relative_to(model).as_posix()
        for path in sorted(model.rglob("*"))
        if path.is_file() and path.name != NAME and not path.name.startswith(f".{NAME}.")
    ]
