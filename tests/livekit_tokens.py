"""Tokens as LiveKit's server SDKs make them."""

import base64
import hashlib
import time

import jwt

API_KEY = "devkey"
API_SECRET = "a secret of LiveKit's which is longer than the 64 bytes that any algorithm here could want"
ROOM = "Team meeting/1"


def room_token(*, key=API_SECRET, algorithm="HS256", header=None, video=None, **changes) -> str:
    """That of an administrator of `ROOM`; None leaves a claim out; `video` changes the grants, False: has none."""
    grants = None if video is False else {"room": ROOM, "roomAdmin": True, **(video or {})}
    good = {"iss": API_KEY, "sub": "ann", "nbf": int(time.time()), "exp": int(time.time()) + 36_000, "video": grants}
    claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers=header)


def webhook_token(body: bytes, **changes) -> str:
    """That by which LiveKit signs the body of a webhook."""
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return room_token(**{"sub": None, "sha256": sha256, **changes})


def person_token(room: str, identity: str, attributes: dict[str, str] | None = None, **grants) -> str:
    """For one who enters the room; `grants` beside those that everybody gets."""
    now = int(time.time())
    claims = {
        "iss": API_KEY,
        "sub": identity,
        "nbf": now - 10,
        "exp": now + 3600,
        "attributes": attributes or {},
        "video": {"roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True, **grants},
    }
    return jwt.encode(claims, API_SECRET, "HS256")
