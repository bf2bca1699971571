"""What the agent sends into its room, by the connection that there is now: captions and answers.

The SDK raises bare exceptions for whatever the native library reports, so this module catches all of them: it is the
boundary behind which "sent" or "not sent" is all that is known. What was begun is never cancelled while there is a
connection: the native library would go on with it, and keep what belongs to it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog
from livekit import rtc

from agent.caption_line import Caption

TOPIC: Final = "lk.transcription"

NOTHING: Final = " "
"""What is sent to take back what was shown: LiveKit's React components do not notice a stream without any text."""

SEND_S: Final = 10.0
"""How long one text may be on its way to the native library's connection."""

MOST_ANSWERS: Final = 64
"""So many answers to messages may be on their way; more are left out."""


class RoomPost:
    """The way into the room. `use` says when there is a connection; texts fail meanwhile."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self.sent = 0
        """Captions that were sent, of which translations are some."""
        self._log = log
        self._room: rtc.Room | None = None
        self._is_there = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    def use(self, room: rtc.Room | None) -> None:
        """From now on what is sent goes through this connection; None: there is none."""
        self._room = room
        if room is None:
            self._is_there.clear()
        else:
            self._is_there.set()

    def close(self) -> None:
        """The connection is gone for good: what is on its way is given up."""
        self.use(None)
        for task in self._sending:
            task.cancel()

    async def wait(self) -> None:
        """Until there is a connection. May be cancelled."""
        await self._is_there.wait()

    async def caption(self, caption: Caption, identity: str, track_sid: str, to: Sequence[str] | None) -> bool:
        """Publishes a caption of what `identity` said in the track; `to`: identities, None for all.

        Returns whether it was sent. May be cancelled; then it is sent all the same. Clients that know no text streams
        get the older message too, if it is for all.
        """
        room = self._room
        if room is None:
            return False
        if not await self._send(_publish(room, caption, identity, track_sid, to), "caption_not_sent"):
            return False
        self.sent += 1
        return True

    def answer(self, topic: str, content: Mapping[str, object], to: str) -> None:
        """Sends a JSON object to one participant, without waiting. What cannot be sent is logged."""
        if self._room is None or len(self._sending) >= MOST_ANSWERS:
            self._log.warning("answer_not_sent", topic=topic, error="no connection" if self._room is None else "full")
            return
        sending = self._room.local_participant.publish_data(
            json.dumps(content), topic=topic, destination_identities=[to]
        )
        self._begin(sending, "answer_not_sent")

    async def _send(self, sending: Coroutine[Any, Any, None], event: str) -> bool:
        task = self._begin(sending, event)
        await asyncio.wait([task], timeout=SEND_S)
        if not task.done():
            self._log.warning(event, error="not in time")
            return False
        return not task.cancelled() and task.exception() is None

    def _begin(self, sending: Coroutine[Any, Any, None], event: str) -> asyncio.Task[None]:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        task.add_done_callback(lambda done: self._say(done, event))
        return task

    def _say(self, task: asyncio.Task[None], event: str) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.warning(event, error=type(error).__name__)


async def _publish(room: rtc.Room, caption: Caption, identity: str, track_sid: str, to: Sequence[str] | None) -> None:
    attributes = {
        "lk.segment_id": caption.segment_id,
        "lk.transcribed_track_id": track_sid,
        "lk.transcription_final": "true" if caption.is_final else "false",
        "language": caption.language,
    }
    if caption.is_translation:
        attributes["translated"] = "true"
    writer = await room.local_participant.stream_text(
        topic=TOPIC,
        attributes=attributes,
        sender_identity=identity,
        destination_identities=None if to is None else list(to),
    )
    await writer.write(caption.text or NOTHING)
    await writer.aclose()
    if to is None and not caption.is_translation:
        await room.local_participant.publish_transcription(_packet(caption, identity, track_sid))


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
