"""The agent's part of the settings, checked for what it cannot do without."""

from __future__ import annotations

import time

import jwt
from attrs import frozen

from trio_stt.client.resuming_client import Token
from trio_stt.settings import Secret, Settings, SettingsError, SharedKey

STT_TOKEN_S = 3600
"""How long a token for the server counts; the agent makes a new one when the server wants it."""


@frozen
class AgentSettings:
    """What the agent works with; `trio_stt.settings` says what each setting means.

    `stt_bearer` is ACCESS_TOKEN; without one, tokens are signed with `stt_key`, the first of AUTH_KEYS; without
    either the server is asked without a token.
    """

    livekit_url: str
    api_key: str
    api_secret: Secret
    stt_url: str = "ws://127.0.0.1:8000"
    stt_bearer: Secret | None = None
    stt_key: SharedKey | None = None
    issuer: str = "trio-stt"
    tenant: str = "livekit"
    name: str = "captions"
    language: str = "en"
    gate_dbfs: float = -55.0
    empty_room_s: float = 20.0
    controllers: tuple[str, ...] = ()
    speak_interrupt: bool = False

    def stt_token(self, session_id: str) -> Token:
        """The access token for the server's call `session_id`, as `open_resuming_stream` takes it."""
        if self.stt_bearer is not None:
            return self.stt_bearer.text
        key = self.stt_key
        if key is None:
            return None

        async def make() -> str:
            claims = {
                "iss": self.issuer,
                "sub": "*",
                "tenant": self.tenant,
                "session": session_id,
                "exp": int(time.time()) + STT_TOKEN_S,
            }
            return jwt.encode(claims, key.secret.text, "HS256", headers={"kid": key.kid})

        return make


def agent_settings(settings: Settings) -> AgentSettings:
    """The agent's part of `settings`. Raises `SettingsError` naming what must be set."""
    needed = {
        "LIVEKIT_URL": settings.livekit_url,
        "LIVEKIT_API_KEY": settings.livekit_api_key,
        "LIVEKIT_API_SECRET": settings.livekit_api_secret,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing or settings.livekit_api_secret is None:
        raise SettingsError(
            f"{', '.join(missing)} must be set for the agent: the address of the LiveKit server, and a key of it "
            "(docs/agent.md)"
        )
    return AgentSettings(
        livekit_url=settings.livekit_url,
        api_key=settings.livekit_api_key,
        api_secret=settings.livekit_api_secret,
        stt_url=settings.stt_url,
        stt_bearer=settings.access_token,
        stt_key=settings.auth_keys[0] if settings.auth_keys else None,
        issuer=settings.auth_issuer,
        tenant=settings.agent_tenant,
        name=settings.agent_name,
        language=settings.language,
        gate_dbfs=settings.agent_gate_dbfs,
        empty_room_s=settings.agent_empty_room_s,
        controllers=settings.agent_controllers,
        speak_interrupt=settings.agent_speak_interrupt,
    )
