"""Resume tokens: what a stream is, so that any instance can go on with it. Signed by the server, for itself alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Any

import jwt
from attrs import frozen

from trio_stt.dialects.events import StreamRequest
from trio_stt.settings import Settings

ALGORITHM = "HS256"

_AUDIENCE = "resume"
_REQUIRED = ["aud", "exp", "tenant", "session", "client", "stream", "encoding", "rate", "epoch", "began"]


@frozen
class ResumableStream:
    """A stream as its token says it. `epoch`: of the connection that was given it.

    `began_at`: about when the stream's first sample was spoken, in Unix seconds.
    """

    stream_id: str
    epoch: int
    began_at: float


class ResumeTokens:
    """Makes and reads them. An access token is none: the key is another, and so is the audience."""

    def __init__(self, secret: str, *, life_s: float, clock: Callable[[], float] = time.time) -> None:
        """`secret`: the same on all instances of a service; empty: one of our own, so that no other's are taken."""
        self._key = secret or secrets.token_urlsafe(32)
        self.life_s = life_s
        self._clock = clock

    def issue(self, request: StreamRequest, stream: ResumableStream) -> str:
        """A token for that stream, for the client of `request`."""
        claims = {
            "aud": _AUDIENCE,
            "exp": int(self._clock() + self.life_s),
            "stream": stream.stream_id,
            "epoch": stream.epoch,
            "began": round(stream.began_at, 3),
            **_of(request),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def read(self, token: str, request: StreamRequest) -> ResumableStream | str:
        """The stream that the client of `request` may go on with, or why it may not: a `reason` of the wire's."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=_AUDIENCE,
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            return "bad_signature"
        if claims["exp"] <= self._clock():
            return "expired"
        expected = _of(request)
        if any(claims[name] != expected[name] for name in ("tenant", "session", "client")):
            return "other_client"
        if any(claims[name] != expected[name] for name in ("encoding", "rate")):
            return "other_format"
        return ResumableStream(claims["stream"], claims["epoch"], claims["began"])


def secret_of(settings: Settings) -> str:
    """What tokens are signed with: the same on all instances that share their settings. Empty: there is nothing shared.

    From the access tokens' first key by HMAC (RFC 2104), so that neither tells anything of the other.
    """
    if settings.resume_secret or not settings.auth_keys:
        return settings.resume_secret
    return hmac.new(settings.auth_keys[0].secret.text.encode(), b"resume tokens", hashlib.sha256).hexdigest()


def _of(request: StreamRequest) -> dict[str, object]:
    return {
        "tenant": request.tenant,
        "session": request.session_id,
        "client": request.client_id,
        "encoding": request.encoding,
        "rate": request.sample_rate,
    }
