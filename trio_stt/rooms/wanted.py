"""What is asked of an agent: which room, in which languages, and whether it may speak there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from trio_stt.dialects.request import MAX_TARGETS, Refusal, read_boolean, read_language, shown

MOST_ROOM_NAME_CHARACTERS = 256
"""What LiveKit itself allows, unless it is told otherwise (its ``limit.max_room_name_length``)."""

MOST_BODY_BYTES = 8192
"""Of a request about a room: room for fifty languages and a name in any script."""


@frozen
class WantedRoom:
    """A room into which an agent is to go.

    `languages`: tags (BCP-47) into which what is said is translated for everybody there; `speak`: translations are
    spoken, too.
    """

    room_name: str
    languages: tuple[str, ...] = ()
    speak: bool = False

    def as_json(self) -> str:
        """It as `read_wanted` reads it."""
        return json.dumps({"room_name": self.room_name, "languages": list(self.languages), "speak": self.speak})


def read_wanted(body: bytes) -> WantedRoom | Refusal:
    """What the body of a join asks for; 400 naming the parameter that is wrong. Never raises."""
    fields = read_fields(body, {"room_name": read_room_name, "languages": _languages, "speak": read_boolean})
    return fields if isinstance(fields, Refusal) else WantedRoom(**fields)


def read_cancelled(body: bytes) -> str | Refusal:
    """The name of the room in the body of a cancel, in which all that a join has may stand; 400 as there."""
    wanted = read_wanted(body)
    return wanted if isinstance(wanted, Refusal) else wanted.room_name


def read_fields(
    body: bytes, known: Mapping[str, Callable[[object], object]], required: tuple[str, ...] = ("room_name",)
) -> dict[str, Any] | Refusal:
    """The fields of a JSON object, each read by its reader, which raises ValueError with what would have been right.

    400 for whatever else stands there, twice or not at all. Never raises.
    """
    if len(body) > MOST_BODY_BYTES:
        return Refusal(400, "body_too_large", f"the body has {len(body)} bytes; at most {MOST_BODY_BYTES} are read")
    try:
        fields = json.loads(body, object_pairs_hook=_once_each)
    except _TwiceError as error:
        return Refusal(400, "duplicate_parameter", f"{shown(error.name)} is given more than once", error.parameter)
    except (ValueError, RecursionError):
        return Refusal(400, "bad_json", "the body is no JSON")
    if not isinstance(fields, dict):
        return Refusal(400, "bad_json", f'the body is {shown(fields)}; expected an object such as {{"room_name": …}}')
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in known:
            expected = ", ".join(known)
            return Refusal(
                400, "unknown_parameter", f"{shown(name)} is not known; there are {expected}", name[:_NAMED_CHARACTERS]
            )
        try:
            values[name] = known[name](value)
        except ValueError as error:
            return Refusal(400, "bad_value", f"{name} is {shown(value)}; expected {error}", name)
    for name in required:
        if name not in values:
            return Refusal(400, "missing_parameter", f"{name} is missing", name)
    return values


def read_room_name(value: object) -> str:
    """A room's name as LiveKit has them. Raises ValueError with what is expected."""
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_ROOM_NAME_CHARACTERS or not value.isprintable():
        raise ValueError(f"a text of 1 to {MOST_ROOM_NAME_CHARACTERS} printable characters")
    return value


_NAMED_CHARACTERS = 64  # of the caller's own name for a parameter, in the answer


class _TwiceError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        self.parameter = name[:_NAMED_CHARACTERS]


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise _TwiceError(name)
        fields[name] = value
    return fields


def _languages(value: object) -> tuple[str, ...]:
    expected = f"a list of up to {MAX_TARGETS} different language tags (BCP-47) such as de or pt-BR"
    if not isinstance(value, list) or len(value) > MAX_TARGETS:
        raise ValueError(expected)
    try:
        tags = tuple(read_language(tag) for tag in value)
    except ValueError:
        raise ValueError(expected) from None
    if len({tag.lower() for tag in tags}) < len(tags):
        raise ValueError(expected)
    return tuple(sorted(tags))
