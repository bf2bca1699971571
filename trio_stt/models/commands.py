"""``trio-stt models``: list, voices, install, compile, verify, remove, tools. Messages go to standard error."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from trio_stt import settings
from trio_stt.models import catalogue, compile_graph, install, kokoro, manifest, openfst, translation_models
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.installed import InstalledModel, folder_of, installed
from trio_stt.models.layout import graph_kind
from trio_stt.models.lock import exclusive

CompileChoice = Literal["auto", "yes", "no"]


class _Group(click.Group):
    """Shows a `ModelStoreError` or a wrong setting as a message, exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (ModelStoreError, settings.SettingsError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.strerror or error}: {error.filename or 'the file system'}") from error


@click.group(name="models", cls=_Group)
@click.option("--models-dir", type=click.Path(path_type=Path), help="Folder of models; default: MODELS_DIR.")
@click.pass_context
def commands(context: click.Context, models_dir: Path | None) -> None:
    """Models that hear, translate and speak: which there are, installing and compiling them."""
    context.obj = models_dir or settings.load().models_dir


_compile_option = click.option(
    "--compile",
    "choice",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Compile the decoding graph; auto: where it fits well in memory and disk.",
)


@commands.command("list")
@click.pass_obj
def list_models(models_dir: Path) -> None:
    """Shows the catalogue and what is installed."""
    present = {model.language: model for model in installed(models_dir)}
    known = catalogue.load()
    table = Table()
    for heading in ("Language", "Name", "Archive", "Licence"):
        table.add_column(heading, no_wrap=True)
    table.add_column("Download", justify="right")
    table.add_column("Installed")
    for entry in known.values():
        state = _state(present.get(entry.language))
        table.add_row(entry.language, entry.name, entry.archive, entry.licence, _megabytes(entry.bytes), state)
    for model in present.values():
        if model.language not in known:
            table.add_row(model.language, "", "your own", "", "", _state(model))
    _add_translations(table, models_dir)
    _add_kokoro(table, models_dir)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@commands.command("voices")
@click.pass_obj
def list_voices(models_dir: Path) -> None:
    """Shows Kokoro's voices, and which of them are installed."""
    present = kokoro.installed_kokoro(models_dir)
    table = Table()
    for heading in ("Language", "Voice", "Installed"):
        table.add_column(heading, no_wrap=True)
    for name in kokoro.load_kokoro().voices:
        is_there = present is not None and name in present.voices
        table.add_row(_LANGUAGES[name[0]], name, "yes" if is_there else "no")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@commands.command("install")
@click.argument("language")
@click.option(
    "--from", "source", metavar="FILE|URL", help="Take the archive from here, not from the catalogue's sources."
)
@click.option("--sha256", metavar="SUM", help="The SHA-256 that the archive must have, in place of the one known.")
@click.option("--translation", is_flag=True, help="LANGUAGE is a pair of languages, from and to.")
@click.option("-v", "--voices", metavar="NAMES", help="Of kokoro only these voices, separated by commas; default: all.")
@_compile_option
@click.pass_obj
def install_model(
    models_dir: Path,
    language: str,
    source: str | None,
    sha256: str | None,
    translation: bool,
    voices: str | None,
    choice: CompileChoice,
) -> None:
    """Installs the model for LANGUAGE, or for a pair such as en-vi; does nothing when it is installed already.

    A pair that is not in the catalogue is installed with --translation and --from. `kokoro` in place of a language is
    the model that speaks; its --from is a folder with its files.
    """
    console = _messages()
    if language == kokoro.NAME:
        if sha256 is not None or translation:
            raise ModelStoreError("The sums of kokoro's files are known, and it is for no pair of languages.")
        _install_kokoro(models_dir, voices, None if source is None else Path(source), console)
        return
    if voices is not None:
        raise ModelStoreError(f"--voices is for {kokoro.NAME} only.")
    if translation or translation_models.is_pair(language):
        translation_models.check_pair(language)
        _install_translation(models_dir, language, install.Wish(source, sha256), console)
        return
    install.check_language(language)
    with exclusive(models_dir, language, console):
        model = folder_of(models_dir, language)
        if model.exists():
            console.print(f"{language} is installed already: {model} (graph {graph_kind(model)}).")
        else:
            install.install(models_dir, language, install.Wish(source, sha256), console)
            console.print(f"Installed {language}: {model}")
        _compile(model, choice, console)


@commands.command("compile")
@click.argument("language")
@click.pass_obj
def compile_model(models_dir: Path, language: str) -> None:
    """Compiles the decoding graph of LANGUAGE's model, however large: six times faster decoding."""
    _check_name(language)
    console = _messages()
    with exclusive(models_dir, language, console):
        model = _installed(models_dir, language)
        if not _has_graph(model):
            raise ModelStoreError(f"{language} is not a model that hears: it has no decoding graph.")
        if graph_kind(model) == "compiled":
            console.print(f"The graph of {language} is compiled already.")
        _compile(model, "yes", console)


@commands.command("verify")
@click.argument("language", required=False)
@click.pass_obj
def verify_models(models_dir: Path, language: str | None) -> None:
    """Compares every file of LANGUAGE's model, or of all models, with what was installed."""
    console = _messages()
    paths = [_installed(models_dir, language)] if language else _all_installed(models_dir)
    if not paths:
        raise ModelStoreError(f"No model is installed in {models_dir}. Run: trio-stt models install en")
    if not all([_verify(path, console) for path in paths]):  # noqa: C419 - all of them, not up to the first fault
        raise click.exceptions.Exit(1)


@commands.command("remove")
@click.argument("language")
@click.pass_obj
def remove_model(models_dir: Path, language: str) -> None:
    """Removes LANGUAGE's model. The sum of its archive stays known."""
    _check_name(language)
    console = _messages()
    with exclusive(models_dir, language, console):
        model = _installed(models_dir, language)
        install.clear_stale(models_dir, language)
        if _has_graph(model):
            compile_graph.clear_stale(model)
        doomed = models_dir / f".new-{language}@removed"
        model.rename(doomed)  # gone at once for everybody else
        if doomed.is_symlink():
            doomed.unlink()
        else:
            shutil.rmtree(doomed)
        shutil.rmtree(models_dir / ".downloads" / language, ignore_errors=True)
        console.print(f"Removed {model}")


@commands.command("tools")
@click.option("--into", default=openfst.TOOLS_DIR, type=click.Path(path_type=Path), show_default=True)
def unpack_tools(into: Path) -> None:
    """Brings OpenFst's tools, which compile graphs, without root (Debian, Ubuntu); nothing when they are there."""
    console = _messages()
    tools = openfst.find(into)
    if tools is None:
        tools = openfst.unpack_tools(into, console)
    console.print(f"OpenFst's tools: {tools.folder}")


def _messages() -> Console:
    """Standard error, without breaking lines that a terminal or a log would break better."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _check_name(language: str) -> None:
    if language != kokoro.NAME:
        install.check_language(language)


def _installed(models_dir: Path, language: str) -> Path:
    _check_name(language)
    if language == kokoro.NAME and kokoro.folder_of_kokoro(models_dir).is_dir():
        return kokoro.folder_of_kokoro(models_dir)
    translation = translation_models.folder_of_translation(models_dir, language)
    if translation.is_dir():
        return translation
    model = folder_of(models_dir, language)
    if not model.is_dir():
        raise ModelStoreError(f"{language} is not installed ({model}). Run: trio-stt models install {language}")
    return model


def _compile(model: Path, choice: CompileChoice, console: Console) -> None:
    """Compiles the graph of `model` if `choice` and this machine allow it, saying why not; "yes" insists."""
    if choice == "no" or graph_kind(model) == "compiled":
        return
    needed = compile_graph.estimate(model)
    console.print(f"Compiling the decoding graph takes {needed}.")
    against = compile_graph.obstacle(needed, model)
    tools = openfst.find(openfst.TOOLS_DIR)
    if tools is None and choice == "yes":
        raise ModelStoreError(f"The graph was not compiled. {openfst.INSTALL_HINT}")
    if tools is None or (against is not None and choice == "auto"):
        why = openfst.INSTALL_HINT if tools is None else f"Not compiled by itself: {against}."
        later = f"Compile it later with: trio-stt models compile {_language_of(model)}"
        console.print(
            f"The graph stays as shipped (it works, six times slower). {why} {later}", style="yellow", markup=False
        )
        return
    if against is not None:
        console.print(f"This may fail: {against}.", style="yellow")
    compile_graph.compile_graph(model, tools, console)
    console.print(f"Compiled and checked: {model}")


def _language_of(model: Path) -> str:
    return model.name.removeprefix("vosk-model").removeprefix("-") or "en"


def _verify(model: Path, console: Console) -> bool:
    known = manifest.read(model)
    if known is None:
        console.print(f"{model}: no manifest, it was not installed by this command; nothing to compare with.")
        return True
    found = manifest.faults(model, known)
    for fault in found:
        console.print(f"{model}: {fault}", style="red", markup=False)
    if found:
        console.print(f"Mend it: trio-stt models remove {known.language}; trio-stt models install {known.language}")
    else:
        console.print(f"{model}: {len(known.files)} files, all as installed (from {known.origin.source}).")
    return not found


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.0f} MB"


def _add_translations(table: Table, models_dir: Path) -> None:
    present = {model.name for model in translation_models.installed_translations(models_dir)}
    known = translation_models.load_translations()
    for pair, entry in known.items():
        state = "yes" if pair in present else "no"
        table.add_row(pair, entry.name, entry.archive, entry.licence, _megabytes(entry.bytes), state)
    for pair in sorted(present - known.keys()):
        table.add_row(pair, "", "your own", "", "", "yes")


def _install_translation(models_dir: Path, pair: str, wish: install.Wish, console: Console) -> None:
    with exclusive(models_dir, pair, console):
        model = translation_models.folder_of_translation(models_dir, pair)
        if model.exists():
            console.print(f"{pair} is installed already: {model}.")
            return
        install.install(models_dir, pair, wish, console, install.TRANSLATION)
        console.print(f"Installed {pair}: {model}. A server takes it up when it starts.")
        if importlib.util.find_spec("ctranslate2") is None:
            console.print("It needs the extra: pip install 'trio-stt[ctranslate2]'", style="yellow", markup=False)


def _install_kokoro(models_dir: Path, voices: str | None, source: Path | None, console: Console) -> None:
    wanted = [] if voices is None else [name.strip() for name in voices.split(",") if name.strip()]
    kokoro.check_voices(wanted)
    with exclusive(models_dir, kokoro.NAME, console):
        present = kokoro.installed_kokoro(models_dir)
        if present is not None and set(wanted or kokoro.load_kokoro().voices) <= set(present.voices):
            console.print(f"{kokoro.NAME} is installed already: {present.path} ({len(present.voices)} voices).")
        else:
            model = kokoro.install_kokoro(models_dir, wanted, source, console)
            console.print(f"Installed {kokoro.NAME}: {model}. An agent takes it up when it starts.")
        if importlib.util.find_spec("kokoro_onnx") is None:
            console.print("It needs the extra: pip install 'trio-stt[speech]'", style="yellow", markup=False)


def _add_kokoro(table: Table, models_dir: Path) -> None:
    known, present = kokoro.load_kokoro(), kokoro.installed_kokoro(models_dir)
    state = "no" if present is None else f"voices: {len(present.voices)}"
    table.add_row(kokoro.NAME, "Speaks", known.model.name, known.licence, _megabytes(known.bytes), state)


_LANGUAGES = {
    "a": "English (US)",
    "b": "English (UK)",
    "e": "Spanish",
    "f": "French",
    "h": "Hindi",
    "i": "Italian",
    "j": "Japanese",
    "p": "Portuguese (Brazil)",
    "z": "Chinese",
}
"""Of Kokoro's voices, by their first letter."""


def _is_translation(model: Path) -> bool:
    return model.name.startswith(translation_models.FOLDER)


def _has_graph(model: Path) -> bool:
    return not _is_translation(model) and model.name != kokoro.FOLDER


def _all_installed(models_dir: Path) -> list[Path]:
    translations = [model.path for model in translation_models.installed_translations(models_dir)]
    speaks = kokoro.installed_kokoro(models_dir)
    return [model.path for model in installed(models_dir)] + translations + ([] if speaks is None else [speaks.path])


def _state(model: InstalledModel | None) -> str:
    if model is None:
        return "no"
    return f"{model.size_bytes / 1e6:.0f} MB, {'compiled' if model.compiled else 'as shipped'}"
