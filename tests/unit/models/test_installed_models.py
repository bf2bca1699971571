from pathlib import Path

import pytest
from model_archives import FLAT_PARTS, PARTS, write_model

from trio_stt.models import catalogue, manifest
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.installed import folder_of, graph_kind, installed
from trio_stt.models.layout import check_structure
from trio_stt.settings import Settings

ORIGIN = manifest.Origin("m.zip", "here", "0" * 64, 1)


@pytest.mark.parametrize("language", ["en", "vi"])
def test_a_models_folder_is_where_the_settings_look_for_it(tmp_path: Path, language: str) -> None:
    assert folder_of(tmp_path, language) == Settings(models_dir=tmp_path, language=language).model_path


def test_installed_lists_models_only_english_first(tmp_path: Path) -> None:
    write_model(tmp_path / "vosk-model-de")
    write_model(tmp_path / "vosk-model")
    write_model(tmp_path / ".new-fr@1")
    (tmp_path / "vosk-model-it").mkdir()
    compiled = write_model(tmp_path / "vosk-model-pt", FLAT_PARTS)
    (compiled / "HCLG.fst").write_bytes(b"graph")
    found = installed(tmp_path)
    assert [(model.language, model.compiled) for model in found] == [("en", False), ("de", False), ("pt", True)]
    assert found[0].size_bytes == sum(PARTS.values())
    assert found[0].path == tmp_path / "vosk-model"


def test_nothing_is_installed_where_there_is_no_folder(tmp_path: Path) -> None:
    assert installed(tmp_path / "none") == []


def test_the_compiled_graph_is_used_when_it_is_there(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    assert graph_kind(model) == "dynamic"
    (model / "graph/HCLG.fst").write_bytes(b"graph")
    assert graph_kind(model) == "compiled"


@pytest.mark.parametrize("name", ["graph/Gr.fst", "graph/HCLr.fst", "graph/disambig_tid.int", "ivector/final.ie"])
def test_a_model_that_lacks_a_part_is_named_with_the_part(tmp_path: Path, name: str) -> None:
    model = write_model(tmp_path / "m")
    check_structure(model)
    (model / name).unlink()
    with pytest.raises(ModelStoreError, match=name):
        check_structure(model)


def test_an_error_page_in_place_of_the_acoustic_model_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    (model / "am/final.mdl").write_text("<html>")
    with pytest.raises(ModelStoreError, match="too small"):
        check_structure(model)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    written = manifest.describe(model, "xx", ORIGIN)
    manifest.write(model, written)
    assert manifest.read(model) == written
    assert manifest.faults(model, written) == []


def test_every_difference_from_the_manifest_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    known = manifest.describe(model, "xx", ORIGIN)
    same_length = bytearray((model / "graph/Gr.fst").read_bytes())
    same_length[3] ^= 1
    (model / "graph/Gr.fst").write_bytes(same_length)
    (model / "conf/model.conf").write_bytes(b"short")
    (model / "ivector/final.mat").unlink()
    (model / "graph/extra").write_bytes(b"x")
    assert manifest.faults(model, known) == [
        "conf/model.conf has 5 bytes instead of 200",
        "graph/Gr.fst has changed: its SHA-256 is another one",
        "ivector/final.mat is missing",
        "graph/extra was not installed",
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"files": {"a": 1}}', '{"files": {"a": {"sum": 1}}}'])
def test_a_broken_manifest_is_told_from_none(tmp_path: Path, text: str) -> None:
    assert manifest.read(tmp_path) is None
    (tmp_path / manifest.NAME).write_text(text)
    with pytest.raises(ModelStoreError, match="broken"):
        manifest.read(tmp_path)


def test_the_catalogue_has_the_promised_languages_over_https_with_proper_sums() -> None:
    models = catalogue.load()
    assert {"en", "vi", "de", "es", "fr", "pt", "ru", "zh", "ja", "ko", "hi", "it"} <= models.keys()
    for model in models.values():
        assert model.url.startswith("https://")
        assert model.url.endswith(f"/{model.archive}")
        assert model.sha256 is None or (len(model.sha256) == 64 and int(model.sha256, 16))


def test_the_documentation_names_every_archive_of_the_catalogue() -> None:
    page = (Path(__file__).parents[3] / "docs/models.md").read_text(encoding="utf-8")
    for model in catalogue.load().values():
        row = f"| `{model.language}` | {model.name} | `{model.archive}` | {model.bytes / 1e6:.0f} |"
        assert row in page
        assert model.packaged is None or model.packaged.coordinates in page
