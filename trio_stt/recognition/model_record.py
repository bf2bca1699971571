"""What was found out about a model on this kind of machine, kept between starts: that it works, and what it costs.

A file for each model, graph, version of the engine and processor; when one of them changes, nothing is known.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

import attrs
from attrs import frozen

from trio_stt.models.installed import graph_kind
from trio_stt.models.manifest import write_atomically

_FORMAT = 1


@frozen
class ModelIdentity:
    """What a record is about."""

    engine: str
    graph: str
    files: str
    """A sum over names, sizes and times of change of the model's files."""
    processor: str
    conditions: str = ""
    """What else its cost depends on."""


@frozen
class ModelRecord:
    """`works`: it was loaded and has decoded; `decode_cost`: core-seconds for each second of speech, if measured."""

    works: bool = False
    decode_cost: float | None = None


def identify(model: Path, conditions: str = "") -> ModelIdentity:
    """The identity of the model in folder `model`, without reading its files. Raises `OSError`, `ModelStoreError`."""
    files = sorted((path.relative_to(model).as_posix(), path.stat()) for path in model.rglob("*") if path.is_file())
    lines = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    sum_of_files = hashlib.sha256(lines.encode()).hexdigest()
    return ModelIdentity(f"vosk {version('vosk')}", graph_kind(model), sum_of_files, _processor(), conditions)


class ModelRecords:
    """The records in a folder; without one nothing is remembered."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, identity: ModelIdentity) -> ModelRecord:
        """What is known; an empty record when nothing is, or when it cannot be read."""
        file = self._file(identity)
        if file is None:
            return ModelRecord()
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            cost = known["decode_cost"]
            if known["format"] != _FORMAT or known["identity"] != attrs.asdict(identity):
                return ModelRecord()
            if cost is not None and not (isinstance(cost, float) and math.isfinite(cost) and cost > 0):
                return ModelRecord()
            return ModelRecord(known["works"] is True, cost)
        except (OSError, ValueError, TypeError, KeyError):
            return ModelRecord()

    def write(self, identity: ModelIdentity, record: ModelRecord) -> None:
        """Remembers `record`, whole or not at all. Raises `OSError`."""
        file = self._file(identity)
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        known = {"format": _FORMAT, "identity": attrs.asdict(identity), **attrs.asdict(record)}
        write_atomically(file, json.dumps(known, indent=1) + "\n")

    def _file(self, identity: ModelIdentity) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        return self._folder / f"model-{name}.json"


def _processor() -> str:
    """The processor's name; cores do not matter, because costs are those of one."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("model name", "Model", "cpu model")):
                    return f"{platform.machine()} {line.partition(':')[2].strip()}"
    except OSError:
        pass
    return f"{platform.machine()} {platform.processor() or os.name}"
