"""The real English model: its graph compiled by the real tools, interrupted, repeated, and spoilt on purpose."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.progress import Progress

from trio_stt.models import compile_graph
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.installed import graph_kind, installed

REPOSITORY = Path(__file__).parents[2]
KNOWN_TEXT = (
    "the quick brown fox jumped over seventeen lazy dogs near the riverbank"
    " please send the quarterly report to my office before thursday afternoon"
    " twenty four children were singing happily while the rain kept falling outside"
)


def run(*arguments: str) -> tuple[int, str]:
    """`trio-stt models` in the repository: exit code and messages."""
    command = [sys.executable, "-m", "trio_stt", "models", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def english() -> Path:
    """An installed English model: TRIO_STT_TEST_MODEL, else the repository's own, else one installed for the tests."""
    given = os.environ.get("TRIO_STT_TEST_MODEL")
    for path in [Path(given)] if given else [REPOSITORY / "models/vosk-model"]:
        if path.is_dir():
            return path
    cache = REPOSITORY / ".cache/test-models"
    code, said = run("--models-dir", str(cache), "install", "en", "--compile", "no")
    assert code == 0, said
    return cache / "vosk-model"


@pytest.fixture
def shipped(english: Path, tmp_path: Path) -> Path:
    """The model as its author ships it, without a compiled graph, in a folder of models of its own."""
    model = tmp_path / "models/vosk-model"
    shutil.copytree(english, model, ignore=shutil.ignore_patterns("HCLG.fst", "words.txt", "manifest.json"))
    return model


def kill_while_composing(models_dir: Path) -> None:
    """Starts compiling and kills the command with its tools as soon as the composition is being made."""
    command = [sys.executable, "-m", "trio_stt", "models", "--models-dir", str(models_dir), "compile", "en"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 60
    while not list(models_dir.glob(".compile-*/G.fst")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_compiled_graph_hears_the_same_and_a_spoilt_one_is_refused(shipped: Path, tmp_path: Path) -> None:
    code, said = run("tools")
    assert code == 0, said
    store = ("--models-dir", str(shipped.parent))

    kill_while_composing(shipped.parent)
    assert graph_kind(shipped) == "dynamic"
    assert list(shipped.parent.glob(".compile-*"))

    code, said = run(*store, "compile", "en")
    assert code == 0, said
    assert "Compiled and checked" in said
    assert not list(shipped.parent.glob(".compile-*"))
    assert [model.compiled for model in installed(shipped.parent)] == [True]
    assert " ".join(compile_graph._heard(shipped)) == KNOWN_TEXT

    began = time.monotonic()
    code, said = run(*store, "install", "en")
    assert (code, "installed already" in said) == (0, True)
    assert time.monotonic() - began < 10

    words = (shipped / "graph/words.txt").read_text(encoding="utf-8")
    names = [line.split()[0] for line in words.splitlines()]
    shifted = "".join(f"{name} {number}\n" for number, name in enumerate(names[1:] + names[:1]))
    graph = (shipped / "graph/HCLG.fst").read_bytes()
    for fault, spoilt_words, spoilt_graph in (
        ("words of the known recording differ", shifted, graph),
        ("Decoding with the graph failed", words, graph[:-10_000_000]),
    ):
        work = tmp_path / fault
        work.mkdir()
        (work / "words.txt").write_text(spoilt_words, encoding="utf-8")
        (work / "HCLG.fst").write_bytes(spoilt_graph)
        with Progress(disable=True) as progress, pytest.raises(ModelStoreError, match=fault):
            compile_graph._compare(shipped, work, progress)
