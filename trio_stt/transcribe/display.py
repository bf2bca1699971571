"""What people see on the terminal while a source is transcribed: a progress bar and the words as they are recognised.

All of it goes to standard error, and only to a terminal; results never pass through here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from trio_stt.transcribe.captions import plain

MAX_NAME_LETTERS = 24
"""Of a longer name the end is shown: beside it a bar and two clocks have to fit on 80 columns."""

REFRESH_S = 0.1
"""The terminal is painted at most so often."""


class Display:
    """Paints on `console`, or on a plain file writes messages only. Used from one thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._duration_s: float | None = None
        self._partial = ""
        self._painted_at = 0.0

    @contextlib.contextmanager
    def showing(self, name: str, duration_s: float | None) -> Iterator[None]:
        """Shows the progress of the source `name` until the block is left; None: its length is not known."""
        if not self._console.is_terminal:
            yield
            return
        self._partial, self._duration_s = "", duration_s
        bar = [BarColumn(), TextColumn("{task.percentage:>3.0f} %")] if duration_s else []
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            *bar,
            TextColumn("{task.fields[position]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task(_short(name), total=duration_s, position="")
        # rich must not take hold of standard output: it would send the results to standard error.
        self._live = Live(
            self._picture(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        try:
            with self._live:
                yield
        finally:
            self._live = self._progress = self._task = None

    @contextlib.contextmanager
    def making_room(self) -> Iterator[None]:
        """Takes the picture away while something else writes to the same terminal."""
        if self._live is None:
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def partial(self, text: str) -> None:
        """Shows the words of the open utterance; none: it is over."""
        self._partial = plain(text)
        self._paint()

    def progress(self, done_s: float) -> None:
        """Shows that `done_s` seconds of the source are done."""
        if self._progress is not None and self._task is not None:
            position = _clock(done_s) + (f" of {_clock(self._duration_s)}" if self._duration_s else "")
            self._progress.update(self._task, completed=done_s, position=position)
            self._paint()

    def message(self, text: str) -> None:
        """Writes a line that stays."""
        with self.making_room():
            self._console.print(Text(plain(text)), soft_wrap=True)

    def _paint(self) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._painted_at >= REFRESH_S:
            self._painted_at = now
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> Group:
        """The bar, and under it the end of the open utterance; what does not fit on the line is cut at its front."""
        room = max(1, self._console.width - 1)
        text = Text(self._partial, style="dim", no_wrap=True)
        if text.cell_len > room:
            text = Text("…" + self._partial[-(room - 1) :], style="dim", no_wrap=True, overflow="crop")
        assert self._progress is not None  # noqa: S101 (set together with the live area)
        return Group(self._progress, text)


def _short(name: str) -> str:
    """The file's own name, or as much of its end as leaves room for the bar."""
    own_name = plain(os.path.basename(name))
    return own_name if len(own_name) <= MAX_NAME_LETTERS else "…" + own_name[1 - MAX_NAME_LETTERS :]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
