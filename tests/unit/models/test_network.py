"""How a model says that its network takes sound, and how it is told to take more at once."""

import struct
from pathlib import Path

import pytest
from model_archives import FLAT_PARTS, write_model

from trio_stt.models.linked_model import linked_model
from trio_stt.models.network import NetworkStep, network_step, step_option


def model_of(folder: Path, right_context: int | None = 14, configuration: str = "--beam=10.0\n") -> Path:
    """A folder like a model whose network looks so many frames ahead; None: its file does not tell."""
    write_model(folder)
    (folder / "conf/model.conf").write_text(configuration)
    (folder / "ivector/splice.conf").write_text("--left-context=3\n--right-context=3\n")
    end = b"" if right_context is None else b"<RightContext> \x04" + struct.pack("<i", right_context) + b"<Priors> FV "
    with (folder / "am/final.mdl").open("ab") as file:
        file.write(end)
    return folder


def test_a_model_as_its_author_has_it_takes_vosk_s_step(tmp_path: Path) -> None:
    assert network_step(model_of(tmp_path)) == NetworkStep(frames=24, look_ahead_frames=14 + 3)


@pytest.mark.parametrize(("step_ms", "frames"), [(30, 3), (200, 21), (210, 21), (400, 42), (1000, 102)])
def test_a_step_is_made_longer_in_whole_outputs(tmp_path: Path, step_ms: int, frames: int) -> None:
    with linked_model(model_of(tmp_path), step_ms=step_ms) as linked:
        step = network_step(linked)
    assert step == NetworkStep(frames, 17)
    assert (tmp_path / "conf/model.conf").read_text() == "--beam=10.0\n"


def test_a_step_that_the_author_chose_is_kept(tmp_path: Path) -> None:
    model = model_of(tmp_path, configuration="--beam=10.0\n--frames-per-chunk=30\n")
    assert step_option(model, 400) == ""
    with linked_model(model, step_ms=400) as linked:
        assert network_step(linked) == NetworkStep(30, 17)


def test_a_network_whose_file_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert network_step(model_of(tmp_path, right_context=None)) is None


def test_an_old_model_has_no_place_to_say_it(tmp_path: Path) -> None:
    with linked_model(write_model(tmp_path, FLAT_PARTS), step_ms=400) as linked:
        assert not (linked / "model.conf").exists()
