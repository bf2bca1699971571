"""The agent's own LiveKit tokens. A caller's token is never used: it would put the caller out of the room."""

from __future__ import annotations

import time

import jwt

from agent.settings import AgentSettings

TOKEN_S = 600
"""How long a token opens the room; the LiveKit server itself renews it for who is in."""

SKEW_S = 10
"""By how much the LiveKit server's clock may be behind ours."""


def room_token(settings: AgentSettings, room_name: str) -> str:
    """A token with which the agent enters `room_name`, and only that room, as a participant of kind agent."""
    now = int(time.time())
    claims = {
        "iss": settings.api_key,
        "sub": settings.name,
        "name": settings.name,
        "nbf": now - SKEW_S,
        "exp": now + TOKEN_S,
        "kind": "agent",
        "video": {
            "roomJoin": True,
            "room": room_name,
            "canPublish": True,
            "canSubscribe": True,
            "canPublishData": True,
            "agent": True,
        },
    }
    return jwt.encode(claims, settings.api_secret.text, "HS256")
