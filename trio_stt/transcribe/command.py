"""The command line of `trio-stt transcribe`."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import click
import jwt
import trio
from rich.console import Console

from trio_stt.client.native_client import stream_url
from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.request import NAME, Refusal, parse_changes
from trio_stt.settings import Secret, Settings, SettingsError, load, parse_token
from trio_stt.transcribe.display import Display
from trio_stt.transcribe.exit_codes import ExitCode
from trio_stt.transcribe.formats import CaptionFormat, caption_format
from trio_stt.transcribe.job import PATIENCE_S, Job, LanguageFile, run_job
from trio_stt.transcribe.microphone import list_microphones
from trio_stt.transcribe.pipe import Pipe
from trio_stt.transcribe.sound import SourceError
from trio_stt.transcribe.sources import CallSource, MediaSource, MicrophoneSource, Source

LIVE_FRAME_MS = 100
"""Frames of sound that is sent as it is spoken."""

FILE_FRAME_MS = 400
"""Frames of a file that is sent as fast as the server takes it: fewer messages for the same sound."""

STANDARD_INPUT = "-"


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--mic", is_flag=True, help="Transcribe a microphone until Ctrl-C.")
@click.option("--mic-device", metavar="NAME", help="The microphone with NAME in its name.")
@click.option("--list-mics", is_flag=True, help="List the microphones and exit.")
@click.option(
    "--raw",
    "raw_rate",
    type=click.IntRange(8000, 48000),
    metavar="RATE",
    help="Standard input is headerless mono s16le at RATE samples a second.",
)
@click.option("--server", metavar="URL", help="ws://HOST:PORT of a running server; without it one is started here.")
@click.option(
    "--token", metavar="TOKEN", help="Access token for --server; better: ACCESS_TOKEN, which ps does not show."
)
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(min=1),
    default=PATIENCE_S,
    show_default=f"{PATIENCE_S:g}",
    metavar="SECONDS",
    help="How long to wait for a server that was lost.",
)
@click.option("--language", metavar="TAG", help="What is spoken (BCP-47).  [default: the setting LANGUAGE]")
@click.option("--session", metavar="ID", help="The call to join.  [default: a new one]")
@click.option("--client", metavar="ID", help="Who speaks.  [default: a new name]")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "json", "srt", "vtt"]),
    default="text",
    show_default=True,
    help="What is written on standard output.",
)
@click.option("--words", is_flag=True, help="With --format json: times and confidences of words.")
@click.option("--realtime", is_flag=True, help="Send files no faster than they were spoken.")
@click.option(
    "--translate", metavar="TAG[,TAG]", help="Translate into these languages (BCP-47); shown below what was said."
)
@click.option(
    "--save", "stem", metavar="STEM", help="One file for each language, such as STEM.en.srt, not standard output."
)
def transcribe(
    files: tuple[str, ...],
    mic: bool,
    mic_device: str | None,
    list_mics: bool,
    raw_rate: int | None,
    server: str | None,
    token: str | None,
    patience_s: float,
    language: str | None,
    session: str | None,
    client: str | None,
    format_name: str,
    words: bool,
    realtime: bool,
    translate: str | None,
    stem: str | None,
) -> None:
    """Write captions of FILEs (any sound or video), of standard input (-) or of a microphone (--mic).

    Without any of these, with --server and --session: of a whole call, as a listener receives it, until Ctrl-C.

    Results go to standard output, everything else to standard error. Exit codes: 0 all done, 2 wrong options, 3 a
    source could not be read, 4 no server, 5 connection lost for good, 130 Ctrl-C.
    """
    if list_mics:
        raise SystemExit(_list_microphones())
    listens = server is not None and session is not None and not files and not mic and mic_device is None
    sources = [CallSource(session or "")] if listens else _sources(files, mic, mic_device, raw_rate, realtime)
    if words and format_name != "json":
        raise click.UsageError("--words needs --format json; srt and vtt use the times of words anyway.")
    try:
        settings = load()
        shown = settings.access_token if token is None else parse_token(token)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except ValueError as error:
        raise click.UsageError(f"--token is not {error}.") from None
    of_token = {} if server is None else _names_in(shown)
    targets = _targets(translate)

    def form_of_output() -> CaptionFormat:
        return caption_format(format_name, words=words, speakers=listens, translations=bool(targets) and stem is None)

    form = form_of_output()
    request = StreamRequest(
        client_id=client or of_token.get("sub") or _new_id("listener" if listens else "speaker"),
        session_id=session or of_token.get("session") or _new_id("transcribe"),
        language=language or settings.language,
        framing="seq",
        partials=sys.stderr.isatty(),
        words=form.needs_words,
        speak=not listens,
        translation=bool(targets),
        target=targets,
    )
    if listens and targets:  # who only listens reads nothing else
        request = attrs.evolve(request, read_language=targets[0])
    tags = (None, *(tag for tag in targets if tag != request.language))
    suffix = "txt" if format_name == "text" else format_name
    output_files = [
        LanguageFile(tag, form_of_output(), Path(f"{stem}.{tag or request.language}.{suffix}"))
        for tag in tags
        if stem is not None
    ]
    open_server = _server(server, request, settings)
    job = Job(sources, request, form, realtime, output_files, listens, shown, patience_s)
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as output:
        display = Display(Console(stderr=True, highlight=False))
        code = trio.run(run_job, job, open_server, output, display)
    raise SystemExit(code)


def _targets(translate: str | None) -> tuple[str, ...]:
    if translate is None:
        return ()
    changes = parse_changes({"target": translate})
    if isinstance(changes, Refusal) or not changes["target"]:
        raise click.UsageError(f"--translate is {translate!r}; expected language tags (BCP-47) such as pt or de,pt-BR.")
    return tuple(changes["target"])  # type: ignore[arg-type]  # parse_changes returns checked values


def _sources(
    files: tuple[str, ...], mic: bool, mic_device: str | None, raw_rate: int | None, realtime: bool
) -> list[Source]:
    if mic or mic_device is not None:
        if files:
            raise click.UsageError("Give either FILEs or --mic, not both.")
        return [MicrophoneSource(mic_device)]
    if not files:
        raise click.UsageError(
            "Nothing to transcribe: give FILEs, - for standard input, or --mic; or --server and --session to listen."
        )
    if files.count(STANDARD_INPUT) > 1:
        raise click.UsageError("Standard input (-) can be read only once.")
    if raw_rate is not None and STANDARD_INPUT not in files:
        raise click.UsageError("--raw is about standard input: give - as the FILE.")
    frame_ms = LIVE_FRAME_MS if realtime else FILE_FRAME_MS
    return [
        _standard_input(raw_rate, frame_ms)
        if file == STANDARD_INPUT
        else MediaSource(Path(file), file, frame_ms=frame_ms)
        for file in files
    ]


def _standard_input(raw_rate: int | None, frame_ms: int) -> Source:
    stdin = sys.stdin.buffer
    if stdin.isatty():
        raise click.UsageError("Standard input is a terminal: pipe sound into it, or use --mic.")
    if stdin.seekable():
        return MediaSource(stdin, "standard input", frame_ms=frame_ms, raw_rate=raw_rate)
    return MediaSource(Pipe(stdin), "standard input", frame_ms=LIVE_FRAME_MS, raw_rate=raw_rate)


def _server(
    url: str | None, request: StreamRequest, settings: Settings
) -> Callable[[], AbstractAsyncContextManager[str]]:
    if url is None:
        # Here, because it loads the recogniser and the whole server.
        from trio_stt.transcribe.own_server import start_own_server

        return partial(start_own_server, settings, request.language)
    try:
        stream_url(url, request)
    except ValueError as error:
        raise click.UsageError(f"--server: {error}.") from error

    @asynccontextmanager
    async def running_server() -> AsyncIterator[str]:
        yield url

    return running_server


def _names_in(token: Secret | None) -> dict[str, str]:
    """The client (`sub`) and the session that a token is for, where it is for one alone: the server has the say."""
    try:
        claims = jwt.decode("" if token is None else token.text, options={"verify_signature": False})
    except jwt.PyJWTError:
        return {}
    names = {name: claims.get(name) for name in ("sub", "session")}
    return {name: value for name, value in names.items() if isinstance(value, str) and NAME.fullmatch(value)}


def _new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(4)}"


def _list_microphones() -> ExitCode:
    try:
        for name in list_microphones():
            click.echo(name)
    except SourceError as error:
        click.echo(f"Error: {error}", err=True)
        return ExitCode.SOURCE
    return ExitCode.OK
