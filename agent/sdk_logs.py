"""What LiveKit's SDK logs, without what must not stand in a log: it repeats tokens, and texts where it fails."""

from __future__ import annotations

import logging
import re
from typing import Final

_TOKEN: Final = re.compile(r"eyJ[\w-]+\.[\w-]*(\.[\w-]*)?|(access_token|join_request)=[^&\s\"')]+")
"""JSON Web Tokens, and the parameters of addresses in which they are sent."""


def tame_sdk_logs(level: str) -> None:
    """From now on the SDK's lines, of warnings and above (with `level` DEBUG: all), are written without secrets."""
    sdk = logging.getLogger("livekit")
    sdk.setLevel(logging.INFO if level == "DEBUG" else logging.WARNING)
    for handler in logging.getLogger().handlers:  # not the logger's: the SDK also writes as the root logger
        if not any(isinstance(each, _Tame) for each in handler.filters):
            handler.addFilter(_Tame())


class _Tame(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "livekit":
            record.msg, record.args = _TOKEN.sub("…", record.getMessage()), ()
        elif record.name == "root" and "livekit" in record.pathname:
            # A whole event of the room, which may be somebody's text.
            record.msg, record.args = "LiveKit's SDK: an event was not dealt with", ()
            record.exc_info = record.exc_text = None
            return record.levelno >= logging.WARNING
        return True
