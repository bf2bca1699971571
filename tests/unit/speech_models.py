"""Folders that look like speech models, of any size, for tests that load none."""

from pathlib import Path

MB = 1_000_000


def lay_model(models_dir: Path, language: str, *, mb: int = 100) -> Path:
    """A folder for `language` among the models, as `trio-stt models install` names it; it takes no disk."""
    folder = models_dir / ("vosk-model" if language == "en" else f"vosk-model-{language}")
    for name in ("am/final.mdl", "conf/mfcc.conf", "graph/HCLG.fst", "graph/words.txt"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with (folder / "graph/HCLG.fst").open("wb") as graph:
        graph.truncate(mb * MB)  # a hole
    return folder
