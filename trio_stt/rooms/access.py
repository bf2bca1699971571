"""Who may send an agent into a room, or have it speak there: administrators of that room, and services of ours."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from trio_stt.dialects.request import Refusal
from trio_stt.gateway.auth import ANYONE, Authenticator, token_of
from trio_stt.gateway.keys import keys_of
from trio_stt.rooms.livekit_tokens import LiveKitTokens
from trio_stt.settings import Settings

_NOT_AN_ADMIN = Refusal(403, "not_a_room_admin", "this needs a LiveKit token with roomAdmin and room")
_NOT_FOR_AGENTS = Refusal(403, "not_for_agents", f"this needs a token with sub {ANYONE} and agent true")


@frozen
class RoomGrant:
    """What a valid token allows. `rooms` None: all."""

    rooms: frozenset[str] | None

    def refusal(self, room_name: str) -> Refusal | None:
        """Why it does not allow anything about that room, or None."""
        if self.rooms is not None and room_name not in self.rooms:
            return Refusal(403, "wrong_room", "the access token is not for this room", "room_name")
        return None


class RoomAccess:
    """Looks at tokens; asked for one in every AUTH_MODE. Keeps nothing of what it is shown."""

    def __init__(self, authenticator: Authenticator, livekit: LiveKitTokens | None) -> None:
        """`livekit` None: tokens of LiveKit's are not known."""
        self._authenticator = authenticator
        self._livekit = livekit

    @classmethod
    def of(cls, settings: Settings) -> RoomAccess:
        """By the keys that are set. Blocks: it reads files. Raises `AccessError` for one that holds no public key."""
        authenticator = Authenticator(keys_of(settings), issuer=settings.auth_issuer, leeway_s=settings.auth_leeway_s)
        return cls(authenticator, LiveKitTokens.of(settings))

    def grant(self, authorizations: Sequence[str]) -> RoomGrant | Refusal:
        """What all headers ``Authorization`` of a request allow; 401 without one valid token, 403 if it is for else.

        Never raises.
        """
        token = token_of(authorizations)
        if isinstance(token, Refusal):
            return token
        if self._livekit is not None and self._livekit.is_made_by_it(token):
            room = self._livekit.administered_room(token)
            if isinstance(room, Refusal):
                return room
            return _NOT_AN_ADMIN if room is None else RoomGrant(frozenset({room}))
        grant = self._authenticator.verify(token)
        if isinstance(grant, Refusal):
            return grant
        return RoomGrant(grant.sessions) if grant.is_service and grant.agent else _NOT_FOR_AGENTS
