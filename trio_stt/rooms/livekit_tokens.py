"""Tokens made with LiveKit's API key: those of a room's administrator, and those by which LiveKit signs webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import jwt

from trio_stt.dialects.request import Refusal
from trio_stt.gateway.auth import MOST_TOKEN_CHARACTERS, unauthorized
from trio_stt.settings import Secret, Settings

LEEWAY_S = 60
"""By how much LiveKit lets clocks differ."""

_INVALID = unauthorized("invalid_token", "the access token is not one that LIVEKIT_API_KEY has made and is valid now")
_OTHER_BODY = unauthorized("invalid_token", "the access token (sha256) is for another body")


class LiveKitTokens:
    """Verifies them, by the one key of LIVEKIT_API_KEY."""

    def __init__(self, api_key: str, secret: Secret) -> None:
        self._api_key = api_key
        self._secret = secret

    @classmethod
    def of(cls, settings: Settings) -> LiveKitTokens | None:
        """By the key that is set; None: there is none."""
        if not settings.livekit_api_key or settings.livekit_api_secret is None:
            return None
        return cls(settings.livekit_api_key, settings.livekit_api_secret)

    def is_made_by_it(self, token: str) -> bool:
        """Whether a token says that it was made with that key, which anybody can say. Never raises."""
        try:
            unverified = jwt.decode(token[:MOST_TOKEN_CHARACTERS], options={"verify_signature": False})
        except _WRONG:
            return False
        return unverified.get("iss") == self._api_key

    def administered_room(self, token: str) -> str | Refusal | None:
        """The room that the token's holder administers (``video.room`` with ``roomAdmin``), None if it is none.

        401 if it is not valid now. Never raises.
        """
        claims = self._claims_of(token, ["exp", "iss", "sub"])
        if claims is None:
            return _INVALID
        video = claims.get("video")
        if not isinstance(video, dict) or video.get("roomAdmin") is not True:
            return None
        room = video.get("room")
        return room if isinstance(room, str) and room else None

    def webhook_refusal(self, token: str, body: bytes) -> Refusal | None:
        """401 unless the token is valid now and its ``sha256`` is that of `body`. Never raises."""
        claims = self._claims_of(token, ["exp", "iss"])  # LiveKit gives them no sub
        if claims is None:
            return _INVALID
        said, right = claims.get("sha256"), base64.b64encode(hashlib.sha256(body).digest()).decode()
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), right.encode()):
            return _OTHER_BODY
        return None

    def _claims_of(self, token: str, required: list[str]) -> dict[str, Any] | None:
        if len(token) > MOST_TOKEN_CHARACTERS:
            return None
        try:
            if "crit" in jwt.get_unverified_header(token):  # RFC 7515, section 4.1.11
                return None
            return jwt.decode(
                token,
                self._secret.text,
                algorithms=["HS256"],
                issuer=self._api_key,
                leeway=LEEWAY_S,
                options={"require": required},
            )
        except _WRONG:
            return None


_WRONG = (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError)
"""What PyJWT raises for tokens of all kinds."""
