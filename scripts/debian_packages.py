"""System packages of Debian and its kin: installed by root, only unpacked by anyone else."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from step import SetupError, ask, run

_PATIENT = ("-o", "DPkg::Lock::Timeout=120")
"""Waits for another apt, such as the one that a new machine runs by itself, instead of failing at once."""


def may_install() -> bool:
    """True for root on a system with apt-get."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*names: str) -> None:
    """Installs packages, refreshing apt's lists if it fails with those at hand. Raises `SetupError`."""
    title = "Debian packages " + ", ".join(names)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *_PATIENT, *names]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(title, command, environment=environment)
    except SetupError:
        _refresh_lists()
        run(title, command, environment=environment)


def name_like(pattern: str) -> str:
    """The package whose name fits the pattern, for names whose number changes from release to release.

    Raises `SetupError` if there is none.
    """
    search = ["apt-cache", "search", "--names-only", pattern]
    found = ask(search).stdout
    if not found:
        _refresh_lists()
        found = ask(search).stdout
    if not found:
        raise SetupError(f"apt knows no package {pattern}")
    return found.split()[0]


def missing_for(name: str) -> list[str]:
    """The package and those that it needs and that are not installed; needs no root. Raises `SetupError`."""
    simulate = ["apt-get", "install", "--simulate", "--no-install-recommends", name]
    if shutil.which("apt-get") is None:
        raise SetupError(f"Debian's package {name} is needed.")
    found = [line.split()[1] for line in ask(simulate).stdout.splitlines() if line.startswith("Inst ")]
    if not found:
        raise SetupError(f"apt knows no package {name}: as root, run apt-get update")
    return found


def unpack(name: str, folder: Path) -> None:
    """Downloads a package and unpacks it in `folder`; needs no root. Raises `SetupError`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise SetupError(f"Debian's package {name} is needed: unpack it so that {folder / 'usr'} is there.")
    with tempfile.TemporaryDirectory() as download:
        _download(name, Path(download))
        (archive,) = Path(download).glob("*.deb")
        folder.mkdir(parents=True, exist_ok=True)
        run(f"Unpacking {name}", ["dpkg", "-x", archive, folder])


def _download(name: str, into: Path) -> None:
    title = f"Debian package {name}"
    try:
        run(title, ["apt-get", "download", name], folder=into)
    except SetupError:
        # The system's lists do not know it, and only root may refresh them: so with lists of our own.
        lists = into / "lists"
        (lists / "partial").mkdir(parents=True)
        own = ("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={into / 'cache'}")
        run("Debian's package lists", ["apt-get", "update", *own])
        run(title, ["apt-get", "download", *own, name], folder=into)


def _refresh_lists() -> None:
    run("Debian's package lists", ["apt-get", "update", *_PATIENT])
