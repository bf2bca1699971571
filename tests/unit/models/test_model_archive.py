import stat
import struct
import zipfile
from pathlib import Path

import pytest
from model_archives import FLAT_PARTS, PARTS, write_archive

from trio_stt.models.archive import MAX_FILES, unpack_model
from trio_stt.models.errors import ModelStoreError


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("root", ["", "vosk-model-small-xx-0.1/", "assets/model-en-us/"])
def test_only_the_models_own_files_are_unpacked_without_the_folders_above_it(tmp_path: Path, root: str) -> None:
    unpack_model(write_archive(tmp_path / "m.zip", root), tmp_path / "out")
    assert names_in(tmp_path / "out") - {"AndroidManifest.xml"} == set(PARTS)
    assert ("AndroidManifest.xml" in names_in(tmp_path / "out")) == (root == "")


def test_the_flat_layout_is_found(tmp_path: Path) -> None:
    unpack_model(write_archive(tmp_path / "m.zip", "old/", FLAT_PARTS), tmp_path / "out")
    assert names_in(tmp_path / "out") == set(FLAT_PARTS)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "vosk-model-small-xx-0.1/../../evil",
        "/evil",
        "..\\evil",
        "C:evil",
        "vosk-model-small-xx-0.1/am/..\\..\\evil",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(write_archive(tmp_path / "m.zip"), "a") as archive:
        archive.writestr(name, "evil")
    with pytest.raises(ModelStoreError, match="leads out of its folder"):
        unpack_model(tmp_path / "m.zip", tmp_path / "a" / "out")
    assert names_in(tmp_path) == {"m.zip"}


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("vosk-model-small-xx-0.1/conf/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(write_archive(tmp_path / "m.zip"), "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ModelStoreError, match="link or a special file"):
        unpack_model(tmp_path / "m.zip", tmp_path / "out")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_archive(tmp_path / "m.zip"), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vosk-model-small-xx-0.1/graph/HCLG.fst", bytes(50_000_000))
    with pytest.raises(ModelStoreError, match="zip bomb"):
        unpack_model(tmp_path / "m.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_entry_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "m.zip", "", {**PARTS, "graph/Gr.fst": 6_000})
    data = bytearray(file.read_bytes())
    header = data.rindex(b"PK\x01\x02", 0, data.rindex(b"graph/Gr.fst"))
    struct.pack_into("<I", data, header + 24, 100)  # the uncompressed size in the directory
    file.write_bytes(data)
    with pytest.raises(ModelStoreError, match="not a sound zip"):
        unpack_model(file, tmp_path / "out")


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_archive(tmp_path / "m.zip"), "a") as archive:
        for number in range(MAX_FILES):
            archive.writestr(f"junk/{number}", b"")
    with pytest.raises(ModelStoreError, match="entries"):
        unpack_model(tmp_path / "m.zip", tmp_path / "out")


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_archive(tmp_path / "m.zip"), "a") as archive:
        archive.writestr("VOSK-model-small-xx-0.1/am/final.mdl", "another")
    with pytest.raises(ModelStoreError, match="twice"):
        unpack_model(tmp_path / "m.zip", tmp_path / "out")


def test_two_models_in_one_archive_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_archive(tmp_path / "m.zip"), "a") as archive:
        archive.writestr("other/am/final.mdl", "x")
        archive.writestr("other/conf/mfcc.conf", "x")
    with pytest.raises(ModelStoreError, match="several models"):
        unpack_model(tmp_path / "m.zip", tmp_path / "out")


def test_an_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelStoreError, match="holds no Vosk model"):
        unpack_model(write_archive(tmp_path / "m.zip", parts={"readme.txt": 10}), tmp_path / "out")


def test_damaged_content_is_found_by_its_check_sum(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "m.zip")
    data = bytearray(file.read_bytes())
    data[60_000] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelStoreError, match="not a sound zip"):
        unpack_model(file, tmp_path / "out")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "m.zip")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelStoreError, match="not a sound zip"):
        unpack_model(file, tmp_path / "out")
