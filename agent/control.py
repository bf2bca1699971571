"""Messages of participants that control the agent: who may send them, and what they say.

They come as data packets on the topic `agent_control` and `tts_control`, JSON objects in UTF-8.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from attrs import frozen

CONTROL: Final = "agent_control"
CONTROL_ANSWER: Final = "agent_control_ack"
SPEECH: Final = "tts_control"
SPEECH_ANSWER: Final = "tts_status"

CONTROL_ATTRIBUTE: Final = "agent_control"
"""The participant attribute that, set to ``true`` in a token, permits its holder to control the agent."""

MAX_LANGUAGES: Final = 20
MAX_TEXT: Final = 2000
MAX_MESSAGE_BYTES: Final = 16 * 1024

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,3}")


class ControlError(ValueError):
    """A message that means nothing. The text says what was expected, and may be shown to the sender."""


@frozen
class Start:
    """Caption the room; None: as before."""

    id: str
    languages: tuple[str, ...] | None = None
    speak: bool | None = None


@frozen
class Stop:
    """Caption nothing until `Start`; the agent stays."""

    id: str


@frozen
class AskStatus:
    """Tell what is going on."""

    id: str


@frozen
class Say:
    """Speak `text` into the room."""

    id: str
    text: str
    language: str
    voice: str | None = None


Message = Start | Stop | AskStatus | Say


def may_control(
    identity: str, attributes: dict[str, str], can_update_metadata: bool, controllers: tuple[str, ...]
) -> bool:
    """Whether a participant may control the agent.

    Its identity is one of AGENT_CONTROLLERS; or its attribute `agent_control` is ``true`` and it cannot have set that
    itself. Both are what the maker of its token wrote into the token.
    """
    if identity in controllers:
        return True
    return attributes.get(CONTROL_ATTRIBUTE) == "true" and not can_update_metadata


def is_language(text: str) -> bool:
    """Whether `text` can be a language's tag (BCP-47) such as ``pt-BR``."""
    return bool(_LANGUAGE.fullmatch(text))


def read_message(topic: str, data: bytes) -> Message:
    """The message in a data packet on `CONTROL` or `SPEECH`. Raises `ControlError`."""
    try:
        fields = json.loads(data) if len(data) <= MAX_MESSAGE_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ControlError(f"expected a JSON object of at most {MAX_MESSAGE_BYTES} bytes")
    id = fields.get("id", "")
    if not isinstance(id, str) or len(id) > 128:
        raise ControlError("expected id to be a text of up to 128 characters")
    if topic == SPEECH:
        return _say(fields, id)
    match fields.get("type"):
        case "start":
            return Start(id, _languages(fields.get("languages")), _boolean(fields.get("speak"), "speak"))
        case "stop":
            return Stop(id)
        case "status":
            return AskStatus(id)
        case _:
            raise ControlError("expected type to be one of start, stop, status")


def _say(fields: dict[str, Any], id: str) -> Say:
    text, language, voice = fields.get("text"), fields.get("language"), fields.get("voice")
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
        raise ControlError(f"expected text of 1 to {MAX_TEXT} characters")
    if not isinstance(language, str) or not is_language(language):
        raise ControlError("expected language to be a tag such as pt-BR")
    if voice is not None and (not isinstance(voice, str) or not 1 <= len(voice) <= 64):
        raise ControlError("expected voice to be a name of up to 64 characters")
    return Say(id, text, language, voice)


def _languages(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MAX_LANGUAGES:
        raise ControlError(f"expected languages to be a list of up to {MAX_LANGUAGES} tags")
    if not all(isinstance(each, str) and is_language(each) for each in value):
        raise ControlError("expected languages to be tags such as pt-BR")
    return tuple(dict.fromkeys(value))


def _boolean(value: object, name: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ControlError(f"expected {name} to be true or false")
