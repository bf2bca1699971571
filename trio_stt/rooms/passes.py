"""What servers and agents show each other: tokens of half a minute for one room, signed by a key of AUTH_KEYS.

They name an audience. So nobody's access token is one of them, and none of them is an access token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import jwt

from trio_stt.dialects.request import Refusal
from trio_stt.gateway.auth import MOST_TOKEN_CHARACTERS, token_of, unauthorized
from trio_stt.settings import Settings, SharedKey

AUDIENCE = "trio-stt-agent"

LIFE_S = 30.0

ALL_ROOMS = "*"
"""In a pass: for what is about no single room, such as a list of them."""

_INVALID = unauthorized(
    "invalid_token", "the rooms of an agent are opened and closed by servers with the same AUTH_KEYS"
)


class Passes:
    """Makes and checks them."""

    def __init__(
        self, keys: Sequence[SharedKey], *, issuer: str, leeway_s: float, now: Callable[[], float] = time.time
    ) -> None:
        """`keys`: the first signs, each is believed; none: nothing is made and nothing asked for. `now`: Unix s."""
        self._keys = {key.kid: key for key in keys}
        self._signing = keys[0] if keys else None
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._now = now

    @classmethod
    def of(cls, settings: Settings) -> Passes:
        """By the keys that are set; with AUTH_MODE=off nobody asks, and a server may still show what it has."""
        return cls(settings.auth_keys, issuer=settings.auth_issuer, leeway_s=settings.auth_leeway_s)

    def headers(self, room_name: str) -> dict[str, str]:
        """What a request about that room shows."""
        if self._signing is None:
            return {}
        claims = {"iss": self._issuer, "aud": AUDIENCE, "room": room_name, "exp": self._now() + LIFE_S}
        token = jwt.encode(claims, self._signing.secret.text, "HS256", headers={"kid": self._signing.kid})
        return {"Authorization": f"Bearer {token}"}

    def refusal(self, authorizations: Sequence[str], room_name: str) -> Refusal | None:
        """401 unless these headers ``Authorization`` are one pass for that room that is valid now. Never raises."""
        token = token_of(authorizations)
        if isinstance(token, Refusal):
            return token
        if len(token) > MOST_TOKEN_CHARACTERS:
            return _INVALID
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                return _INVALID
            claims = jwt.decode(
                token,
                key.secret.text,
                algorithms=["HS256"],
                audience=AUDIENCE,
                issuer=self._issuer,
                options={"require": ["exp", "aud", "iss"], "verify_exp": False},
            )
            expires_at = float(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            return _INVALID
        if claims.get("room") != room_name or not self._now() < expires_at + self._leeway_s:
            return _INVALID
        return None
