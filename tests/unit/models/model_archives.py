"""Small archives shaped like Vosk models."""

import os
import zipfile
from pathlib import Path

PARTS = {
    "am/final.mdl": 120_000,
    "conf/mfcc.conf": 100,
    "conf/model.conf": 200,
    "graph/HCLr.fst": 5_000,
    "graph/Gr.fst": 6_000,
    "graph/disambig_tid.int": 20,
    "graph/phones/word_boundary.int": 50,
    "ivector/final.ie": 900,
    "ivector/final.mat": 800,
}

FLAT_PARTS = {"final.mdl": 120_000, "mfcc.conf": 100, "HCLr.fst": 50, "Gr.fst": 50, "disambig_tid.int": 20}


def write_archive(file: Path, root: str = "vosk-model-small-xx-0.1/", parts: dict[str, int] | None = None) -> Path:
    """A zip of files with random content, under `root`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("AndroidManifest.xml", "<manifest/>")
        for name, length in (PARTS if parts is None else parts).items():
            archive.writestr(root + name, os.urandom(length))
    return file


def write_model(folder: Path, parts: dict[str, int] | None = None) -> Path:
    """The same files, unpacked in `folder`."""
    for name, length in (PARTS if parts is None else parts).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(length))
    return folder
