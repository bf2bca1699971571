"""What a model is thought to take in memory."""

from tests.unit.speech_models import MB, lay_model
from trio_stt.models.footprint import ACOUSTIC_GROWTH, SHIPPED_GROWTH, memory_mb, phrases_mb


def grow(file, mb):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(mb * MB)


def test_a_compiled_model_takes_its_graph_and_the_acoustic_model_but_not_the_shipped_halves(tmp_path):
    folder = lay_model(tmp_path, "de", mb=200)
    grow(folder / "am/final.mdl", 16)
    grow(folder / "ivector/final.ie", 8)
    grow(folder / "graph/Gr.fst", 24)
    grow(folder / "graph/HCLr.fst", 22)
    assert round(memory_mb(folder)) == round(200 + ACOUSTIC_GROWTH * (16 + 8))
    assert round(phrases_mb(folder)) == round(SHIPPED_GROWTH * (24 + 22) + ACOUSTIC_GROWTH * (16 + 8))


def test_a_model_as_shipped_takes_both_halves_and_nothing_more_for_phrases(tmp_path):
    folder = lay_model(tmp_path, "de")
    (folder / "graph/HCLG.fst").unlink()
    grow(folder / "graph/Gr.fst", 24)
    grow(folder / "graph/HCLr.fst", 22)
    assert round(memory_mb(folder)) == round(SHIPPED_GROWTH * (24 + 22))
    assert phrases_mb(folder) == 0
