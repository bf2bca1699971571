"""Composes a model's decoding graph once, so that it need not be composed while decoding.

A model is shipped with two halves, ``HCLr.fst`` (sounds to words) and ``Gr.fst`` (which word follows which). libvosk
composes them for every utterance anew, unless it finds the whole, ``HCLG.fst``, with ``words.txt``: then decoding is
about six times faster for a new recogniser and takes no memory for each. The price is disk, memory and a minute once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attrs import evolve, frozen
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trio_stt.models import manifest
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import graph_folder, layout_of
from trio_stt.models.openfst import OpenFst

_DECODING_TIMEOUT_S = 300

MAX_WORDS_DIFFERENT = 0.1
"""Share of the recording's words that may differ between the graphs: the beam may prune a tie the other way."""

MIN_WORDS_HEARD = 5
"""Fewer words would compare nothing. The models at hand hear 35 (English) and 31 (Korean)."""


@frozen
class Estimate:
    """What compiling a graph will take."""

    seconds: float
    memory_bytes: int
    """At the peak, for the time of compiling."""
    result_bytes: int
    """Size of ``HCLG.fst``; a loaded model takes about as much more memory."""
    disk_bytes: int
    """At the peak, in the folder of models."""

    def __str__(self) -> str:
        return (
            f"about {self.seconds:.0f} s, {self.memory_bytes / 1e9:.1f} GB of memory,"
            f" {self.disk_bytes / 1e9:.1f} GB of disk while it runs and {self.result_bytes / 1e9:.2f} GB afterwards"
        )


def estimate(model: Path) -> Estimate:
    """What compiling the graph of `model` will take, by the sizes of its halves.

    Raises `ModelStoreError` when the halves are not there.
    """
    halves = sum(half.stat().st_size for half in _halves(model))
    # Upper bounds of what was measured: English, 46 MB of halves: 45 s, 0.74 GB, result 225 MB; Korean, 230 MB: 120 to
    # 200 s, 3.2 GB, result 1.0 GB. The disk holds the result and what it was converted from, a tenth smaller.
    return Estimate(halves / 1e6, 17 * halves, 5 * halves, 10 * halves)


def obstacle(needed: Estimate, model: Path) -> str | None:
    """Why compiling should be left to the user's own choice here, or None when it fits well."""
    if needed.result_bytes > 500_000_000:
        return "the graph would take more than half a gigabyte of memory in every server"
    available = available_memory_bytes()
    if available is None:
        return "this system does not tell how much memory is free"
    if needed.memory_bytes > available * 0.6:
        return f"only {available / 1e9:.1f} GB of memory are free"
    free = shutil.disk_usage(model).free
    if needed.disk_bytes > free * 0.6:
        return f"only {free / 1e9:.1f} GB of disk are free"
    return None


def available_memory_bytes() -> int | None:
    """Memory that a new process may take, by the kernel and by the control group's limit; None where Linux is not."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    rows = dict(line.split(":", 1) for line in meminfo.splitlines())
    available = int(rows["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return available
    return min(available, limit - used)


def compile_graph(model: Path, tools: OpenFst, console: Console) -> None:
    """Compiles the graph of `model` and puts it in place, checked; the caller holds the model's lock.

    Until the last moment everything lies in a folder of its own beside the model. Raises `ModelStoreError` when a step
    fails or the new graph hears other words than the shipped one; the model is then as it was.
    """
    model = model.resolve()  # the work's folder must be on the same file system
    clear_stale(model)
    work = Path(tempfile.mkdtemp(prefix=_prefix(model), dir=model.parent))
    try:
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
            _build(model, work, tools, progress)
            _compare(model, work, progress)
        _put_in_place(model, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def clear_stale(model: Path) -> None:
    """Removes what an interrupted compilation of `model` left behind; the caller holds the model's lock."""
    for left in model.parent.glob(_prefix(model) + "*"):
        shutil.rmtree(left)


def _prefix(model: Path) -> str:
    return f".compile-{model.name}@"


def _halves(model: Path) -> tuple[Path, Path]:
    graph = graph_folder(model)
    halves = graph / "HCLr.fst", graph / "Gr.fst"
    if not all(half.is_file() for half in halves):
        raise ModelStoreError(f"{graph} has no HCLr.fst and Gr.fst to compile.")
    return halves


def _build(model: Path, work: Path, tools: OpenFst, progress: Progress) -> None:
    """Writes ``HCLG.fst`` and ``words.txt`` into `work`."""
    hclr, gr = _halves(model)
    disambiguation = (graph_folder(model) / "disambig_tid.int").read_text(encoding="ascii").split()
    relabel = work / "relabel.txt"
    relabel.write_text("".join(f"{label} 0\n" for label in disambiguation), encoding="ascii")
    g, a, b = work / "G.fst", work / "A.fst", work / "B.fst"
    # G's own symbol table, kept, would break the result's. The look-ahead in HCLr's type makes the composition small.
    # Disambiguation symbols become epsilon, for they stand for no sound. `const` is what libvosk maps fastest.
    steps: list[tuple[str, str, list[str | Path], Path | None]] = [
        ("words", "fstsymbols", [f"--save_osymbols={work / 'words.txt'}", gr, os.devnull], None),
        ("language model", "fstsymbols", ["--clear_isymbols", "--clear_osymbols", gr, g], None),
        ("composition", "fstcompose", ["--fst_compat_symbols=false", hclr, g, a], g),
        ("labels", "fstrelabel", [f"--relabel_ipairs={relabel}", a, b], a),
        ("writing", "fstconvert", ["--fst_type=const", b, work / "HCLG.fst"], b),
    ]
    expected_s = estimate(model).seconds
    began = time.monotonic()
    task = progress.add_task("Compiling", total=expected_s)
    for name, tool, arguments, used_up in steps:
        progress.update(task, description=f"Compiling the graph: {name}")
        tools.run(
            tool,
            arguments,
            while_waiting=lambda: progress.update(task, completed=min(time.monotonic() - began, 0.95 * expected_s)),
        )
        if used_up is not None:
            used_up.unlink()
    progress.update(task, completed=expected_s, description="Compiled the graph")


def _compare(model: Path, work: Path, progress: Progress) -> None:
    """Raises `ModelStoreError` unless the graph in `work` hears in the known recording what the shipped one hears."""
    task = progress.add_task("Comparing with the shipped graph", total=2)
    words = []
    for graph_files in ({}, {name: work / name for name in ("HCLG.fst", "words.txt")}):
        words.append(_heard(_trial_model(model, work, graph_files)))
        progress.advance(task)
    shipped, compiled = words
    if len(shipped) < MIN_WORDS_HEARD:
        raise ModelStoreError(
            f"The shipped graph hears only {shipped} in the known recording: nothing to compare with."
        )
    different = Levenshtein.distance(shipped, compiled)
    if different > MAX_WORDS_DIFFERENT * len(shipped):
        raise ModelStoreError(
            f"The compiled graph is wrong: {different} of {len(shipped)} words of the known recording differ."
            f" Shipped: {' '.join(shipped)!r}; compiled: {' '.join(compiled)!r}. The shipped graph stays in use."
        )


def _trial_model(model: Path, work: Path, graph_files: dict[str, Path]) -> Path:
    """A model in `work` with the files of `model` but its compiled graph, and `graph_files` among its graph."""
    trial = Path(tempfile.mkdtemp(prefix="trial-", dir=work))
    layout = layout_of(model)
    for file in model.rglob("*"):
        name = file.relative_to(model)
        if file.is_file() and file != graph_folder(model) / "HCLG.fst" and name.name not in graph_files:
            (trial / name).parent.mkdir(parents=True, exist_ok=True)
            (trial / name).symlink_to(file.resolve())
    for graph_name, file in graph_files.items():
        (trial / layout.graph / graph_name).symlink_to(file.resolve())
    return trial


def _heard(model: Path) -> list[str]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trio_stt.models.decode_recording", str(model)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_DECODING_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        raise ModelStoreError(f"Decoding with the graph failed ({error}): {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise ModelStoreError(f"Decoding with the graph took longer than {_DECODING_TIMEOUT_S} s.") from error
    words: list[str] = json.loads(done.stdout)
    return words


def _put_in_place(model: Path, work: Path) -> None:
    """Moves the two files into the model, ``HCLG.fst`` last: until it is there libvosk takes the shipped graph."""
    graph = graph_folder(model)
    for name in ("words.txt", "HCLG.fst"):
        with (work / name).open("rb") as file:
            os.fsync(file.fileno())
    known = manifest.read(model)
    if known is not None:
        sums = {
            str((graph / name).relative_to(model).as_posix()): manifest.sum_of(work / name)
            for name in ("words.txt", "HCLG.fst")
        }
        manifest.write(model, evolve(known, files={**known.files, **sums}))
    for name in ("words.txt", "HCLG.fst"):
        (work / name).replace(graph / name)
