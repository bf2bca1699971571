"""Compilation with scripts in the tools' place: what happens around the tools. The real tools: tests/e2e."""

import sys
from pathlib import Path

import pytest
from model_archives import write_model
from rich.console import Console

from trio_stt.models import compile_graph, decode_recording, manifest
from trio_stt.models.compile_graph import Estimate
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.layout import graph_kind
from trio_stt.models.openfst import OpenFst

QUIET = Console(quiet=True)
WORDS = ["the", "quick", "brown", "fox", "jumped", "over", "seventeen", "lazy", "dogs", "near", "the", "river"]

# Writes its last argument, and the file of --save_osymbols, as the real tools do.
SCRIPT = """#!/bin/sh
for argument; do case $argument in --save_osymbols=*) echo "<eps> 0" > "${argument#*=}";; esac; last=$argument; done
echo made > "$last"
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "models/vosk-model-xx")
    (folder / "graph/disambig_tid.int").write_text("7\n8\n")
    manifest.write(folder, manifest.describe(folder, "xx", manifest.Origin("m.zip", "here", "0" * 64, 1)))
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> OpenFst:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("fstsymbols", "fstcompose", "fstrelabel", "fstconvert"):
        (folder / name).write_text(SCRIPT)
        (folder / name).chmod(0o755)
    return OpenFst(folder, "")


def hears(monkeypatch: pytest.MonkeyPatch, shipped: list[str], compiled: list[str]) -> None:
    def heard(model: Path) -> list[str]:
        return compiled if graph_kind(model) == "compiled" else shipped

    monkeypatch.setattr(compile_graph, "_heard", heard)


def names_beside(model: Path) -> set[str]:
    return {entry.name for entry in model.parent.iterdir()}


def test_a_graph_that_hears_the_same_is_put_in_place_and_in_the_manifest(
    model: Path, tools: OpenFst, monkeypatch: pytest.MonkeyPatch
) -> None:
    hears(monkeypatch, WORDS, WORDS)
    compile_graph.compile_graph(model, tools, QUIET)
    assert graph_kind(model) == "compiled"
    assert (model / "graph/words.txt").read_text() == "<eps> 0\n"
    known = manifest.read(model)
    assert known is not None
    assert manifest.faults(model, known) == []
    assert names_beside(model) == {"vosk-model-xx"}


def test_one_word_of_twelve_may_differ_two_may_not(
    model: Path, tools: OpenFst, monkeypatch: pytest.MonkeyPatch
) -> None:
    hears(monkeypatch, WORDS, [*WORDS[:-2], "a", "b"])
    with pytest.raises(ModelStoreError, match="2 of 12 words"):
        compile_graph.compile_graph(model, tools, QUIET)
    assert graph_kind(model) == "dynamic"
    assert not (model / "graph/words.txt").exists()
    assert names_beside(model) == {"vosk-model-xx"}
    hears(monkeypatch, WORDS, [*WORDS[:-1], "b"])
    compile_graph.compile_graph(model, tools, QUIET)
    assert graph_kind(model) == "compiled"


def test_a_recording_in_which_nothing_is_heard_proves_nothing(
    model: Path, tools: OpenFst, monkeypatch: pytest.MonkeyPatch
) -> None:
    hears(monkeypatch, ["the"], ["the"])
    with pytest.raises(ModelStoreError, match="nothing to compare"):
        compile_graph.compile_graph(model, tools, QUIET)


@pytest.mark.parametrize("tool", ["fstsymbols", "fstcompose", "fstrelabel", "fstconvert"])
def test_a_tool_that_fails_is_named_with_its_words_and_the_model_stays(model: Path, tools: OpenFst, tool: str) -> None:
    (tools.folder / tool).write_text("#!/bin/sh\necho 'FATAL: unknown FST type' >&2\nexit 3\n")
    with pytest.raises(ModelStoreError, match=rf"{tool} failed with exit code 3: FATAL: unknown FST type"):
        compile_graph.compile_graph(model, tools, QUIET)
    assert graph_kind(model) == "dynamic"
    assert names_beside(model) == {"vosk-model-xx"}


def test_a_tool_killed_for_memory_is_said_to_be(model: Path, tools: OpenFst) -> None:
    (tools.folder / "fstcompose").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(ModelStoreError, match="run out of memory"):
        compile_graph.compile_graph(model, tools, QUIET)


def test_what_an_interrupted_compilation_left_goes_with_the_next_one(
    model: Path, tools: OpenFst, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = model.parent / ".compile-vosk-model-xx@old"
    (stale / "trial-1").mkdir(parents=True)
    other = model.parent / ".compile-vosk-model-xx-yy@old"  # of vosk-model-xx-yy, perhaps at work
    other.mkdir()
    hears(monkeypatch, WORDS, WORDS)
    compile_graph.compile_graph(model, tools, QUIET)
    assert names_beside(model) == {"vosk-model-xx", other.name}


def test_the_estimate_bounds_what_was_measured(tmp_path: Path) -> None:
    graph = write_model(tmp_path / "m") / "graph"
    for gr_bytes, hclr_bytes, result_bytes, memory_bytes in (
        (24_013_795, 22_416_994, 225_483_441, 726_632 * 1024),  # English, small
        (48_498_089, 181_533_466, 997_774_465, 3_200_000_000),  # Korean
    ):
        for name, length in (("Gr.fst", gr_bytes), ("HCLr.fst", hclr_bytes)):
            with (graph / name).open("wb") as file:
                file.truncate(length)  # sparse
        estimated = compile_graph.estimate(tmp_path / "m")
        assert result_bytes <= estimated.result_bytes <= 1.3 * result_bytes
        assert memory_bytes <= estimated.memory_bytes <= 1.3 * memory_bytes


@pytest.mark.parametrize(
    ("needed", "reason"),
    [
        (Estimate(45, 700_000_000, 225_000_000, 460_000_000), None),
        (Estimate(45, 1_300_000_000, 225_000_000, 460_000_000), "memory are free"),
        (Estimate(45, 700_000_000, 900_000_000, 460_000_000), "half a gigabyte"),
        (Estimate(45, 700_000_000, 225_000_000, 10**18), "disk are free"),
    ],
)
def test_by_itself_a_graph_is_compiled_only_where_it_fits_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: Estimate, reason: str | None
) -> None:
    monkeypatch.setattr(compile_graph, "available_memory_bytes", lambda: 2_000_000_000)
    against = compile_graph.obstacle(needed, tmp_path)
    assert against is None if reason is None else reason in str(against)


def test_where_free_memory_is_unknown_the_user_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_graph, "available_memory_bytes", lambda: None)
    assert compile_graph.obstacle(Estimate(1, 1, 1, 1), tmp_path) is not None


def test_a_decoder_that_crashes_is_a_refusal_with_its_words(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelStoreError, match="Decoding with the graph failed"):
        compile_graph._heard(model)


def test_the_known_recording_is_fourteen_seconds_of_sound() -> None:
    samples = decode_recording.recording()
    assert 13 < len(samples) / 2 / decode_recording.SAMPLE_RATE < 15
