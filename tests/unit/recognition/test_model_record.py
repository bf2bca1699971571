"""What was found out about a model is remembered for just that model."""

import os

import pytest

from trio_stt.recognition.model_record import ModelRecord, ModelRecords, identify


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "vosk-model"
    for name in ("am/final.mdl", "conf/mfcc.conf", "graph/HCLG.fst", "graph/words.txt"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 200)
    return folder


@pytest.fixture
def records(tmp_path):
    return ModelRecords(tmp_path / "cache" / "trio-stt")


RECORD = ModelRecord(works=True, decode_cost=0.03)


def test_what_was_written_is_read_again(model, records):
    records.write(identify(model), RECORD)
    assert records.read(identify(model)) == RECORD


def test_a_changed_file_makes_it_another_model(model, records):
    records.write(identify(model), RECORD)
    os.utime(model / "graph/HCLG.fst", ns=(1, 1))
    assert records.read(identify(model)) == ModelRecord()


def test_another_graph_makes_it_another_model(model, records):
    records.write(identify(model), RECORD)
    (model / "graph/HCLG.fst").unlink()
    assert records.read(identify(model)) == ModelRecord()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}'])
def test_a_record_that_cannot_be_read_counts_as_none(model, records, tmp_path, content):
    records.write(identify(model), RECORD)
    (file,) = (tmp_path / "cache" / "trio-stt").iterdir()
    file.write_text(content)
    assert records.read(identify(model)) == ModelRecord()


@pytest.mark.parametrize("cost", ["-1.0", "0.0", "Infinity", "NaN", '"much"'])
def test_a_cost_that_is_none_is_not_believed(model, records, tmp_path, cost):
    records.write(identify(model), RECORD)
    (file,) = (tmp_path / "cache" / "trio-stt").iterdir()
    file.write_text(file.read_text().replace("0.03", cost))
    assert records.read(identify(model)) == ModelRecord()


def test_without_a_folder_nothing_is_remembered(model):
    records = ModelRecords(None)
    records.write(identify(model), RECORD)
    assert records.read(identify(model)) == ModelRecord()
