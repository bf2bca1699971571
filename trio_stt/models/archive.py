"""Unpacks the model inside a zip archive (``.zip``, ``.aar``, ``.whl``) from which nothing good is expected."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import CURRENT, FLAT

MAX_FILES = 2000
"""Entries of an archive; the published models have 15 to 40."""

MAX_RATIO = 20
"""Unpacked bytes for each packed byte. The published models need 1.5 to 3; a zip bomb of one layer reaches 1000."""

_FREE_SPACE_LEFT_BYTES = 100_000_000


def unpack_model(archive: Path, into: Path, root_of: Callable[[str, set[str]], str] | None = None) -> None:
    """Writes the files of the model in `archive` to the new folder `into`, its own top folders stripped.

    Raises `ModelStoreError` when the archive is broken or hostile (names outside, links, encryption, too many files, a
    bomb), holds not exactly one model, or does not fit on the disk; `into` may then hold a part. `root_of` finds the
    model among the names in an archive, and raises `ModelStoreError`; default: a Vosk model.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            _refuse_hostile(archive, entries)
            root = (root_of or vosk_root)(archive.name, {entry.filename for entry in entries})
            wanted = [entry for entry in entries if not entry.is_dir() and entry.filename.startswith(root)]
            _check_space(into.parent, sum(entry.file_size for entry in wanted))
            for entry in wanted:
                target = into / entry.filename.removeprefix(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                # Reading checks the length against file_size and the CRC at the end.
                with source.open(entry) as packed, target.open("xb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelStoreError(f"{archive.name} is not a sound zip archive: {error}.") from error


def _refuse_hostile(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES:
        raise ModelStoreError(f"{archive.name} holds {len(entries)} entries; a model has at most {MAX_FILES}.")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        # orig_filename: zipfile cuts names at a NUL and turns backslashes over on Windows.
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or any(sign in entry.orig_filename for sign in "\\:\0"):
            raise ModelStoreError(
                f"{archive.name} is hostile: the name {entry.orig_filename!r} leads out of its folder."
            )
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ModelStoreError(f"{archive.name} is hostile: {name!r} is a link or a special file.")
        if entry.flag_bits & 1:
            raise ModelStoreError(f"{archive.name} is encrypted ({name!r}).")
        if name.lower().rstrip("/") in seen:
            raise ModelStoreError(f"{archive.name} is hostile: {name!r} stands in it twice.")
        seen.add(name.lower().rstrip("/"))
    unpacked, packed = sum(entry.file_size for entry in entries), archive.stat().st_size
    if unpacked > MAX_RATIO * packed:
        raise ModelStoreError(
            f"{archive.name} would grow from {packed:,} to {unpacked:,} bytes: more than {MAX_RATIO} times, a zip bomb."
        )


def vosk_root(archive: str, names: set[str]) -> str:
    """The prefix of the names of the Vosk model's files, with its slash; empty when they lie at the top."""
    for layout in (CURRENT, FLAT):
        marker = layout.marker
        roots = {name.removesuffix(marker) for name in names if name == marker or name.endswith("/" + marker)}
        roots = {root for root in roots if f"{root}{layout.configuration}mfcc.conf" in names}
        if len(roots) == 1:
            return roots.pop()
        if roots:
            raise ModelStoreError(f"{archive} holds several models: {', '.join(sorted(roots))}.")
    raise ModelStoreError(f"{archive} holds no Vosk model (no am/final.mdl with conf/mfcc.conf).")


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _FREE_SPACE_LEFT_BYTES:
        raise ModelStoreError(
            f"{folder} has {free / 1e6:.0f} MB free; the model needs {needed_bytes / 1e6:.0f} MB"
            f" and {_FREE_SPACE_LEFT_BYTES / 1e6:.0f} MB are to stay free. Make room and run this again."
        )
