"""Measured figures beside their targets: as a table for people, as JSON for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from attrs import frozen
from rich.console import Console
from rich.table import Table

from trio_stt import __version__


@frozen
class Figure:
    """One measured value; `at_most` or `at_least` is what it has to keep to, where something was promised."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def kept(self) -> bool | None:
        """Whether the promise is kept; None: there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        """What was promised, for people; empty if nothing was."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g} {self.unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g} {self.unit}"


@frozen
class Percentiles:
    """The distribution of some times, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def percentiles(times_s: Sequence[float]) -> Percentiles:
    """The percentiles of at least one time in seconds (between two measured values: on the line that joins them)."""
    p50, p95, p99, top = (float(value) * 1000 for value in np.percentile(times_s, [50, 95, 99, 100]))
    return Percentiles(len(times_s), p50, p95, p99, top)


def table(title: str, figures: Sequence[Figure]) -> Table:
    """A table of the figures, their targets and whether these are met."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("Figure")
    shown.add_column("Measured", justify="right")
    shown.add_column("Target", justify="right")
    shown.add_column("")
    for figure in figures:
        verdict = {None: "", True: "[green]kept[/]", False: "[red]missed[/]"}[figure.kept]
        shown.add_row(figure.name, f"{_rounded(figure.value)} {figure.unit}", figure.target, verdict)
    return shown


def save(
    file: Path,
    benchmark: str,
    parameters: Mapping[str, object],
    figures: Sequence[Figure],
    notes: Sequence[str] = (),
    measurements: Sequence[Mapping[str, object]] = (),
) -> None:
    """Writes the figures, and what is needed to compare them with others, as JSON. Raises `OSError`."""
    document = {
        "benchmark": benchmark,
        "version": __version__,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "parameters": dict(parameters),
        "figures": [
            {
                "name": each.name,
                "value": each.value,
                "unit": each.unit,
                "at_most": each.at_most,
                "at_least": each.at_least,
                "kept": each.kept,
            }
            for each in figures
        ],
        "notes": list(notes),
        "measurements": [dict(each) for each in measurements],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def report(
    console: Console,
    benchmark: str,
    parameters: Mapping[str, object],
    figures: Sequence[Figure],
    notes: Sequence[str],
    file: Path | None,
    measurements: Sequence[Mapping[str, object]] = (),
) -> bool:
    """Prints the figures and what to know of them, saves them where asked; returns whether all promises are kept.

    `measurements`: what the figures were made of; saved, not printed.
    """
    console.print(table(benchmark, figures))
    for note in notes:
        console.print(f"Note: {note}", markup=False)
    if file is not None:
        save(file, benchmark, parameters, figures, notes, measurements)
        console.print(f"Saved in {file}.", markup=False)
    return all(figure.kept is not False for figure in figures)


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
