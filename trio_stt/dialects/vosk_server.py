"""The dialect of vosk-server (docs/vosk-server.md): clients' frames become events, and captions its JSON replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from trio_stt.dialects.events import Audio, ClientEvent, Configure, End, Failure, Flush, Misuse, Transcript
from trio_stt.dialects.native import parse_object
from trio_stt.dialects.request import shown

BYTES_PER_SAMPLE: Final = 2

LOWEST_SAMPLE_RATE: Final = 4000
HIGHEST_SAMPLE_RATE: Final = 192_000
"""Kaldi takes any whole number; what lies outside is a mistake."""

MOST_ALTERNATIVES: Final = 100

CANNOT_READ: Final = 1007
"""Close code for a text frame that means nothing (RFC 6455: data not consistent with the type of the message)."""

CANNOT_ACCEPT: Final = 1008
"""Close code for a configuration that was understood and is refused (RFC 6455: policy)."""


@frozen
class StreamConfig:
    """What a client's ``config`` messages set. `model` None: the server's own."""

    sample_rate: int
    words: bool = True
    max_alternatives: int = 0
    phrase_list: tuple[str, ...] = ()
    model: str | None = None


class VoskServerDialect:
    """Reads one connection's frames, in order. Knows no event loop, does no input or output, raises on no input."""

    def __init__(self, models: Collection[str] = ()) -> None:
        """`models`: the names that a client may ask for."""
        self._models = models
        self._received_samples = 0
        self._over = False  # after `eof`, or a misuse, nothing more is read

    @property
    def received_samples(self) -> int:
        """How many samples have come so far."""
        return self._received_samples

    def receive(self, frame: bytes | str) -> ClientEvent | None:
        """What one frame means: `Audio`, `Configure`, `Flush` (reset), `End` (eof) or `Misuse`; None after the end."""
        if self._over:
            return None
        if isinstance(frame, bytes):
            count = len(frame) // BYTES_PER_SAMPLE
            # As in vosk, the second half of an odd count is left out. Bytes that are sliced whole are not copied.
            audio = Audio(frame[: count * BYTES_PER_SAMPLE], self._received_samples, count)
            self._received_samples += count
            return audio
        event = _read_text(frame, self._models)
        self._over = isinstance(event, End | Misuse)
        return event


# ── text messages of the client ──────────────────────────────────────────────────────────────────────────────────


def _read_text(text: str, models: Collection[str]) -> ClientEvent:
    message = parse_object(text)
    if message is None:
        return _misuse(CANNOT_READ, "bad_message", "a text frame must be a JSON object")
    # As in vosk-server: whatever else stands in a message with a configuration is not looked at.
    if "config" in message:
        return _read_config(message["config"], models)
    if message.get("eof"):
        return End()
    if message.get("reset"):
        return Flush()
    return _misuse(CANNOT_READ, "bad_message", "a text frame must have config, eof or reset")


def _read_config(config: object, models: Collection[str]) -> ClientEvent:
    if not isinstance(config, dict):
        return _misuse(CANNOT_ACCEPT, "bad_value", f"config is {shown(config)}; expected an object")
    changes = {}
    for name, (read, expected) in _VALUES.items():
        if name in config:
            try:
                changes[name] = read(config[name])
            except (ValueError, TypeError, OverflowError):
                return _misuse(CANNOT_ACCEPT, "bad_value", f"{name} is {shown(config[name])}; expected {expected}")
    if "model" in changes and changes["model"] not in models:
        return _misuse(CANNOT_ACCEPT, "bad_value", f"model is {shown(changes['model'])}, which clients may not choose")
    return Configure(changes)


def _misuse(close_code: int, code: str, message: str) -> Misuse:
    return Misuse(Failure(code, message), close_code)


# Readers of one value, as lenient as vosk-server's own; each raises ValueError, TypeError or OverflowError.


def _sample_rate(value: Any) -> int:
    rate = float(value)
    # Kaldi ends the process at a rate that is no whole number.
    if not LOWEST_SAMPLE_RATE <= rate <= HIGHEST_SAMPLE_RATE or not rate.is_integer():
        raise ValueError
    return int(rate)


def _alternatives(value: Any) -> int:
    count = int(value)
    if not 0 <= count <= MOST_ALTERNATIVES:
        raise ValueError
    return count


def _phrases(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(phrase, str) for phrase in value):
        raise ValueError
    return tuple(value)


def _model(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_VALUES: Final[Mapping[str, tuple[Callable[[Any], object], str]]] = {
    "sample_rate": (_sample_rate, f"a whole number from {LOWEST_SAMPLE_RATE} to {HIGHEST_SAMPLE_RATE}"),
    "words": (bool, "true or false"),
    "max_alternatives": (_alternatives, f"a whole number from 0 to {MOST_ALTERNATIVES}"),
    "phrase_list": (_phrases, "a list of strings"),
    "model": (_model, "a name"),
}


# ── replies, where they are not vosk's own ───────────────────────────────────────────────────────────────────────

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, indent=2, separators=(",", " : "))


def encode_partial(text: str) -> str:
    """The reply while an utterance is open, or none is: `text` may be empty."""
    return _ENCODER.encode({"partial": text})


def encode_final(captions: Sequence[Transcript], *, words: bool) -> str:
    """The reply that ends what `captions`, finals in order, hold: one text, and its words if `words` and there are any.

    Times are in seconds from the stream's start, to the hundredth, as vosk's are.
    """
    heard = [
        {
            "conf": round(word.confidence, 6),
            "end": round(word.end, 2),
            "start": round(word.start, 2),
            "word": word.text,
        }
        for caption in captions
        for word in caption.words
    ]
    text = " ".join(caption.text for caption in captions if caption.text)
    return _ENCODER.encode({"result": heard, "text": text} if words and heard else {"text": text})
