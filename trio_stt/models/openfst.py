"""OpenFst's command-line tools: where they are, how to get them, and how to run them.

They are a system package, not Python's. Without root they are unpacked into the folder ``.tools`` and used from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen
from rich.console import Console

from trio_stt.models.errors import ModelStoreError

TOOLS_DIR = Path(".tools")
"""Where tools without root are unpacked, relative to the working folder, as the folder of models is."""

INSTALL_HINT = (
    "OpenFst's tools are not installed. Debian 12: apt install libfst-tools libfst22-plugins-base (elsewhere the number"
    " differs), or without root: trio-stt models tools."
)

_TOOLS = ("fstsymbols", "fstcompose", "fstrelabel", "fstconvert")
_PLUGIN = "olabel_lookahead-fst.so"
_SYSTEM_LIBRARIES = (Path("/usr/lib"), Path("/usr/local/lib"))
_POLL_S = 0.2


@frozen
class OpenFst:
    """The tools and what they need in the environment."""

    folder: Path
    """Where the programs lie."""
    library_path: str
    """For ``LD_LIBRARY_PATH`` of the child alone: the plug-ins are loaded by bare file name."""

    def run(self, tool: str, arguments: Sequence[str | Path], *, while_waiting: Callable[[], None]) -> None:
        """Runs `tool` to its end and calls `while_waiting` five times a second. Ends it when that raises.

        Raises `ModelStoreError` with the tool's last words when it fails.
        """
        environment = {**os.environ, "LD_LIBRARY_PATH": self.library_path}
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                [self.folder / tool, *arguments], env=environment, stdin=subprocess.DEVNULL, stderr=errors
            ) as child,
        ):
            try:
                while child.poll() is None:
                    while_waiting()
                    try:
                        child.wait(_POLL_S)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                if child.poll() is None:
                    child.kill()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
        if child.returncode != 0:
            raise ModelStoreError(f"{tool} failed with {_ending(child.returncode)}: {said[-500:] or 'it said nothing'}")


def _ending(returncode: int) -> str:
    if returncode == -9:
        return "signal 9 (the machine may have run out of memory)"
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def find(tools_dir: Path) -> OpenFst | None:
    """The tools in `tools_dir`, else those of the system; None when a program or the look-ahead plug-in is missing."""
    unpacked = tools_dir.resolve() / "usr"
    if all((unpacked / "bin" / tool).is_file() for tool in _TOOLS):
        plugins = _plugin_folder([unpacked / "lib"])
        if plugins is not None:
            library = plugins.parent if plugins.name == "fst" else plugins.parents[1]
            return OpenFst(unpacked / "bin", f"{plugins}{os.pathsep}{library}")
    found = [shutil.which(tool) for tool in _TOOLS]
    plugins = _plugin_folder(_SYSTEM_LIBRARIES)
    if plugins is None or any(path is None for path in found):
        return None
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return OpenFst(Path(str(found[0])).parent, f"{plugins}{os.pathsep}{inherited}" if inherited else str(plugins))


def _plugin_folder(libraries: Sequence[Path]) -> Path | None:
    for library in libraries:
        for pattern in ("fst", "fst/*", "*/fst", "*/fst/*"):  # Debian 12: /usr/lib/x86_64-linux-gnu/fst/22
            for folder in sorted(library.glob(pattern)):
                if (folder / _PLUGIN).is_file():
                    return folder
    return None


def unpack_tools(tools_dir: Path, console: Console) -> OpenFst:
    """Brings the tools into `tools_dir` on Debian and its kin, without root: ``apt-get download`` and ``dpkg -x``.

    Raises `ModelStoreError` on other systems, or when the packages are out of reach.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise ModelStoreError(
            "This is no Debian or Ubuntu: install OpenFst 1.7 or later with its tools by other means."
        )
    tools_dir = tools_dir.resolve()
    tools_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools_dir, prefix=".packages-") as made:
        folder = Path(made)
        apt = _Apt(folder)
        library = _runtime_library(apt)
        if library is None:
            console.print("The list of packages is missing or old: bringing a fresh one for this once.")
            apt.refresh()
            library = _runtime_library(apt)
        if library is None:
            raise ModelStoreError("This system's packages have no libfst-tools.")
        packages = ["libfst-tools", library, f"{library}-plugins-base"]
        if not apt.download(packages):
            apt.refresh()
            if not apt.download(packages):
                raise ModelStoreError(f"apt-get could not download {' '.join(packages)}: {apt.said}")
        fresh = folder / "root"
        for package in sorted(folder.glob("*.deb")):
            unpacked, said = _run_quietly(["dpkg", "-x", str(package), str(fresh)], folder)
            if not unpacked:
                raise ModelStoreError(f"dpkg could not unpack {package.name}: {said}")
        shutil.rmtree(tools_dir / "usr", ignore_errors=True)
        (fresh / "usr").replace(tools_dir / "usr")
    tools = find(tools_dir)
    if tools is None or tools.folder != tools_dir / "usr/bin":
        raise ModelStoreError(f"{' '.join(packages)} were unpacked into {tools_dir}, but the tools are not in them.")
    return tools


class _Apt:
    """apt-get for a user without root; with package lists of its own once `refresh` was called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = ["-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1"]
        self.said = ""

    def refresh(self) -> None:
        lists, cache = self._folder / "lists", self._folder / "cache"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (cache / "archives/partial").mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        _, self.said = _run_quietly(["apt-get", *self._options, "-qq", "update"], self._folder)

    def download(self, packages: list[str]) -> bool:
        done, self.said = _run_quietly(["apt-get", *self._options, "-qq", "download", *packages], self._folder)
        return done

    def depends(self, package: str) -> list[str]:
        _, out = _run_quietly(["apt-cache", *self._options, "depends", "--important", package], self._folder)
        return [line.split()[-1] for line in out.splitlines() if "Depends:" in line]


def _runtime_library(apt: _Apt) -> str | None:
    """The name of the library that the tools need: libfst22 on Debian 12; another number on other releases."""
    return next((name for name in apt.depends("libfst-tools") if name.startswith("libfst")), None)


def _run_quietly(command: list[str], folder: Path) -> tuple[bool, str]:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()
