"""What can be seen of a model's folder without loading it."""

import os

import pytest

from trio_stt.models import manifest
from trio_stt.models.manifest import Origin
from trio_stt.recognition import model_trial
from trio_stt.recognition.engine import ModelError
from trio_stt.recognition.model_record import ModelRecord, ModelRecords, identify
from trio_stt.recognition.model_trial import check_model


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "vosk-model"
    for name in ("am/final.mdl", "conf/mfcc.conf", "graph/HCLG.fst", "graph/words.txt"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 200_000)
    return folder


@pytest.fixture
def records(tmp_path):
    return ModelRecords(tmp_path / "cache")


def known_to_work(model, records):
    records.write(identify(model), ModelRecord(works=True))


def test_a_model_that_is_known_to_work_is_not_loaded_for_a_trial(model, records):
    known_to_work(model, records)
    check_model(model, "en", records)  # no engine could load these files


def test_a_model_is_tried_once(model, records, monkeypatch):
    tried = []
    monkeypatch.setattr(model_trial, "_examine", lambda model, mend: tried.append(model))
    for _ in range(2):
        check_model(model, "en", records)
    assert tried == [model]


def test_a_model_of_which_a_file_was_cut_is_refused_even_when_it_is_known(model, records):
    manifest.write(model, manifest.describe(model, "en", Origin("a", "b", "c", 1)))
    (model / "graph/words.txt").write_bytes(b"x")
    known_to_work(model, records)
    with pytest.raises(ModelError, match=r"graph/words.txt has 1 bytes instead of 200,000.*models install en"):
        check_model(model, "en", records)


def test_who_named_a_folder_that_holds_no_model_is_not_told_to_remove_the_installed_one(tmp_path, records):
    with pytest.raises(ModelError, match="holds no Vosk model") as refused:
        check_model(tmp_path, "en", records, installed=False)
    assert "VOSK_MODEL_PATH" in str(refused.value)
    assert "models remove" not in str(refused.value)


def test_a_model_that_may_not_be_read_says_so(model, records):
    model.chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(ModelError, match="cannot be read"):
            check_model(model, "en", records)
    finally:
        if root:
            os.seteuid(0)
        model.chmod(0o700)
