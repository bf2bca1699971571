"""A client's side of the native dialect (docs/wire.md): its query, its frames, and what the server's messages mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints
from urllib.parse import urlencode, urlsplit

import attrs

from trio_stt.dialects.events import (
    Ack,
    Configured,
    Failure,
    GoAway,
    Pong,
    Presence,
    Ready,
    ServerEvent,
    StreamRequest,
    Transcript,
    Translation,
    Word,
)
from trio_stt.dialects.native import (
    BYTES_PER_SAMPLE,
    CHUNK_MAGIC,
    FIRST_UNSAFE_INTEGER,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    POSITION_MAGIC,
    encode_fields,
    parse_object,
)

PATH = "/ws/vosk/"


class WireError(Exception):
    """The server sent something that docs/wire.md does not allow."""


def stream_url(server: str, request: StreamRequest) -> str:
    """The address of the stream `request` at `server` (``ws://HOST:PORT`` or ``wss://HOST``; a path may follow).

    Values that are the server's defaults are left out. Raises ValueError if `server` is not such an address.
    """
    parts = urlsplit(server)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(f"{server!r} is not a server's address; expected ws://HOST:PORT or wss://HOST")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}{PATH}?{urlencode(list(_query_of(request)))}"


def _query_of(request: StreamRequest) -> Iterator[tuple[str, str]]:
    named_only = StreamRequest(request.client_id, request.session_id, language=request.language)
    always = ("client_id", "session_id", "language")
    for name, value in attrs.asdict(request, recurse=False).items():
        if name == "tenant":
            continue  # the token says it
        if name in always or value != getattr(named_only, name):
            yield name.removesuffix("_s"), _as_text(value)


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


class NativeClient:
    """The client's end of one connection. Knows no event loop and does no input or output."""

    def __init__(self, request: StreamRequest) -> None:
        self._framing = request.framing
        self._sample_rate = request.sample_rate
        self._bytes_per_sample = BYTES_PER_SAMPLE[request.encoding]
        self._sent_samples = 0

    @property
    def sent_samples(self) -> int:
        """How many samples were framed so far: the position of the next one."""
        return self._sent_samples

    def audio(self, payload: bytes, chunk_id: int | None = None) -> Iterator[bytes]:
        """The binary frames that carry `payload`, whole samples in the request's encoding; none for no samples.

        `chunk_id` (below 2^53) needs framing ``auto``. Raises ValueError for half a sample or an id that cannot be
        sent. The samples of a frame count as sent when it is taken from the iterator.
        """
        if len(payload) % self._bytes_per_sample:
            raise ValueError(f"{len(payload)} bytes are not whole samples of {self._bytes_per_sample} bytes")
        if chunk_id is not None and (self._framing != "auto" or not 0 <= chunk_id < FIRST_UNSAFE_INTEGER):
            raise ValueError(
                f"chunk id {chunk_id} with framing={self._framing}; expected one below 2^53 with framing=auto"
            )
        return self._frames(payload, chunk_id)

    def _frames(self, payload: bytes, chunk_id: int | None) -> Iterator[bytes]:
        most_bytes = MAX_FRAME_BYTES - HEADER_BYTES  # even: whole samples in every encoding
        start = 0
        while start < len(payload):
            # Samples that happen to spell the header's letters must not be taken for one: the first of them goes alone.
            looks_framed = chunk_id is None and self._framing == "auto" and payload.startswith(CHUNK_MAGIC, start)
            piece = payload[start : start + (self._bytes_per_sample if looks_framed else most_bytes)]
            frame = self._header(chunk_id) + piece
            start += len(piece)
            self._sent_samples += len(piece) // self._bytes_per_sample
            yield frame

    def _header(self, chunk_id: int | None) -> bytes:
        if self._framing == "seq":
            return POSITION_MAGIC + self._sent_samples.to_bytes(8, "little")
        return b"" if chunk_id is None else CHUNK_MAGIC + chunk_id.to_bytes(8, "little")

    def finalize(self, id: str | int | None = None) -> str:
        """Asks for the finals of all sent before, then an `Ack` with `id`."""
        return _message("finalize", id=id)

    def ping(self, id: str | int | None = None) -> str:
        """Asks for a `Pong` with `id`."""
        return _message("ping", id=id)

    def configure(self, **changes: object) -> str:
        """Asks for new values; the names are those of `StreamRequest` that docs/wire.md lists."""
        return _message("configure", **changes)

    def end(self) -> str:
        """Says that no more audio comes; the server sends the last finals and closes."""
        return _message("eof")

    def resume(self, token: str, from_sample: int, accepted: int) -> str:
        """Goes on with a stream after its connection was lost: the first message (docs/resume.md says what it holds).

        The next frame of samples then begins at the `from_sample` of the answer: see `skip_to`.
        """
        return _message("resume", token=token, from_sample=from_sample, accepted=accepted)

    def skip_to(self, position: int) -> None:
        """The next samples to be framed are those from `position` on, counted from the stream's first."""
        self._sent_samples = position

    def receive(self, message: str | bytes) -> ServerEvent | None:
        """What a message of the server means; None for a type that this client does not know. Raises `WireError`."""
        fields = parse_object(message) if isinstance(message, str) else None
        kind = fields.pop("type", None) if fields is not None else None
        if fields is None or not isinstance(kind, str):
            raise WireError("the server sent a message that is not a JSON object with a type")
        read = _MESSAGES.get(kind)
        if read is None:
            return None
        try:
            return _checked(read(fields, self._sample_rate))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise WireError(f"the server sent a message with a missing or wrong field: {error!r}") from error


def _message(kind: str, **fields: object) -> str:
    return encode_fields({"type": kind} | {name: value for name, value in fields.items() if value is not None})


def _types_of(kind: type) -> dict[str, tuple[type, ...]]:
    """The types that each plain field may have; JSON has whole numbers where a float is meant."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        types = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if {*types} <= {str, int, float, bool, NoneType}:
            found[name] = (*types, int) if float in types else types
    return found


_FIELD_TYPES = {kind: _types_of(kind) for kind in get_args(ServerEvent)}


def _checked(event: ServerEvent) -> ServerEvent:
    for name, types in _FIELD_TYPES[type(event)].items():
        if not isinstance(getattr(event, name), types):
            raise TypeError(f"{name} is {getattr(event, name)!r}")
    return event


# ── messages of the server ───────────────────────────────────────────────────────────────────────────────────────


def _read_ready(fields: dict[str, Any], sample_rate: int) -> Ready:
    return Ready(**{field.name: fields[field.name] for field in attrs.fields(Ready)})


def _read_transcript(fields: dict[str, Any], sample_rate: int) -> Transcript:
    words = tuple(Word(word["word"], word["start"], word["end"], word["conf"]) for word in fields.pop("words", ()))
    # Another speaker's rate is known only from both forms of the same moment.
    rate = round(fields["end_sample"] / fields["end"]) if fields["end"] else sample_rate
    known = {field.name: fields[field.name] for field in attrs.fields(Transcript) if field.name in fields}
    return Transcript(**known, sample_rate=rate, words=words)


def _read_translation(fields: dict[str, Any], sample_rate: int) -> Translation:
    return Translation(
        **{field.name: fields[field.name] for field in attrs.fields(Translation) if field.name in fields}
    )


def _read_ack(fields: dict[str, Any], sample_rate: int) -> Ack:
    return Ack(fields["sample"], fields.get("from_finalize", False), fields.get("id"), fields.get("resume_token"))


def _read_configured(fields: dict[str, Any], sample_rate: int) -> Configured:
    return Configured({name: value for name, value in fields.items() if name != "timestamp"})


def _read_failure(fields: dict[str, Any], sample_rate: int) -> Failure:
    extra = {name: value for name, value in fields.items() if name not in ("timestamp", "code", "message")}
    return Failure(fields["code"], fields["message"], extra)


_MESSAGES: dict[str, Callable[[dict[str, Any], int], ServerEvent]] = {
    "ready": _read_ready,
    "transcripts": _read_transcript,
    "translation": _read_translation,
    "ack": _read_ack,
    "configured": _read_configured,
    "pong": lambda fields, _: Pong(fields.get("id")),
    "presence": lambda fields, _: Presence(fields["event"], fields["client_id"]),
    "goaway": lambda fields, _: GoAway(fields["deadline_ms"], fields["reason"]),
    "error": _read_failure,
}
