"""What travels over the bus and is stored on it, as bytes: JSON objects, so that instances of different versions agree.

Unknown fields are ignored and missing ones have their defaults. Which call a message belongs to is told by its key,
never by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from attrs import fields_dict, frozen

from trio_stt.dialects.events import Transcript, Translation, Word
from trio_stt.sessions.bus import BusEvent, Call, Here, InstanceRecord, Joined, Left, Present, StoredFinal

_FINAL, _PARTIAL, _TRANSLATION, _JOINED, _HERE, _LEFT = "final", "partial", "translation", "joined", "here", "left"

_JSON: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_READER: Final = json.JSONDecoder(parse_constant=_no_number)

_LEFT_OUT: Final = ("session_id", "history", "words")
_TRANSCRIPT_FIELDS: Final = tuple(name for name in fields_dict(Transcript) if name not in _LEFT_OUT)
_TRANSLATION_FIELDS: Final = tuple(name for name in fields_dict(Translation) if name not in _LEFT_OUT)
_PRESENT_FIELDS: Final = tuple(fields_dict(Present))
_INSTANCE_FIELDS: Final = tuple(fields_dict(InstanceRecord))


@frozen
class Message:
    """An event and the end of the bus that published it."""

    origin: str
    event: BusEvent


def encode(event: BusEvent, origin: str) -> bytes:
    """The bytes for an event that `origin` publishes. Raises ValueError if JSON does not know a number in it.

    Half a surrogate pair, which no reader could be sent, becomes a question mark.
    """
    match event:
        case StoredFinal():
            body = {"kind": _FINAL, "epoch": event.epoch, "follows": event.follows, "is": _transcript(event.final)}
        case Transcript():
            body = {"kind": _PARTIAL, "is": _transcript(event)}
        case Translation():
            body = {"kind": _TRANSLATION, "is": _picked(event, _TRANSLATION_FIELDS)}
        case Joined():
            body = {"kind": _JOINED, "is": _picked(event.present, _PRESENT_FIELDS)}
        case Here():
            body = {"kind": _HERE, "are": [_picked(present, _PRESENT_FIELDS) for present in event.presents]}
        case Left():
            body = {"kind": _LEFT, "client_id": event.client_id, "connection": event.connection}
    return _JSON.encode({"origin": origin, **body}).encode(errors="replace")


def decode(payload: bytes, call: Call) -> Message | None:
    """The message in `payload`; None if it is none that this version can read."""
    try:
        body = _READER.decode(payload.decode())
        if b"\\u" in payload:
            _JSON.encode(body).encode()  # fails at half a surrogate pair: UTF-8 has none, but JSON can escape it
        return Message(str(body["origin"]), _event(body, call))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def encode_instance(record: InstanceRecord) -> bytes:
    """The bytes for what an instance tells of itself."""
    return _JSON.encode(_picked(record, _INSTANCE_FIELDS)).encode(errors="replace")


def decode_instance(payload: bytes) -> InstanceRecord | None:
    """What an instance told; None if this version cannot read it."""
    try:
        return InstanceRecord(**_picked_from(_READER.decode(payload.decode()), _INSTANCE_FIELDS))
    except (ValueError, TypeError, RecursionError):
        return None


def _event(body: dict[str, Any], call: Call) -> BusEvent:
    kind = body["kind"]
    if kind == _FINAL:
        return StoredFinal(_read_transcript(body["is"], call), int(body["epoch"]), int(body["follows"]))
    if kind == _PARTIAL:
        return _read_transcript(body["is"], call)
    if kind == _TRANSLATION:
        return Translation(session_id=call.session_id, **_picked_from(body["is"], _TRANSLATION_FIELDS))
    if kind == _JOINED:
        return Joined(_read_present(body["is"]))
    if kind == _HERE:
        return Here(tuple(_read_present(one) for one in body["are"]))
    if kind == _LEFT:
        return Left(str(body["client_id"]), str(body["connection"]))
    raise ValueError("a kind of a later version")


def _transcript(transcript: Transcript) -> dict[str, Any]:
    body = _picked(transcript, _TRANSCRIPT_FIELDS)
    if transcript.words:
        body["words"] = [(word.text, word.start, word.end, word.confidence) for word in transcript.words]
    return body


def _read_transcript(body: dict[str, Any], call: Call) -> Transcript:
    words = tuple(Word(*word) for word in body.get("words", ()))
    return Transcript(session_id=call.session_id, words=words, **_picked_from(body, _TRANSCRIPT_FIELDS))


def _read_present(body: dict[str, Any]) -> Present:
    values = _picked_from(body, _PRESENT_FIELDS)
    return Present(**{**values, "languages": tuple(values.get("languages", ()))})


def _picked(event: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(event, name)) is not None}


def _picked_from(body: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}
