"""How a model's network takes sound: so many frames in one step, once it has seen some frames beyond them.

Each step reads all weights (16 MB in the small English model) and packs them anew for the matrix library: with longer
steps the same sound costs less, and partial captions come later, by half a step on average.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Final

from attrs import frozen

from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import layout_of

FRAME_MS: Final = 10
"""From one frame to the next; all Vosk models have Kaldi's default."""

_DEFAULT_STEP_FRAMES: Final = 24
"""That of vosk 0.3.45 without ``--frames-per-chunk``: with 24 its partials change at the same samples."""

_SUBSAMPLING: Final = 3
"""Frames to an output of the network, in every Vosk model; a step is a multiple of it."""

_RIGHT_CONTEXT: Final = b"<RightContext> \x04"
"""Where the network's right context stands at the end of ``final.mdl``: then four bytes, little-endian."""

_TAIL_BYTES: Final = 4096
_STEP_OPTION: Final = re.compile(r"^--frames-per-chunk=(\d+)\s*$", re.MULTILINE)
_SPLICE_OPTION: Final = re.compile(r"^--right-context=(\d+)\s*$", re.MULTILINE)


@frozen
class NetworkStep:
    """Frames of one step, and how many frames beyond its last the network must see first."""

    frames: int
    look_ahead_frames: int


def step_option(model: Path, step_ms: int) -> str:
    """The line for ``model.conf`` that has the network take about `step_ms` at once; empty if the model sets its own.

    Raises `ModelStoreError` if `model` is no model.
    """
    settings = _text(model / layout_of(model).configuration / "model.conf")
    if _STEP_OPTION.search(settings):
        return ""
    return f"\n--frames-per-chunk={_whole_step(step_ms // FRAME_MS)}\n"


def network_step(model: Path) -> NetworkStep | None:
    """How the network of `model` takes sound; None if its file does not tell. Raises `ModelStoreError`, `OSError`."""
    layout = layout_of(model)
    with (model / layout.marker).open("rb") as file:
        file.seek(max(0, (model / layout.marker).stat().st_size - _TAIL_BYTES))
        _, found, rest = file.read().rpartition(_RIGHT_CONTEXT)
    if not found or len(rest) < 4:
        return None
    (context,) = struct.unpack("<i", rest[:4])
    step = _STEP_OPTION.search(_text(model / layout.configuration / "model.conf"))
    splice = _SPLICE_OPTION.search(_text(model / "ivector" / "splice.conf"))
    return NetworkStep(
        _whole_step(int(step[1]) if step else _DEFAULT_STEP_FRAMES), context + (int(splice[1]) if splice else 0)
    )


def _whole_step(frames: int) -> int:
    return max(1, -(-frames // _SUBSAMPLING)) * _SUBSAMPLING


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ModelStoreError(f"{file} cannot be read: {error}") from error
