"""The measured loads as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from trio_stt.bench.capacity import Step
from trio_stt.bench.figures import Percentiles

UNKNOWN = "–"
"""Stands where a server does not tell."""

_COLUMNS = (
    "Server",
    "Speakers",
    "Lag p50/p95/p99 ms",
    "Last words p95 ms",
    "Errors %",
    "Memory MB",
    "Decoder",
    "Gate",
    "Rest",
    "Generator",
    "× raw",
    "Held",
)


def steps_table(steps: Sequence[Step]) -> Table:
    """One row for each load, by server and load; processor time in milliseconds for each second of audio."""
    shown = Table(
        title="Loads (decoder, gate, rest, generator: CPU milliseconds a second of audio)", title_justify="left"
    )
    for column in _COLUMNS:
        shown.add_column(column, justify="left" if column == "Server" else "right")
    servers = list(dict.fromkeys(step.measured.server for step in steps))
    for step in sorted(steps, key=lambda step: (servers.index(step.measured.server), step.measured.talkers)):
        shown.add_row(*_cells(step))
    return shown


def _cells(step: Step) -> list[str]:
    measured, usage = step.measured, step.measured.usage
    return [
        measured.server,
        str(measured.talkers),
        _lag(measured.lag),
        UNKNOWN if measured.last_words is None else f"{measured.last_words.p95_ms:.0f}",
        f"{100 * measured.errors.rate:.1f}" if measured.errors.words else UNKNOWN,
        UNKNOWN if usage is None else f"{usage.resident_mb:.0f}",
        UNKNOWN if usage is None else f"{1000 * usage.decoder_s:.1f}",
        UNKNOWN if usage is None or usage.gate_s is None else f"{1000 * usage.gate_s:.1f}",
        UNKNOWN if usage is None else f"{1000 * usage.server_s:.1f}",
        f"{1000 * measured.generator_s:.1f}",
        UNKNOWN if step.times_raw is None else f"{step.times_raw:.2f}",
        "yes" if step.held else "no",
    ]


def _lag(lag: Percentiles | None) -> str:
    return UNKNOWN if lag is None else f"{lag.p50_ms:.0f}/{lag.p95_ms:.0f}/{lag.p99_ms:.0f}"
