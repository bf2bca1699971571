"""The repository itself: what its documents name is there, and nothing stands in it that belongs to one machine."""

import itertools
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import tree_sitter_powershell
from tree_sitter import Language, Parser

from trio_stt.__main__ import main as trio_stt

ROOT = Path(__file__).resolve().parents[2]

SHELL_OPERATORS = {"|", ">", ">>", "<", "&", "&&", "||", ";", "(", ")"}

POWERSHELL = Parser(Language(tree_sitter_powershell.language()))

# Each is put together here, so that this file does not hold what it looks for.
REGISTRIES = re.compile(
    r"//[^/\s]*("
    + "|".join(
        ["py" + "pi", "python" + "hosted", "npm" + "js", "ma" + "ven", "deb" + "ian", "go" + "lang", "cra" + "tes"]
    )
    + ")"
)
MACHINE_PATHS = re.compile(
    r"(?<![\w./~}-])/(" + "|".join(["wo" + "rk", "ro" + "ot", "tmp/" + "lab"]) + r")(/|\b(?![\w.-]))"
)


def _files() -> list[Path]:
    """All files that are in git or would be added to it."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


FILES = _files()
DOCUMENTS = [file for file in FILES if file.suffix == ".md"]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _matches(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for file in FILES:
        text = file.read_text(encoding="utf-8", errors="replace")
        found += [
            f"{_name(file)}:{number}: {line[:160]}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    return found


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert _matches(REGISTRIES) == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert _matches(MACHINE_PATHS) == []


def test_a_path_of_the_machine_would_be_found() -> None:
    home = "/ro" + "ot"
    assert all(
        MACHINE_PATHS.search(line) for line in (f"cd {home}", f'"{home}/.venv"', f"PATH={home}/bin", f"({home})")
    )
    assert not any(
        MACHINE_PATHS.search(line)
        for line in (f"the folder{home}s", f"{home}-fs.tar", "net" + "/wo" + "rk", "fs" + home)
    )


@pytest.mark.parametrize("script", [file for file in FILES if file.suffix == ".ps1"], ids=_name)
def test_every_powershell_script_parses(script: Path) -> None:
    tree = POWERSHELL.parse(script.read_bytes())
    assert not tree.root_node.has_error, str(tree.root_node)


@pytest.mark.parametrize("broken", ["if ($a { 'b' }", "foreach ($x in @(1, 2) { $x }", "& $python 'unfinished"])
def test_a_broken_powershell_script_would_be_found(broken: str) -> None:
    assert POWERSHELL.parse(broken.encode()).root_node.has_error


def test_every_shell_script_is_executable_and_parses() -> None:
    scripts = [file for file in FILES if file.suffix == ".sh" or file == ROOT / ".ci" / "run"]
    assert scripts
    for script in scripts:
        assert os.access(script, os.X_OK), f"{_name(script)} is not executable"
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize(
    "name", ["setup", "run-dev", "run-prod", "test", "download-vosk-model", "download-kokoro-model", "scale-deploy"]
)
def test_a_script_for_users_has_a_powershell_twin(name: str) -> None:
    assert (ROOT / "scripts" / f"{name}.sh").exists()
    assert (ROOT / "scripts" / f"{name}.ps1").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), target
        if heading:
            assert heading in _headings(file), target


def _headings(document: Path) -> list[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_script_and_file_that_a_document_runs_is_there(document: Path) -> None:
    for path in re.findall(
        r"(?<![\w./-])(?:\./)?((?:scripts|tests|docs|\.ci|requirements)/[\w./-]*\w)", document.read_text()
    ):
        assert (ROOT / path).exists() or (document.parent / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_trio_stt_command_in_a_document_has_these_options(document: Path) -> None:
    for line in _command_lines(document.read_text()):
        _check_command(line)


def _command_lines(text: str) -> list[list[str]]:
    """The arguments of each `trio-stt …` in a document's shell blocks (of a console block: after its prompt)."""
    found = []
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        for line in lines if kind == "sh" else [line[2:] for line in lines if line.startswith("$ ")]:
            words = _words(line)
            for place, word in enumerate(words):
                if word == "trio-stt" or word.endswith("/trio-stt"):
                    found.append(
                        list(itertools.takewhile(lambda word: word not in SHELL_OPERATORS, words[place + 1 :]))
                    )
    return found


def _words(line: str) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    return list(reader)


def _check_command(words: list[str]) -> None:
    command: click.Command = trio_stt
    for word in words:
        context = click.Context(command)
        if word.startswith("--"):
            known = {option for parameter in command.get_params(context) for option in parameter.opts}
            assert word.partition("=")[0] in known, f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            assert found is not None, f"{command.name} has no command {word}"
            command = found


def test_a_wrong_command_in_a_document_would_be_found() -> None:
    (command,) = _command_lines("```sh\nX=1 .venv/bin/trio-stt settings \\\n  --markdown > --page # --comment\n```\n")
    assert command == ["settings", "--markdown"]
    _check_command(command)
    for wrong in (["setting"], ["settings", "--marked"]):
        with pytest.raises(AssertionError, match="has no"):
            _check_command(wrong)
