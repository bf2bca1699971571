"""A model that is damaged or not there ends the start with a message and exit code 1, never with a crash or a hang."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import server_process
from trio_stt.models.manifest import NAME as MANIFEST


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A model folder of links to the real files, without a manifest: as if it had been put there by hand."""
    folder = tmp_path / "vosk-model"
    for file in model.rglob("*"):
        if file.is_file() and file.name != MANIFEST:
            link = folder / file.relative_to(model)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return folder


def replace(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)


def said_by_a_server_with(folder: Path) -> str:
    with server_process(VOSK_MODEL_PATH=str(folder)) as process:
        assert process.ended() == 1
    said = "".join(process.log)
    assert "Traceback" not in said
    assert str(folder) in said
    return said


@pytest.mark.parametrize("name", ["am/final.mdl", "graph/HCLG.fst", "ivector/splice.conf", "conf/mfcc.conf"])
def test_a_truncated_file(copy, model, name):
    # Cut to half, splice.conf makes libvosk abort the process.
    content = (model / name).read_bytes()
    replace(copy, name, content[: len(content) // 2])
    said = said_by_a_server_with(copy)
    assert "trio-stt models install en" in said or "models verify" in said


def test_a_truncated_file_is_named_when_it_is_known_what_was_installed(copy, model):
    shutil.copy(model / MANIFEST, copy)
    content = (model / "graph/words.txt").read_bytes()
    replace(copy, "graph/words.txt", content[: len(content) // 2])  # which libvosk would not notice
    said = said_by_a_server_with(copy)
    assert "graph/words.txt has" in said
    assert "trio-stt models install en" in said


def test_a_changed_file_is_named_when_it_is_known_what_was_installed(copy, model):
    shutil.copy(model / MANIFEST, copy)
    content = (model / "graph/words.txt").read_bytes()
    replace(copy, "graph/words.txt", content[:-8] + b"nonsense")
    assert "graph/words.txt has changed" in said_by_a_server_with(copy)


def test_an_empty_configuration(copy):
    # libvosk would decode for ever with it.
    replace(copy, "conf/model.conf", b"")
    assert "conf/model.conf is empty" in said_by_a_server_with(copy)


@pytest.mark.parametrize("name", ["am/final.mdl", "graph/words.txt", "conf/mfcc.conf"])
def test_a_missing_file(copy, name):
    replace(copy, name, None)
    assert Path(name).name in said_by_a_server_with(copy)


def test_something_that_is_no_folder(tmp_path):
    file = tmp_path / "vosk-model"
    file.write_text("model")
    assert "not a folder" in said_by_a_server_with(file)


def test_an_empty_folder(tmp_path):
    assert "holds no Vosk model" in said_by_a_server_with(tmp_path)


def test_no_folder_at_all(tmp_path):
    said = said_by_a_server_with(tmp_path / "absent")
    assert "not there" in said
    assert "trio-stt models install en" in said


def test_a_sound_model_is_tried_once_and_remembered(copy, tmp_path):
    cache = tmp_path / "cache"
    for _ in range(2):
        with server_process(VOSK_MODEL_PATH=str(copy), CACHE_DIR=str(cache)) as process:
            process.wait_for("ready")
            remembered = process.wait_for("calibrated")["remembered"]
            process.signal()
            assert process.ended() == 0
    assert remembered
    known = [json.loads(file.read_text()) for file in cache.iterdir()]
    assert [record["works"] for record in known] == [True, True]
    assert [record["decode_cost"] is None for record in known].count(True) == 1


def test_a_cache_that_cannot_be_written_keeps_nobody_out(copy, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with server_process(VOSK_MODEL_PATH=str(copy), CACHE_DIR=str(tmp_path / "cache")) as process:
        process.wait_for("ready")
        process.wait_for("model_record_not_written")
        process.signal()
        assert process.ended() == 0
    assert os.path.isfile(tmp_path / "cache")
