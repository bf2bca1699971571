"""Lag against load as a picture.

Drawn by pygal: kept up to date, small and pure Python, and its SVG is a text file that any browser shows. (matplotlib
draws as well, but brings tens of megabytes of packages to a server that needs none of it.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pygal
from pygal.style import CleanStyle

from trio_stt.bench.capacity import MOST_LAG_S, Step

_POINTS = ("p50", "p95", "p99")
_LEAST_MS = 1.0  # the axis is logarithmic


def plot_lag(file: Path, title: str, steps: Sequence[Step]) -> None:
    """Writes an SVG: speakers across, lag in milliseconds upwards, a line for each server and percentile.

    A load that was measured more than once is its median. Raises `OSError`.
    """
    chart = pygal.XY(
        title=title,
        x_title="speakers in real time",
        y_title="lag in ms",
        logarithmic=True,
        style=CleanStyle,
        js=[],  # else the picture would load a script from elsewhere
        no_prefix=True,
        legend_at_bottom=True,
        dots_size=2,
    )
    loads = [step.measured.talkers for step in steps]
    for server in dict.fromkeys(step.measured.server for step in steps):
        for point in _POINTS:
            chart.add(f"{server}, {point}", _line(steps, server, point))
    limit_ms = 1000 * MOST_LAG_S
    chart.add(f"{limit_ms:g} ms", [(min(loads), limit_ms), (max(loads), limit_ms)], show_dots=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(chart.render())


def _line(steps: Sequence[Step], server: str, point: str) -> list[tuple[int, float]]:
    lags_ms: defaultdict[int, list[float]] = defaultdict(list)
    for step in steps:
        if step.measured.server == server and step.measured.lag is not None:
            lags_ms[step.measured.talkers].append(max(_LEAST_MS, getattr(step.measured.lag, f"{point}_ms")))
    return [(load, median(lags_ms[load])) for load in sorted(lags_ms)]
