"""What a client asks for: in the query that opens a stream, and later with ``configure`` (docs/wire.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from trio_stt.dialects.events import Failure, StreamRequest

MAX_TARGETS = 50
"""Most languages in `target`: every one of them costs a translation of each final."""

MAX_HISTORY = 200
"""Most finals of others that a client may ask for when it connects."""

_UNKNOWN_LANGUAGE = "auto"
_SAY_IT = "this server does not find out what is spoken; name the language, such as en"
_SHOWN_CHARACTERS = 40  # of a wrong value, in the message about it
NAME = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_WHOLE = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# RFC 5646, section 2.1: subtags of up to 8 letters and digits, the first of letters; 35 characters are enough (section
# 4.4.1).
_LANGUAGE = re.compile(r"(?=.{1,35}\Z)[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@frozen
class Refusal:
    """Why a connection is not accepted: an HTTP status and what its JSON body says."""

    status: int
    code: str
    message: str
    parameter: str | None = None
    retry_after_s: int | None = None  # the answer's Retry-After header

    def body(self) -> dict[str, dict[str, str | None]]:
        """The body of the HTTP answer."""
        return {"error": {"code": self.code, "message": self.message, "parameter": self.parameter}}

    def failure(self) -> Failure:
        """The same refusal on a stream that is already open."""
        return Failure(self.code, self.message, {} if self.parameter is None else {"parameter": self.parameter})


@frozen
class Limits:
    """The most that this server grants a stream; a client that asks for more gets this."""

    max_duration_s: float
    idle_timeout_s: float


def parse_request(query: Iterable[tuple[str, str]], limits: Limits) -> StreamRequest | Refusal:
    """Checks a decoded query string, given as pairs (``urllib.parse.parse_qsl``, ``request.args.items(multi=True)``).

    Unknown parameters are ignored. In the result both times are set, but `idle_timeout_s` is None for a listener.
    Whether the language has a model is not looked at: see `language_unavailable`; nor whether anybody translates.
    """
    given: dict[str, str] = {}
    for name, value in query:
        if name in given and name in _QUERY:
            return _bad(name, "is given more than once", code="duplicate_parameter")
        given[name] = value
    values: dict[str, Any] = {}
    for name, read in _QUERY.items():
        if name not in given:
            continue
        try:
            values[name] = read(given[name])
        except ValueError as error:
            return _bad(name, f"is {shown(given[name])}; expected {error}")
    for name in ("client_id", "session_id"):
        if name not in values:
            return _bad(name, f"is missing; expected {_NAME_EXPECTED}", code="missing_parameter")
    if values.get("language", "").lower() == _UNKNOWN_LANGUAGE:
        return Refusal(400, "not_available", f"language={_UNKNOWN_LANGUAGE} is not available: {_SAY_IT}", "language")
    if values.get("resume") and not (values.get("framing") == "seq" and values.get("speak", True)):
        return _bad("resume", "is true; that needs framing=seq and speak=true")
    max_duration_s = min(values.pop("max_duration", limits.max_duration_s), limits.max_duration_s)
    idle_timeout_s = min(values.pop("idle_timeout", limits.idle_timeout_s), limits.idle_timeout_s)
    speaks = values.get("speak", True)
    return StreamRequest(**values, max_duration_s=max_duration_s, idle_timeout_s=idle_timeout_s if speaks else None)


def parse_changes(fields: Mapping[str, object]) -> dict[str, object] | Refusal:
    """Checks the fields of a ``configure`` message. Fields that no parameter is named after are ignored."""
    changes: dict[str, object] = {}
    for name, value in fields.items():
        if name in _CHANGES:
            try:
                changes[name] = _CHANGES[name](value)
            except ValueError as error:
                return _bad(name, f"is {shown(value)}; expected {error}")
            if name == "language" and str(value).lower() == _UNKNOWN_LANGUAGE:
                return _bad(name, f"is {shown(value)}; {_SAY_IT}")
        elif name in _QUERY:
            return _bad(name, "cannot be changed on an open stream; connect again with the new value")
    return changes


def language_unavailable(language: str) -> Refusal:
    """The refusal of a speaker whose `language` (BCP-47) has no speech model here."""
    message = (
        f"language is {shown(language)}, for which this server has no speech model; "
        f"install it with: trio-stt models install {primary_subtag(language)}"
    )
    return Refusal(400, "language_unavailable", message, "language")


def primary_subtag(language: str) -> str:
    """What decides which model is used: ``en`` of ``en-GB``."""
    return language.partition("-")[0].lower()


def shown(value: object) -> str:
    """A client's value for an error message: its type alone if it is a container, printable and cut short otherwise."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}… ({len(value)} characters)"
    return repr(value)[:_SHOWN_CHARACTERS]


def _bad(name: str, what: str, code: str = "bad_value") -> Refusal:
    return Refusal(400, code, f"{name} {what}", name)


# Readers of one value: each returns it checked, or raises ValueError with what would have been right.

_NAME_EXPECTED = "1 to 128 characters of A-Z a-z 0-9 . _ : @ -"


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(_NAME_EXPECTED)
    return text


def _true_or_false(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def read_boolean(value: object) -> bool:
    """True or False as JSON has them. Raises ValueError with what is expected."""
    if not isinstance(value, bool):
        raise ValueError("true or false, without quotes")
    return value


def read_language(value: object) -> str:
    """A language tag. Raises ValueError with what is expected."""
    if not isinstance(value, str) or not _LANGUAGE.fullmatch(value):
        raise ValueError("a language tag (BCP-47) such as en or pt-BR")
    return value


def _targets(text: str) -> tuple[str, ...]:
    tags = text.split(",", MAX_TARGETS) if text else []
    if len(tags) > MAX_TARGETS or not all(map(_LANGUAGE.fullmatch, tags)):
        raise ValueError(f"up to {MAX_TARGETS} language tags (BCP-47) separated by commas, such as de,pt-BR")
    return tuple(dict.fromkeys(tags))


def _targets_or_list(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        value = ",".join(value)
    if not isinstance(value, str):
        raise ValueError("a string of language tags separated by commas, or a list of them")
    return _targets(value)


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text) or not float(text):
        raise ValueError("seconds, more than 0")
    return float(text)


_QUERY: Mapping[str, Callable[[str], object]] = {
    "client_id": _name,
    "session_id": _name,
    "transcript": _true_or_false,
    "translation": _true_or_false,
    "language": read_language,
    "read_language": read_language,
    "target": _targets,
    "speak": _true_or_false,
    "encoding": _choice("pcm_s16le", "mulaw", "alaw"),
    "sample_rate": _whole(8000, 48000),
    "framing": _choice("auto", "raw", "seq"),
    "partials": _true_or_false,
    "words": _true_or_false,
    "history": _whole(0, MAX_HISTORY),
    "presence": _true_or_false,
    "max_duration": _seconds,
    "idle_timeout": _seconds,
    "resume": _true_or_false,
}

_CHANGES: Mapping[str, Callable[[object], object]] = {
    "transcript": read_boolean,
    "translation": read_boolean,
    "language": read_language,
    "read_language": read_language,
    "target": _targets_or_list,
    "partials": read_boolean,
}
