"""Installation from files, by the command line's own functions and its click commands. No network."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from model_archives import PARTS, write_archive

from trio_stt.models import openfst
from trio_stt.models.commands import commands
from trio_stt.models.manifest import sha256_of


class Store:
    """A folder of models and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(commands, ["--models-dir", str(self.folder), *arguments], catch_exceptions=False)

    def install(self, language: str, source: Path | str, *options: str) -> Result:
        return self.run("install", language, "--from", str(source), "--compile", "no", *options)

    def left(self) -> set[str]:
        """Everything but locks, recorded sums and empty folders of the store's own."""
        return {
            entry.name
            for entry in self.folder.iterdir()
            if entry.name not in (".locks", ".sums") and not (entry.name == ".downloads" and not list(entry.iterdir()))
        }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "vosk-model-small-xx-0.1.zip")


def test_a_file_is_installed_listed_verified_and_removed(store: Store, archive: Path) -> None:
    assert store.install("xx", archive).exit_code == 0
    assert store.left() == {"vosk-model-xx"}
    assert "your own" in store.run("list").output
    verified = store.run("verify", "xx")
    assert (verified.exit_code, f"{len(PARTS)} files, all as installed" in verified.output) == (0, True)
    assert store.run("remove", "xx").exit_code == 0
    assert store.left() == set()
    assert archive.exists()


def test_installing_again_says_so_and_changes_nothing(store: Store, archive: Path) -> None:
    store.install("xx", archive)
    before = (store.folder / "vosk-model-xx").stat()
    again = store.install("xx", archive)
    assert again.exit_code == 0
    assert "installed already" in again.output
    assert (store.folder / "vosk-model-xx").stat().st_ino == before.st_ino


def test_a_changed_file_is_found_by_verify(store: Store, archive: Path) -> None:
    store.install("xx", archive)
    (store.folder / "vosk-model-xx/conf/model.conf").write_text("--beam=1\n")
    verified = store.run("verify")
    assert verified.exit_code == 1
    assert "conf/model.conf" in verified.output
    assert "models remove xx" in verified.output


def test_the_sum_of_the_first_installation_is_enforced_from_then_on(store: Store, archive: Path) -> None:
    store.install("xx", archive)
    store.run("remove", "xx")
    write_archive(archive)  # another file of the same name
    refused = store.install("xx", archive)
    assert refused.exit_code == 1
    assert "expected is" in refused.output
    assert store.left() == set()
    assert store.install("xx", archive, "--sha256", sha256_of(archive).upper()).exit_code == 0


def test_the_catalogues_sum_holds_for_a_file_of_its_name(store: Store, tmp_path: Path) -> None:
    refused = store.install("en", write_archive(tmp_path / "vosk-model-small-en-us-0.15.zip"))
    assert refused.exit_code == 1
    assert "expected is 30f26242" in refused.output
    assert store.left() == set()


def test_a_sum_given_by_the_user_must_fit(store: Store, archive: Path) -> None:
    assert store.install("xx", archive, "--sha256", "0" * 64).exit_code == 1
    assert store.left() == set()
    assert archive.exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_something_else_than_a_zip_is_refused(store: Store, archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    refused = store.install("xx", archive)
    assert refused.exit_code == 1
    assert "not a zip archive" in refused.output


def test_a_model_without_its_graph_is_never_shown(store: Store, tmp_path: Path) -> None:
    parts = {name: length for name, length in PARTS.items() if name != "graph/Gr.fst"}
    refused = store.install("xx", write_archive(tmp_path / "m.zip", parts=parts))
    assert refused.exit_code == 1
    assert "graph/Gr.fst missing" in refused.output
    assert store.left() == set()


def test_a_missing_file_is_named(store: Store, tmp_path: Path) -> None:
    refused = store.install("xx", tmp_path / "none.zip")
    assert refused.exit_code == 1
    assert "none.zip is not a file" in refused.output


def test_an_unknown_language_without_an_archive_lists_the_known_ones(store: Store) -> None:
    refused = store.run("install", "tlh")
    assert refused.exit_code == 1
    assert "en, vi, de" in refused.output
    assert "--from" in refused.output


@pytest.mark.parametrize("language", ["../en", "EN", "e", "en/x", ".", "en@1"])
def test_a_language_that_could_not_stand_in_a_file_name_is_refused(store: Store, archive: Path, language: str) -> None:
    refused = store.install(language, archive)
    assert refused.exit_code == 1
    assert "is no language" in refused.output
    assert not store.folder.exists()


def test_what_an_interrupted_installation_left_goes_with_the_next_one(store: Store, archive: Path) -> None:
    for left in (".new-xx@abc", ".new-xx@removed"):
        (store.folder / left).mkdir(parents=True)
    (store.folder / ".new-yy@abc").mkdir()  # another language's, perhaps at work
    store.install("xx", archive)
    assert store.left() == {"vosk-model-xx", ".new-yy@abc"}


def test_verify_and_remove_say_what_is_not_installed(store: Store) -> None:
    for command in (("verify",), ("verify", "vi"), ("remove", "vi"), ("compile", "vi")):
        refused = store.run(*command)
        assert refused.exit_code == 1
        assert "models install" in refused.output


def test_other_languages_are_not_held_up_by_a_lock(store: Store, archive: Path) -> None:
    (store.folder / ".locks").mkdir(parents=True)
    with FileLock(store.folder / ".locks/yy.lock"):
        assert store.install("xx", archive).exit_code == 0


def test_without_tools_the_model_stays_usable_and_the_message_names_the_packages(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openfst, "find", lambda tools_dir: None)
    done = store.run("install", "xx", "--from", str(archive))
    assert done.exit_code == 0
    assert done.output.count("libfst22-plugins-base") == 1
    assert "stays as shipped" in done.output
    insisted = store.run("compile", "xx")
    assert insisted.exit_code == 1
    assert "libfst22-plugins-base" in insisted.output
