"""What the agent sends into its room, by the connection that there is now: captions and answers.

The SDK raises bare exceptions for whatever the native library reports, so this module catches all of them: it is the
boundary behind which "sent" or "not sent" is all that is known.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import structlog
from livekit import rtc

from agent.caption_line import Caption

TOPIC = "lk.transcription"

SEND_S = 10.0
"""How long one text may be on its way to the native library's connection."""


class RoomPost:
    """The way into the room. `room` is set while there is a connection; texts fail meanwhile."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._room: rtc.Room | None = None
        self._is_there = asyncio.Event()
        self.sent = 0

    def use(self, room: rtc.Room | None) -> None:
        """From now on what is sent goes through this connection; None: there is none."""
        self._room = room
        if room is None:
            self._is_there.clear()
        else:
            self._is_there.set()

    async def wait(self) -> None:
        """Until there is a connection."""
        await self._is_there.wait()

    async def caption(self, caption: Caption, identity: str, track_sid: str, to: Sequence[str] | None) -> bool:
        """Publishes a caption of what `identity` said in the track; `to`: identities, None for all.

        Returns whether it was sent. Clients that know no text streams get the older message too, if it is for all.
        """
        room = self._room
        if room is None:
            return False
        attributes = {
            "lk.segment_id": caption.segment_id,
            "lk.transcribed_track_id": track_sid,
            "lk.transcription_final": "true" if caption.is_final else "false",
            "language": caption.language,
        }
        if caption.is_translation:
            attributes["translated"] = "true"
        try:
            async with asyncio.timeout(SEND_S):
                writer = await room.local_participant.stream_text(
                    topic=TOPIC,
                    attributes=attributes,
                    sender_identity=identity,
                    destination_identities=None if to is None else list(to),
                )
                if caption.text:
                    await writer.write(caption.text)
                await writer.aclose()
                if to is None and not caption.is_translation:
                    await room.local_participant.publish_transcription(_packet(caption, identity, track_sid))
        except Exception as error:  # noqa: BLE001  (the module says why)
            self._log.warning("caption_not_sent", error=type(error).__name__, is_final=caption.is_final)
            return False
        self.sent += 1
        return True

    async def message(self, topic: str, content: Mapping[str, object], to: str) -> None:
        """Sends a JSON object to one participant. What cannot be sent is logged."""
        if self._room is None:
            return
        try:
            async with asyncio.timeout(SEND_S):
                await self._room.local_participant.publish_data(
                    json.dumps(content), topic=topic, destination_identities=[to]
                )
        except Exception as error:  # noqa: BLE001  (the module says why)
            self._log.warning("answer_not_sent", topic=topic, error=type(error).__name__)


def _packet(caption: Caption, identity: str, track_sid: str) -> rtc.Transcription:
    segment = rtc.TranscriptionSegment(
        id=caption.segment_id,
        text=caption.text,
        start_time=0,  # milliseconds of nothing that a client knows: most agents leave them out
        end_time=0,
        language=caption.language,
        final=caption.is_final,
    )
    return rtc.Transcription(participant_identity=identity, track_sid=track_sid, segments=[segment])
