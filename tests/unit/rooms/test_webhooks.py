"""Which of LiveKit's webhooks mean something for agents."""

import json

import pytest

from trio_stt.rooms.webhooks import RoomBegan, RoomFinished, read_webhook

ROOM = {"sid": "RM_1", "name": "r"}


@pytest.mark.parametrize(
    ("event", "means"),
    [
        ({"event": "room_started", "room": ROOM}, RoomBegan("r")),
        ({"event": "participant_joined", "room": ROOM, "participant": {"identity": "a"}}, RoomBegan("r")),
        ({"event": "participant_joined", "room": ROOM, "participant": {"kind": "SIP"}}, RoomBegan("r")),
        ({"event": "participant_joined", "room": ROOM, "participant": {"kind": "AGENT"}}, None),
        ({"event": "participant_joined", "room": ROOM, "participant": {"kind": "EGRESS"}}, None),
        ({"event": "participant_joined", "room": ROOM, "participant": {"kind": [1]}}, None),
        ({"event": "participant_left", "room": ROOM}, None),
        ({"event": "track_published", "room": ROOM}, None),
        ({"event": "room_finished", "room": ROOM}, RoomFinished("r")),
        ({"event": "room_started", "room": {"name": ""}}, None),
        ({"event": "room_started", "room": None}, None),
        ({"event": "room_started"}, None),
        ({"event": ["room_started"], "room": ROOM}, None),
        ([], None),
        (None, None),
    ],
)
def test_rooms_begin_when_people_come_and_end_when_they_are_closed(event, means):
    assert read_webhook(json.dumps(event).encode()) == means


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_event_means_nothing(body):
    assert read_webhook(body) is None
