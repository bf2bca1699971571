"""Who a client is and what it may do: access tokens (JWT, RFC 7519) are verified before anything else is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jwt
from attrs import frozen
from jwt.types import Options

from trio_stt.dialects.request import NAME, Refusal
from trio_stt.gateway.keys import VerificationKey

SUBPROTOCOL = "bearer"
"""The WebSocket subprotocol behind which a browser, which cannot set headers, names its token."""

ANYONE = "*"
"""As `sub`: a service, which may act for every client; as `session`: every session."""

MOST_TOKEN_CHARACTERS = 8192
"""Longer ones are not looked at: ours have 300, and hashing is paid for by the server."""

_FAR_S = 1e15

_CLAIMS_ARE_OURS: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
_REQUIRED = ("iss", "sub", "tenant", "session", "exp")


@frozen
class Grant:
    """What a client may do. `sessions` None: all of its tenant's; `expires_at`: Unix seconds, None: never.

    `agent`: whether it may send the LiveKit agent into rooms named as its sessions.
    """

    tenant: str
    subject: str
    sessions: frozenset[str] | None
    expires_at: float | None
    admin: bool = False
    agent: bool = False

    @property
    def is_service(self) -> bool:
        """Whether it may act for every client."""
        return self.subject == ANYONE

    def refusal(self, client_id: str, session_id: str) -> Refusal | None:
        """Why that client may not be connected to that session by this token, or None."""
        if not self.is_service and client_id != self.subject:
            return Refusal(403, "wrong_client", "the access token is for another client", "client_id")
        if self.sessions is not None and session_id not in self.sessions:
            return Refusal(403, "wrong_session", "the access token is not for this session", "session_id")
        return None


EVERYTHING = Grant(tenant="", subject=ANYONE, sessions=None, expires_at=None)
"""With AUTH_MODE=off: one tenant without a name, in which everybody may do all that clients can."""


class Authenticator:
    """Verifies tokens. Knows no secret but its keys, and keeps nothing of what it is shown."""

    def __init__(
        self,
        keys: Mapping[str, VerificationKey],
        *,
        issuer: str,
        leeway_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`keys`: by `kid`. `now`: Unix seconds."""
        self._keys = keys
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._now = now

    def verify(self, token: str) -> Grant | Refusal:
        """What the token allows; 401 if it is not valid now. Never raises."""
        try:
            return self._grant_of(self._claims_of(token))
        except _InvalidTokenError as error:
            return unauthorized("invalid_token", str(error))

    def _claims_of(self, token: str) -> dict[str, Any]:
        try:
            if len(token) > MOST_TOKEN_CHARACTERS:
                raise _InvalidTokenError("the access token is too long")
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise _InvalidTokenError("the access token names no key (kid) that this server knows")
            if "crit" in header:  # RFC 7515, section 4.1.11: what is critical and not understood
                raise _InvalidTokenError("the access token has a header (crit) that this server does not know")
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                options=_CLAIMS_ARE_OURS,
            )
        except jwt.InvalidAudienceError:
            raise _InvalidTokenError("the access token is for another audience (aud)") from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise _InvalidTokenError("the access token is not signed by a key of this server") from None

    def _grant_of(self, claims: dict[str, Any]) -> Grant:
        missing = [name for name in _REQUIRED if name not in claims]
        if missing:
            raise _InvalidTokenError(f"the access token lacks {', '.join(missing)}")
        if claims["iss"] != self._issuer:
            raise _InvalidTokenError("the access token is from another issuer (iss)")
        expires_at = self._expiry_of(claims)
        subject, tenant = claims["sub"], claims["tenant"]
        admin, agent = claims.get("admin", False), claims.get("agent", False)
        if not _is_name(tenant):
            raise _InvalidTokenError("the access token's tenant is no name")
        if subject != ANYONE and not _is_name(subject):
            raise _InvalidTokenError("the access token's sub is neither a client's name nor *")
        if not isinstance(admin, bool):
            raise _InvalidTokenError("the access token's admin is neither true nor false")
        if not isinstance(agent, bool):
            raise _InvalidTokenError("the access token's agent is neither true nor false")
        return Grant(tenant, subject, _sessions_of(claims["session"]), expires_at, admin, agent)

    def _expiry_of(self, claims: dict[str, Any]) -> float:
        """When a connection by this token ends. One that comes within the leeway has the rest of that."""
        now = self._now()
        expires_at = _time_of(claims, "exp")
        if now >= expires_at + self._leeway_s:
            raise _InvalidTokenError("the access token has expired")
        if any(_time_of(claims, name) > now + self._leeway_s for name in ("nbf", "iat") if name in claims):
            raise _InvalidTokenError("the access token is not valid yet")
        return expires_at if expires_at > now else expires_at + self._leeway_s


class _InvalidTokenError(Exception):
    """The message is for the client; it never holds what the token held."""


def unauthorized(code: str, message: str) -> Refusal:
    """The refusal (401) of who shows no valid token."""
    return Refusal(401, code, message)


NO_TOKEN = unauthorized(
    "missing_token", "an access token is needed: the header Authorization: Bearer, or the subprotocols bearer, TOKEN"
)
TWO_TOKENS = unauthorized("invalid_token", "there is more than one access token")


def token_of(authorizations: Sequence[str], protocols: Sequence[str] = ()) -> str | Refusal:
    """The one token of a request, given its headers ``Authorization`` and ``Sec-WebSocket-Protocol``, each all of them.

    A refusal if there is none or more than one.
    """
    shown = [
        value.strip()
        for scheme, _, value in (one.strip().partition(" ") for one in authorizations)
        if scheme.lower() == "bearer"
    ]
    offered = [one.strip() for line in protocols for one in line.split(",")]
    shown += [token for name, token in pairwise(offered) if name == SUBPROTOCOL]
    if not shown:
        return NO_TOKEN
    return shown[0] if len(shown) == 1 else TWO_TOKENS


def _time_of(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise _InvalidTokenError(f"the access token's {name} is no time")
    return float(max(-_FAR_S, min(value, _FAR_S)))  # whole numbers may be too large for a float


def _sessions_of(claim: object) -> frozenset[str] | None:
    if claim == ANYONE:
        return None
    names = claim if isinstance(claim, list) else [claim]
    if ANYONE in names:
        return None
    if not all(_is_name(name) for name in names):
        raise _InvalidTokenError("the access token's session is neither an id, nor a list of them, nor *")
    return frozenset(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None
