"""The native dialect (``/ws/vosk/``, docs/wire.md): clients' frames become events, events the server's messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NoReturn

from trio_stt.dialects.events import (
    Ack,
    Audio,
    ClientEvent,
    Configure,
    Configured,
    End,
    Failure,
    Flush,
    GoAway,
    Misuse,
    Ping,
    Pong,
    Presence,
    Ready,
    Resume,
    ServerEvent,
    StreamRequest,
    Transcript,
    Translation,
    Word,
)
from trio_stt.dialects.request import Refusal, parse_changes, shown

MAX_FRAME_BYTES: Final = 256 * 1024
"""Largest frame of a client, header included."""

MAX_ID_CHARACTERS: Final = 128
"""Longest `id` that is echoed."""

FIRST_UNSAFE_INTEGER: Final = 2**53
"""Chunk ids, positions and numeric `id`s stay below: from here on, who reads JSON numbers as doubles loses digits."""

CHUNK_MAGIC: Final = b"CHID"
POSITION_MAGIC: Final = b"SEQ1"
HEADER_BYTES: Final = 12
"""Both headers are 4 letters and an unsigned 64-bit little-endian number."""

BYTES_PER_SAMPLE: Final = {"pcm_s16le": 2, "mulaw": 1, "alaw": 1}


class NativeDialect:
    """Reads one connection's frames, in order. Knows no event loop, does no input or output, raises on no input."""

    def __init__(self, request: StreamRequest) -> None:
        """A connection that resumes says first with what; then `go_on_at` has to be called before audio is read."""
        self._resumes = request.resume
        self._begun = False  # the first message was read
        self._speaks = request.speak
        self._framing = request.framing
        self._bytes_per_sample = BYTES_PER_SAMPLE[request.encoding]
        self._received_samples = 0
        self._over = False  # after `eof`, or a misuse that closes, nothing more is read

    @property
    def received_samples(self) -> int:
        """How many samples have come so far: the position of the next one."""
        return self._received_samples

    def go_on_at(self, position: int) -> None:
        """The next sample that is new has this position."""
        self._received_samples = position

    def receive(self, frame: bytes | str) -> list[ClientEvent]:
        """What one frame means. That it is not larger than `MAX_FRAME_BYTES` is seen to by who reads it.

        Empty audio is an `Audio` of no samples. Samples that came before are left out; a frame of nothing else means
        nothing. A frame that breaks the protocol is a `Misuse`. After one with a close code, and after `End`, no frame
        means anything.
        """
        if self._over:
            return []
        event = self._read(frame)
        self._begun = True
        if event is None:
            return []
        self._over = isinstance(event, End) or (isinstance(event, Misuse) and event.close_code is not None)
        return [event]

    def _read(self, frame: bytes | str) -> ClientEvent | None:
        if isinstance(frame, bytes):
            if self._resumes and not self._begun:
                return _misuse(1008, "bad_message", "with resume=true the first message is resume")
            return self._read_audio(frame)
        event = _read_message(frame)
        if isinstance(event, Misuse) and event.close_code is not None:
            return event
        if isinstance(event, Resume) and (self._begun or not self._resumes):
            return _misuse(
                1008, "not_available", "resume comes first, on a connection with resume=true", parameter="resume"
            )
        if self._resumes and not self._begun and not isinstance(event, Resume):
            failure = event.failure if isinstance(event, Misuse) else None
            message = "with resume=true the first message is resume"
            return _misuse(1008, "bad_message", message) if failure is None else Misuse(failure, 1008)
        return event

    def _read_audio(self, frame: bytes) -> Audio | Misuse | None:
        if not self._speaks:
            return _misuse(1003, "bad_frame", "this client connected with speak=false and may not send binary frames")
        header = self._header_of(frame)
        if isinstance(header, Misuse):
            return header
        payload = frame if header is None else frame[HEADER_BYTES:]
        count, odd_bytes = divmod(len(payload), self._bytes_per_sample)
        if odd_bytes:
            return _misuse(1003, "bad_frame", f"{len(payload)} bytes of samples: half a sample at the frame's end")
        if header is None or self._framing == "auto":
            return self._take(payload, count, chunk_id=header)
        return self._take_at(header, payload, count)

    def _header_of(self, frame: bytes) -> int | Misuse | None:
        """The number in the frame's header; None if it has no header."""
        if self._framing == "raw" or not frame:
            return None
        magic = POSITION_MAGIC if self._framing == "seq" else CHUNK_MAGIC
        if len(frame) < HEADER_BYTES or not frame.startswith(magic):
            if self._framing == "auto":
                return None
            return _misuse(1003, "bad_frame", "with framing=seq a frame begins with SEQ1 and a position of 8 bytes")
        number = int.from_bytes(frame[len(magic) : HEADER_BYTES], "little")
        if number >= FIRST_UNSAFE_INTEGER:
            return _misuse(1003, "bad_frame", f"{magic.decode()} {number} is not below 2^53")
        return number

    def _take_at(self, position: int, payload: bytes, count: int) -> Audio | Misuse | None:
        known = self._received_samples - position
        if known < 0:
            message = f"position {position} leaves out {-known} samples"
            return _misuse(1008, "gap", message, expected=self._received_samples)
        if known > count or (known and known == count):
            return None
        return self._take(payload[known * self._bytes_per_sample :], count - known)

    def _take(self, payload: bytes, count: int, chunk_id: int | None = None) -> Audio:
        position = self._received_samples
        self._received_samples += count
        return Audio(payload, position, count, chunk_id)


def _misuse(close_code: int | None, code: str, message: str, **extra: object) -> Misuse:
    return Misuse(Failure(code, message, extra), close_code)


# ── text messages of the client ──────────────────────────────────────────────────────────────────────────────────


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


_decode = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object_of).decode


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`; None if it is anything else.

    Stricter than `json.loads`: no NaN, no name twice in an object. Nesting and digits are bounded by the interpreter.
    """
    try:
        value = _decode(text)
    except (ValueError, RecursionError):  # RecursionError: nested deeper than the interpreter's own limit
        return None
    return value if isinstance(value, dict) else None


def _read_message(text: str) -> ClientEvent:
    message = parse_object(text)
    if message is None:
        return _misuse(1007, "bad_message", "a text message must be a JSON object")
    kind = message.get("type")
    if not isinstance(kind, str):
        return _misuse(1007, "bad_message", "a text message must have a type, as a string")
    read = _MESSAGES.get(kind)
    if read is None:
        return _misuse(None, "unknown_type", f"type {shown(kind)} is none of {', '.join(_MESSAGES)}")
    return read(message)


def _with_id(make: Callable[[str | int | None], Flush | Ping]) -> Callable[[dict[str, Any]], ClientEvent]:
    def read(message: dict[str, Any]) -> ClientEvent:
        given = message.get("id")
        if given is None or echoable(given):
            return make(given)
        expected = f"a string of up to {MAX_ID_CHARACTERS} characters, or a whole number within ±2^53"
        return _misuse(None, "bad_value", f"id is {shown(given)}; expected {expected}", parameter="id")

    return read


def echoable(given: object) -> bool:
    """Whether `given` is an `id` that can be sent back."""
    if isinstance(given, str):
        # Half of a surrogate pair passes through JSON's \u escapes but cannot be sent back as UTF-8.
        return len(given) <= MAX_ID_CHARACTERS and not any("\ud800" <= letter <= "\udfff" for letter in given)
    return type(given) is int and abs(given) < FIRST_UNSAFE_INTEGER


def _read_configure(message: dict[str, Any]) -> ClientEvent:
    changes = parse_changes(message)
    return Misuse(changes.failure()) if isinstance(changes, Refusal) else Configure(changes)


def _read_resume(message: dict[str, Any]) -> ClientEvent:
    token = message.get("token")
    if not isinstance(token, str):
        return _misuse(
            1008, "bad_value", f"token is {shown(token)}; expected the newest resume_token", parameter="token"
        )
    positions = {}
    for name in ("from_sample", "accepted"):
        position = message.get(name)
        if type(position) is not int or not 0 <= position < FIRST_UNSAFE_INTEGER:
            expected = "a whole number from 0, below 2^53"
            return _misuse(1008, "bad_value", f"{name} is {shown(position)}; expected {expected}", parameter=name)
        positions[name] = position
    return Resume(token, **positions)


_MESSAGES: Final[dict[str, Callable[[dict[str, Any]], ClientEvent]]] = {
    "finalize": _with_id(Flush),
    "eof": lambda message: End(),
    "configure": _read_configure,
    "ping": _with_id(Ping),
    "resume": _read_resume,
}


# ── messages of the server ───────────────────────────────────────────────────────────────────────────────────────


def encode(event: ServerEvent, *, timestamp: float, words: bool = False) -> str:
    """The text message for `event`.

    `timestamp` is the time of sending in Unix seconds (captions and translations carry their own); `words`: whether
    this receiver asked for the words of finals.
    """
    if isinstance(event, Transcript | Translation):
        return _encode_caption(event, words and isinstance(event, Transcript) and bool(event.words))
    fields: dict[str, object] = {"type": _TYPES[type(event)], "timestamp": round(timestamp, 3)}
    match event:
        case Ready():
            fields.update({name: getattr(event, name) for name in _READY_FIELDS})
        case Ack():
            fields["sample"] = event.sample
            if event.from_finalize:
                fields["from_finalize"] = True
            if event.resume_token is not None:
                fields["resume_token"] = event.resume_token
            _add_id(fields, event.id)
        case Pong():
            _add_id(fields, event.id)
        case Configured():
            fields.update(event.values)
        case Presence():
            fields.update(event=event.event, client_id=event.client_id)
        case GoAway():
            fields.update(deadline_ms=event.deadline_ms, reason=event.reason)
        case Failure():
            fields.update(event.extra)
            fields.update(code=event.code, message=event.message)
    return encode_fields(fields)


ENCODED_CAPTIONS: Final = 256
"""Captions whose messages are remembered: a call's listeners are sent one within milliseconds of each other."""


@lru_cache(maxsize=ENCODED_CAPTIONS)
def _encode_caption(event: Transcript | Translation, words: bool) -> str:
    """Every listener with the same options is sent this message: it is made once."""
    fields: dict[str, object] = {"type": _TYPES[type(event)], "timestamp": round(event.timestamp, 3)}
    if isinstance(event, Transcript):
        fields.update(_transcript_fields(event, words))
    else:
        fields.update({name: getattr(event, name) for name in _TRANSLATION_FIELDS})
        if event.history:
            fields["history"] = True
    return encode_fields(fields)


_JSON: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))


def encode_fields(fields: dict[str, object]) -> str:
    """A message as it goes over the wire: compact JSON, nothing escaped that UTF-8 can carry."""
    return _JSON.encode(fields)


_TYPES: Final[dict[type, str]] = {
    Ready: "ready",
    Transcript: "transcripts",
    Translation: "translation",
    Ack: "ack",
    Configured: "configured",
    Pong: "pong",
    Presence: "presence",
    GoAway: "goaway",
    Failure: "error",
}

_READY_FIELDS: Final = tuple(Ready.__annotations__)

_TRANSLATION_FIELDS: Final = tuple(name for name in Translation.__annotations__ if name not in ("timestamp", "history"))


def _transcript_fields(event: Transcript, words: bool) -> dict[str, object]:
    fields: dict[str, object] = {
        "session_id": event.session_id,
        "client_id": event.client_id,
        "stream_id": event.stream_id,
        "segment_id": event.segment_id,
        "text": event.text,
        "is_final": event.is_final,
        "language": event.language,
        "start": event.start_sample / event.sample_rate,
        "end": event.end_sample / event.sample_rate,
        "start_sample": event.start_sample,
        "end_sample": event.end_sample,
    }
    if words and event.words:
        fields["words"] = _word_fields(event.words)
    if event.chunk_id is not None:
        fields["chunk_id"] = event.chunk_id
    if event.lag_ms is not None:
        fields["lag_ms"] = event.lag_ms
    if event.history:
        fields["history"] = True
    if event.follows is not None:
        fields["follows"] = event.follows
    return fields


def _word_fields(words: Iterable[Word]) -> list[dict[str, object]]:
    return [
        {
            "word": word.text,
            "start": round(word.start, 6),
            "end": round(word.end, 6),
            "conf": round(word.confidence, 4),
        }
        for word in words
    ]


def _add_id(fields: dict[str, object], given: str | int | None) -> None:
    if given is not None:
        fields["id"] = given
