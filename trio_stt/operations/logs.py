"""Structured logs: one JSON object a line on standard error, or coloured text for people."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, TextIO, cast

import structlog

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
"""From the least to the most severe."""

SHOWN_FRAMES: Final = 8
"""Of the way to a fault whose message is not shown."""

LOGS_S: Final = 1.0
"""How long a process that must end waits for its last log lines to be taken."""


def configure_logs(level: str, format: str) -> None:
    """Sets up structlog and routes the standard library's loggers (hypercorn, quart) through it. Call once, at start.

    `level`: one of `LEVELS`; `format`: ``json`` or ``console``. What is bound with `structlog.contextvars` (the stream
    id) stands on every line.
    """
    set_level(level)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[_LEAST.drop_below, *shared, *_exceptions(format), renderer],
        # Loggers live as long as a stream does, and the least level may be changed meanwhile.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Unfailing(sys.stderr))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_exceptions(format), renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]


def set_level(level: str) -> None:
    """From now on writes lines of that level (one of `LEVELS`) and above; of libraries, never those below INFO."""
    _LEAST.number = logging.getLevelNamesMapping()[level]
    logging.getLogger().setLevel(max(_LEAST.number, logging.INFO))


_NUMBERS: Final = logging.getLevelNamesMapping()


class _Least:
    """The least severe level that is written: one for the process, as structlog's and logging's configuration is."""

    number = logging.INFO

    def drop_below(self, logger: object, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if _NUMBERS.get(method.upper(), logging.ERROR) < self.number:
            raise structlog.DropEvent
        return fields


_LEAST: Final = _Least()


def close_logs() -> None:
    """Call last. What nobody can read any more is thrown away: Python would end with exit code 120 for it."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


def end_process(code: int) -> NoReturn:
    """Ends this process at once, when its logs are written: no clean-up, no waiting for threads that may hang.

    Logs that nobody reads are waited for `LOGS_S`.
    """
    last_resort = threading.Timer(LOGS_S, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()
    sys.stdout.flush()
    close_logs()
    os._exit(code)


class _Unfailing(io.TextIOBase):
    """A text stream that drops what cannot be written: captions go on with a full disk, or when nobody reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _exceptions(format: str) -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info] if format == "json" else []


def without_message(error: BaseException) -> str:
    """An exception for the log where its message may hold what was said: its type, and the way to it."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-SHOWN_FRAMES:])
    return f"{type(error).__name__} at {', '.join(f'{Path(each.filename).name}:{each.lineno}' for each in frames)}"
