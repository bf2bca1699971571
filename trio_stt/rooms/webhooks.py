"""What LiveKit tells of its rooms (its webhooks), as far as it sends agents there or has them leave."""

from __future__ import annotations

import json
from typing import Final

from attrs import frozen

from trio_stt.rooms.wanted import read_room_name

_PEOPLE: Final = ("STANDARD", "SIP", "INGRESS")
"""Kinds of participants for whom an agent comes; not for other agents, itself included, nor for recorders (EGRESS)."""


@frozen
class RoomBegan:
    """Somebody is there to be heard, or soon will be."""

    room_name: str


@frozen
class RoomFinished:
    """The room is closed."""

    room_name: str


def read_webhook(body: bytes) -> RoomBegan | RoomFinished | None:
    """What the body of a webhook means for agents; None: nothing. Never raises."""
    try:
        fields = json.loads(body)
        event, room = fields.get("event"), fields.get("room")
        room_name = read_room_name(room.get("name"))
        participant = fields.get("participant") or {}
        kind = participant.get("kind", "STANDARD")  # protobuf leaves out what is 0
    except (ValueError, AttributeError, RecursionError):
        return None
    if event == "room_started" or (event == "participant_joined" and kind in (*_PEOPLE, 0)):
        return RoomBegan(room_name)
    return RoomFinished(room_name) if event == "room_finished" else None
