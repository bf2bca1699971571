"""How long captions let themselves wait for: from what was sent when, and what came when.

Lag, in the vosk-server dialect: a frame handed over → its reply (one a frame, in order). In the native one: the frame
with a final's `end_sample` handed over → that final, less what the server's hangover lets it wait for from there on; a
final that the session's end brought about is not waited for with a hangover, but from the goodbye on.

What was never answered counts with the time until the load was over: at least so long did it wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import frozen

from trio_stt.bench.generator.load import Connection, FramedSession, LoadResult


class Dialect(Enum):
    """Which protocol a server is spoken to in."""

    NATIVE = "native"
    VOSK_SERVER = "vosk-server"


@frozen
class Answered:
    """Audio that has, or should have, an answer: whose, when its end was handed over, its length, the answer's lag.

    `answered` False: it never came, and `lag_s` is the least it can have been.
    """

    talker: int
    sent_at: float
    audio_s: float
    lag_s: float
    answered: bool = True


@frozen
class SessionEnd:
    """A session's goodbye and how long its last words took from there; None: they never came."""

    goodbye_at: float
    latency_s: float | None


def answers(
    result: LoadResult, library: Sequence[FramedSession], dialect: Dialect, hangover_left_s: float
) -> list[Answered]:
    """Every frame (vosk-server) or final (native) of every accepted connection that did not vanish.

    `hangover_left_s`: silence that a native server has to hear after `end_sample` before it knows of an end.
    """
    found: list[Answered] = []
    for connection in result.connections:
        if not connection.accepted:
            continue
        session = library[connection.session]
        if dialect is Dialect.VOSK_SERVER:
            found += _frames(connection, session, result.over_at)
        else:
            found += _finals(connection, session, result.over_at, hangover_left_s)
    return found


def session_ends(result: LoadResult) -> list[SessionEnd]:
    """From a session's goodbye to the last thing the server says before it closes."""
    return [
        SessionEnd(
            connection.goodbye_at,
            connection.replies[-1][0] - connection.goodbye_at
            if connection.ended_at is not None and connection.replies
            else None,
        )
        for connection in result.connections
        if connection.accepted and connection.goodbye_at is not None
    ]


def heard_words(connection: Connection, dialect: Dialect) -> list[str]:
    """All words of the connection's finals."""
    texts = (
        [reply.get("text", "") for _, reply in _parsed(connection)]
        if dialect is Dialect.VOSK_SERVER
        else [reply["text"] for _, reply in _parsed(connection) if _is_final(reply)]
    )
    return [word for text in texts for word in text.split()]


def is_whole(connection: Connection) -> bool:
    """Whether a session was said from its first frame to its last, and the server had its last words."""
    return connection.first_frame == 0 and connection.said_all and connection.ended_at is not None


def _frames(connection: Connection, session: FramedSession, over_at: float) -> Iterator[Answered]:
    times = [at for at, _ in connection.replies]
    for index, sent_at in enumerate(connection.sent_at):
        if index < len(times):
            yield Answered(connection.talker, sent_at, session.frame_s, times[index] - sent_at)
        elif not _vanished(connection):
            yield Answered(connection.talker, sent_at, session.frame_s, over_at - sent_at, answered=False)


def _finals(
    connection: Connection, session: FramedSession, over_at: float, hangover_left_s: float
) -> Iterator[Answered]:
    frame_samples = round(session.sample_rate * session.frame_s)
    for at, reply in _parsed(connection):
        if not _is_final(reply):
            continue
        sent_at = connection.sent_at[min((reply["end_sample"] - 1) // frame_samples, len(connection.sent_at) - 1)]
        due = sent_at + hangover_left_s
        if connection.goodbye_at is not None:
            due = min(due, connection.goodbye_at)
        audio_s = (reply["end_sample"] - reply["start_sample"]) / session.sample_rate
        yield Answered(connection.talker, sent_at, audio_s, max(0.0, at - due))
    if connection.goodbye_at is not None and connection.ended_at is None:
        sent_at = connection.goodbye_at
        yield Answered(connection.talker, sent_at, session.frame_s, over_at - sent_at, answered=False)


def _vanished(connection: Connection) -> bool:
    return connection.said_all and connection.goodbye_at is None


def _parsed(connection: Connection) -> Iterator[tuple[float, Mapping[str, Any]]]:
    for at, payload in connection.replies:
        yield at, json.loads(payload)


def _is_final(reply: Mapping[str, Any]) -> bool:
    return reply.get("type") == "transcripts" and bool(reply["is_final"])
