"""An instance follows its share of the cores, whatever stands in the file."""

from pathlib import Path

import pytest

from trio_stt.app import Instance
from trio_stt.recognition.capacity import Capacity
from trio_stt.recognition.core_share import CoreShare, read_share, threads_of
from trio_stt.settings import Settings


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("2.6667\n", (2.6667, 2.6667)),
        ("0.5", (0.5, 0.5)),
        ("1.0000 0.6667\n", (1.0, 0.6667)),
        ("1 2 3", None),
        ("1 x", None),
        ("1 0", None),
        ("", None),
        ("x", None),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("1e9", None),
    ],
)
def test_only_a_sensible_number_is_a_share(tmp_path: Path, text: str, share: tuple[float, float] | None) -> None:
    (tmp_path / "cores").write_text(text)
    assert read_share(tmp_path / "cores") == (share and CoreShare(*share))
    assert read_share(tmp_path / "no such file") is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for share, text in ((CoreShare(1.5, 0.75), "1.5000 0.7500\n"), (CoreShare(0.5, 0.5), "0.5000\n")):
        assert str(share) == text
        (tmp_path / "cores").write_text(text)
        assert read_share(tmp_path / "cores") == share


async def test_cores_of_one_that_is_lost_decode_but_let_nobody_in(tmp_path: Path) -> None:
    limits, loads, file = [], [], tmp_path / "cores"
    for text in ("2", "4 2", "4"):
        file.write_text(text)
        instance = Instance(Settings(decode_cores_file=file, vad_engine="energy", auth_mode="off", decode_cores=8))
        limits.append((instance.decoders.statistics().threads, instance.admission.speakers_limit))
        instance.capacity.enter("ann")
        loads.append(instance.capacity.load)
    assert [threads for threads, _ in limits] == [2, 4, 4]
    assert limits[0][1] == limits[1][1] == limits[2][1] // 2
    assert loads == pytest.approx([2 * loads[2], loads[2], loads[2]])


def test_a_share_of_less_than_a_core_is_one_thread_with_less_room() -> None:
    assert [threads_of(share) for share in (0.3, 1, 1.99, 8)] == [1, 1, 1, 8]
    capacity = Capacity(2, 0.02, max_load=0.8)
    whole = capacity.calibrated_streams
    capacity.set_cores(0.5, 0.5)
    assert capacity.calibrated_streams == whole // 4
    capacity.set_cores(2, 2)
    assert capacity.calibrated_streams == whole


@pytest.mark.parametrize("text", ["3.0", "0.25"])
async def test_an_instance_begins_with_the_share_in_its_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cores"
    file.write_text(text)
    settings = {"vad_engine": "energy", "auth_mode": "off", "decode_cores": 8}
    instance = Instance(Settings(decode_cores_file=file, **settings))
    assert instance.decoders.statistics().threads == threads_of(float(text))
    assert Instance(Settings(**settings)).decoders.statistics().threads == 8
