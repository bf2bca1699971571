import pytest

from trio_stt.bench.shipped_graph import shipped


def model_at(folder, *graph_files):
    for name in ("am/final.mdl", "conf/mfcc.conf", *(f"graph/{name}" for name in graph_files)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_the_shipped_model_is_the_same_without_what_compiling_added(tmp_path):
    model = model_at(tmp_path, "HCLr.fst", "Gr.fst", "HCLG.fst", "words.txt", "phones/word_boundary.int")
    with shipped(model) as copy:
        assert copy is not None
        files = {str(file.relative_to(copy)) for file in [*copy.glob("*/*"), *copy.glob("graph/phones/*")]}
        assert files == {
            "am/final.mdl",
            "conf/mfcc.conf",
            "graph/HCLr.fst",
            "graph/Gr.fst",
            "graph/phones",
            "graph/phones/word_boundary.int",
        }
    assert not copy.exists()
    assert (model / "graph/Gr.fst").read_text() == "graph/Gr.fst"


@pytest.mark.parametrize("graph_files", [("HCLG.fst", "words.txt"), ("HCLG.fst", "Gr.fst")])
def test_without_the_graphs_sources_there_is_none(tmp_path, graph_files):
    with shipped(model_at(tmp_path, *graph_files)) as copy:
        assert copy is None
