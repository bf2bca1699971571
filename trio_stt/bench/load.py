"""Speakers in real time: each sends its script through a real WebSocket and notes what comes back and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio
from attrs import Factory, define, frozen

from trio_stt.bench.script import Script
from trio_stt.bench.speech import SAMPLE_RATE
from trio_stt.client.connection import (
    CaptionStream,
    ServerUnreachableError,
    StreamClosedError,
    StreamRefusedError,
    open_stream,
)
from trio_stt.client.native_client import WireError
from trio_stt.dialects.events import Failure, StreamRequest, Transcript

CONNECT_SPACING_S = 0.02
"""Speakers come one by one, as people do; a crowd at one moment would measure something else."""

LAST_FINALS_S = 30.0
"""After the last frame the server gets so long for its last words."""


class LoadError(Exception):
    """A stream ended otherwise than it should; the figures of such a run mean nothing."""


@frozen
class ReceivedFinal:
    """A final: its samples from and to, its text, and when it came, on Trio's clock."""

    start: int
    end: int
    text: str
    at_s: float


@define
class Speaker:
    """One simulated speaker: who it is, what it says, and afterwards what happened."""

    client_id: str
    session_id: str
    script: Script
    sent_at_s: list[float] = Factory(list)
    """When each frame was handed to the socket."""
    late_s: list[float] = Factory(list)
    """How much later than it was due each frame was sent: our own slowness, or the server not reading."""
    finals: list[ReceivedFinal] = Factory(list)

    def heard_words(self) -> list[str]:
        """All words of its finals, in order."""
        return [word for final in self.finals for word in final.text.split()]


async def speak_all(server: str, speakers: Sequence[Speaker]) -> None:
    """Lets all speak at once, until each has its last final. Raises `LoadError`. May be cancelled."""
    failed: list[BaseException] = []
    try:
        async with trio.open_nursery() as nursery:
            for speaker in speakers:
                nursery.start_soon(_speak, server, speaker)
                await trio.sleep(CONNECT_SPACING_S)
    except* (LoadError, ServerUnreachableError, StreamRefusedError, StreamClosedError, WireError) as group:
        failed = list(leaves(group))
    if failed:
        raise LoadError(f"{len(failed)} of {len(speakers)} streams failed. The first: {failed[0]}") from failed[0]


async def _speak(server: str, speaker: Speaker) -> None:
    request = StreamRequest(speaker.client_id, speaker.session_id, framing="seq")
    async with open_stream(server, request) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(_receive, stream, speaker)
        began = trio.current_time()
        sent = 0
        for frame in speaker.script.frames:
            sent += len(frame) // 2
            due = began + sent / SAMPLE_RATE  # a frame can be sent once its last sample is spoken
            await trio.sleep_until(due)
            speaker.late_s.append(trio.current_time() - due)
            await stream.send_audio(frame)
            speaker.sent_at_s.append(trio.current_time())
        await stream.end()
        nursery.cancel_scope.deadline = trio.current_time() + LAST_FINALS_S
    if nursery.cancel_scope.cancelled_caught:
        raise LoadError(f"{speaker.client_id} did not get its last words within {LAST_FINALS_S:g} s.")


async def _receive(stream: CaptionStream, speaker: Speaker) -> None:
    async for event in stream:
        if isinstance(event, Failure):
            raise LoadError(f"the server reports to {speaker.client_id}: {event.message} ({event.code})")
        if isinstance(event, Transcript) and event.is_final and event.client_id == speaker.client_id:
            now = trio.current_time()
            speaker.finals.append(ReceivedFinal(event.start_sample, event.end_sample, event.text, now))


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
