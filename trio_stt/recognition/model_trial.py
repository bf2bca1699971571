"""Whether a model may be loaded: a damaged one can end this process, or never return, inside libvosk.

What is cheap is looked at on each start: that everything is there, readable and of the size that was installed. A
model that has not been loaded on this machine is then compared with its sums, and loaded by a process of its own that
may crash:
``python -m trio_stt.recognition.model_trial FOLDER``.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from trio_stt.models import manifest
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import check_structure, layout_of
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.recognition.model_record import ModelRecord, ModelRecords, identify

TRIAL_TIMEOUT_S: Final = 60.0
"""A trial takes about a second; a large model on a slow disk many."""


def check_model(model: Path, language: str, records: ModelRecords, *, installed: bool = True) -> None:
    """Returns when `model` can be loaded. Blocks: milliseconds when `records` know it, else a second or more.

    `installed`: by our commands, which then can mend it. Raises `ModelError`, which says what is wrong with it and what
    to do.
    """
    mend = (
        f"Check it with 'trio-stt models verify {language}', remove it with 'trio-stt models remove {language}' and "
        f"install it again with 'trio-stt models install {language}', or set VOSK_MODEL_PATH to another model's folder."
        if installed
        else "Set VOSK_MODEL_PATH to another model's folder, or leave it out: "
        f"'trio-stt models install {language}' installs one."
    )
    try:
        if not model.is_dir():
            raise ModelError(
                f"{model} is {'not a folder' if model.exists() else 'not there'}: no speech model for "
                f"{language}. Install one with 'trio-stt models install {language}', "
                "or set VOSK_MODEL_PATH to the folder of a model."
            )
        faults = _visible_faults(model)
        if faults:
            raise ModelError(f"The speech model in {model} is damaged: {'; '.join(faults)}. {mend}")
        identity = identify(model)
        if not records.read(identity).works:
            _examine(model, mend)
            with suppress(
                OSError
            ):  # then it is tried again at the next start; what it costs is kept beside this, or not
                records.write(identity, ModelRecord(works=True))
    except ModelStoreError as error:
        raise ModelError(f"{error} {mend}") from error
    except OSError as error:
        raise ModelError(
            f"The speech model in {model} cannot be read: {error.strerror or error} ({error.filename}). "
            "Give the server's user the right to read it, or set VOSK_MODEL_PATH to another model's folder."
        ) from error


def _visible_faults(model: Path) -> list[str]:
    """What is wrong with the files, without reading them through."""
    check_structure(model)
    layout = layout_of(model)
    known = manifest.read(model)
    if known is not None:
        expected = {name: entry.bytes for name, entry in known.files.items()}
        faults = [f"{name} is missing" for name in expected if not (model / name).is_file()]
        faults += [
            f"{name} has {size:,} bytes instead of {expected[name]:,}"
            for name in expected
            if (model / name).is_file() and (size := (model / name).stat().st_size) != expected[name]
        ]
        return faults
    settings = [*(model / layout.configuration).glob("*.conf"), *(model / "ivector").glob("*.conf")]
    needed = [*settings, *(model / layout.graph).glob("*.fst"), *(model / layout.graph).glob("words.txt")]
    return [f"{file.relative_to(model)} is empty" for file in needed if not file.stat().st_size]


def _examine(model: Path, mend: str) -> None:
    """Compares the files with their sums while another process loads the model and decodes with it."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(model)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as trial:
        try:
            known = manifest.read(model)
            faults = manifest.faults(model, known) if known is not None else []
            said = trial.communicate(timeout=TRIAL_TIMEOUT_S)[1].decode(errors="replace").strip().splitlines()
        except subprocess.TimeoutExpired:
            faults = [*faults, f"it does not decode a second of noise within {TRIAL_TIMEOUT_S:g} s"]
        finally:
            trial.kill()
    if trial.returncode < 0 and not faults:
        faults = ["libvosk crashes on it"]
    if faults:
        raise ModelError(f"The speech model in {model} is damaged: {'; '.join(faults)}. {mend}")
    if trial.returncode:
        raise ModelError(said[-1] if said else f"The speech model in {model} cannot be loaded. {mend}")


def _try(model: Path) -> None:
    from trio_stt.recognition.vosk_engine import VoskEngine, warm_up

    warm_up(VoskEngine(model, recogniser_memory_mb=0))


if __name__ == "__main__":
    try:
        _try(Path(sys.argv[1]))
    except (ModelError, EngineError) as reason:
        sys.exit(str(reason))
