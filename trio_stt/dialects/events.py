"""The events that every dialect reads frames into and writes frames from.

Positions and counts of samples are at the speaker's own rate, counted from the stream's first sample (0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, field, frozen

# ── client → server ──────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Audio:
    """Encoded samples (mono). `position` is that of the first; `count` is how many samples `payload` holds."""

    payload: bytes
    position: int
    count: int
    chunk_id: int | None = None


@frozen
class Flush:
    """End all that was received before this event (``finalize``): its finals, then an `Ack` with `id`."""

    id: str | int | None = None


@frozen
class End:
    """No more audio (``eof``)."""


@frozen
class Configure:
    """New values for the client's own settings; only those named in `changes` (see `StreamRequest` for the names)."""

    changes: Mapping[str, Any]


@frozen
class Ping:
    """Asks for a `Pong` with the same `id`."""

    id: str | int | None = None


@frozen
class Misuse:
    """A frame that breaks the protocol. `close_code` None: the error is reported and the stream goes on."""

    failure: Failure
    close_code: int | None = None


ClientEvent = Audio | Flush | End | Configure | Ping | Misuse


# ── server → client ──────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Word:
    """One recognised word; `start` and `end` in seconds on the stream's own clock, `confidence` from 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


@frozen
class Ready:
    """The stream is admitted and its recogniser waits for audio."""

    session_id: str
    client_id: str
    stream_id: str
    language: str
    sample_rate: int
    encoding: str
    epoch: int
    from_sample: int
    resume_token: str | None
    heartbeat_ms: int
    resume_window_ms: int
    max_ahead_ms: int
    instance: str


@frozen(cache_hash=True)
class Transcript:
    """A caption: partial (replaced by the next of its segment) or final. `sample_rate` gives seconds from samples.

    Its hash is kept, as that of `Translation`: what a caption is encoded to is looked up for each listener.
    """

    session_id: str
    client_id: str
    stream_id: str
    segment_id: str
    text: str
    is_final: bool
    language: str
    start_sample: int
    end_sample: int
    sample_rate: int
    timestamp: float
    words: tuple[Word, ...] = ()
    chunk_id: int | None = None
    lag_ms: int | None = None
    history: bool = False
    follows: int | None = None
    """Of a final that is sent again after a resume: the `end_sample` of the final before it."""


@frozen(cache_hash=True)
class Translation:
    """A caption's text in another language (`language`: the tag that was asked for); at most one final a segment."""

    session_id: str
    client_id: str
    stream_id: str
    segment_id: str
    translation: str
    is_final: bool
    source_language: str
    language: str
    timestamp: float
    history: bool = False


@frozen
class Ack:
    """All finals before `sample` were sent; audio before it may be forgotten."""

    sample: int
    from_finalize: bool = False
    id: str | int | None = None
    resume_token: str | None = None
    """A newer one, now and then."""


@frozen
class Configured:
    """The answer to `Configure`: the values now in force."""

    values: Mapping[str, object]


@frozen
class Pong:
    """The answer to `Ping`; also a listener's heartbeat."""

    id: str | int | None = None


@frozen
class Presence:
    """Another client of the session came (``joined``) or went (``left``)."""

    event: str
    client_id: str


@frozen
class GoAway:
    """The instance is about to stop: be elsewhere within `deadline_ms`."""

    deadline_ms: int
    reason: str


@frozen
class Failure:
    """An error the client is told of; `extra` are further fields of the message, by code."""

    code: str
    message: str
    extra: Mapping[str, object] = field(factory=dict)


def _fitting(reason: str) -> str:
    """Cuts to the 123 bytes that a close frame has room for (RFC 6455, section 5.5), between characters."""
    return reason.encode()[:123].decode(errors="ignore")


@frozen
class Close:
    """The last event on a connection: the WebSocket close code and reason, cut to 123 bytes of UTF-8.

    `failure`: the error that led to it; a dialect that has errors sends it first, unless it has been sent.
    """

    code: int
    reason: str = field(default="", converter=_fitting)
    failure: Failure | None = None

    @property
    def label(self) -> str:
        """The reason for logs and statistics: never what a client sent."""
        return self.reason if self.failure is None else self.failure.code


ServerEvent = Ready | Transcript | Translation | Ack | Configured | Pong | Presence | GoAway | Failure


# ── the request that opens a stream ──────────────────────────────────────────────────────────────────────────────


@frozen
class StreamRequest:
    """What a client asked for when it connected, checked; `configure` changes some of it later.

    `max_duration_s` and `idle_timeout_s`: None is no limit on the server, and not asked for on a client.
    """

    client_id: str
    session_id: str
    transcript: bool = True
    translation: bool = False
    language: str = "en"
    read_language: str = Factory(lambda self: self.language, takes_self=True)
    target: tuple[str, ...] = ()
    speak: bool = True
    encoding: str = "pcm_s16le"
    sample_rate: int = 16000
    framing: str = "auto"
    partials: bool = True
    words: bool = False
    history: int = 0
    presence: bool = False
    max_duration_s: float | None = None
    idle_timeout_s: float | None = None
    resume: bool = False
    tenant: str = ""
    """Whose call it is: clients of different tenants never meet. From the token, never from the query."""
