"""Sessions as speech and as frames, and the talkers that say them."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Sequence
from enum import Enum

from attrs import frozen

from trio_stt.bench.generator.load import FramedSession, Talker
from trio_stt.bench.generator.websocket_bytes import BINARY, TEXT, masked_frame
from trio_stt.bench.speech import Clip, trimmed
from trio_stt.bench.spoken_sessions import continuous_session, conversation_session
from trio_stt.bench.stream_lag import Dialect

SPEECH_SHARE = 0.38
"""Of a speaker's time in a conversation, what is speech."""

LIBRARY_SESSIONS = 32
"""Different sessions that the talkers of a load choose from."""

START_SPREAD_S = 1.0
"""Talkers come one by one within so many seconds; a crowd at one moment would measure something else."""

_NATIVE_PATH = "/ws/vosk"
_NATIVE_TARGET = _NATIVE_PATH + "/?client_id=bench-{run}-{{number}}&session_id=bench-{run}-{{number}}&framing=raw"
_RATE = "&sample_rate={sample_rate}"


class Kind(Enum):
    """How much of a session is speech."""

    CONTINUOUS = "continuous"
    CONVERSATION = "conversation"


@frozen
class Traffic:
    """What is said and how it is sent."""

    kind: Kind
    session_s: float
    frame_ms: int


def record_sessions(
    clips: Sequence[Clip], traffic: Traffic, count: int = LIBRARY_SESSIONS, seed: int = 0
) -> list[Clip]:
    """`count` sessions of about `traffic.session_s`; the same ones for the same seed."""
    dice = random.Random(seed)
    if traffic.kind is Kind.CONTINUOUS:
        return [continuous_session(clips, traffic.session_s, dice) for _ in range(count)]
    return [
        conversation_session([trimmed(clip) for clip in clips], traffic.session_s, SPEECH_SHARE, dice)
        for _ in range(count)
    ]


def framed(session: Clip, frame_ms: int, dialect: Dialect) -> FramedSession:
    """The session's frames, masked and ready to send."""
    step = session.sample_rate * frame_ms // 1000
    audio = session.samples.astype("<i2")
    config = json.dumps({"config": {"sample_rate": session.sample_rate}}).encode()
    return FramedSession(
        tuple(masked_frame(BINARY, audio[at : at + step].tobytes()) for at in range(0, len(audio), step)),
        frame_ms / 1000,
        session.sample_rate,
        masked_frame(TEXT, config) if dialect is Dialect.VOSK_SERVER else b"",
    )


def talkers(
    count: int, library: Sequence[FramedSession], seed: int, within_s: float = START_SPREAD_S
) -> tuple[Talker, ...]:
    """`count` talkers, each with an order of its own, who begin at different places of their sessions, `within_s`."""
    dice = random.Random(seed)
    found = []
    for number in range(count):
        order = dice.sample(range(len(library)), len(library))
        starts_s = (number + dice.random()) / count * within_s
        found.append(Talker(tuple(order), starts_s, dice.randrange(len(library[order[0]].frames))))
    return tuple(found)


def goodbye(dialect: Dialect) -> bytes:
    """The frame that ends a session. vosk-server knows this one spelling."""
    return masked_frame(TEXT, b'{"eof" : 1}' if dialect is Dialect.VOSK_SERVER else b'{"type":"eof"}')


def target(path: str, dialect: Dialect) -> str:
    """Path and query of connections to a server whose address has `path`; see `Load.target`.

    In the native dialect the address may end with its path or before it.
    """
    if dialect is Dialect.VOSK_SERVER:
        return path or "/"
    return path.rstrip("/").removesuffix(_NATIVE_PATH) + _NATIVE_TARGET.format(run=secrets.token_hex(4)) + _RATE
