"""One person in a drilled call: says its part in real time on a stream that resumes, and keeps what comes, and when."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from trio_stt.bench.speech import SAMPLE_RATE
from trio_stt.client.resume_events import Ended, Interrupted, Restarted, Resumed, ResumingEvent
from trio_stt.client.resuming_connection import open_resuming_stream
from trio_stt.dialects.events import Ready, StreamRequest, Transcript
from trio_stt.drill.script import Script

FRAME_SAMPLES = SAMPLE_RATE // 10

LAST_WORDS_S = 60.0
"""Whoever has not ended so long after its last sample is stuck."""


class Speaker:
    """Says `script` in the call `session_id`. `events` and `finals` may be read at any time."""

    def __init__(self, name: str, session_id: str, script: Script) -> None:
        self.name = name
        self.script = script
        self.events: list[ResumingEvent] = []
        """What came, but for unfinished text."""
        self.came_at: list[float] = []
        """When each of `events` came, on Trio's clock."""
        self.began_at = 0.0
        """When its first sample was spoken."""
        self._request = StreamRequest(name, session_id)

    async def run(self, servers: str | Sequence[str]) -> None:
        """Speaks to the end and waits for the last words, `LAST_WORDS_S` at most. May be cancelled."""
        async with open_resuming_stream(servers, self._request) as stream, trio.open_nursery() as nursery:

            async def listen() -> None:
                async for event in stream:
                    if not isinstance(event, Transcript) or event.is_final:
                        self.events.append(event)
                        self.came_at.append(trio.current_time())
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            samples = self.script.clip.samples
            self.began_at = trio.current_time()
            for begin in range(0, len(samples), FRAME_SAMPLES):
                end = min(begin + FRAME_SAMPLES, len(samples))
                await trio.sleep_until(self.began_at + end / SAMPLE_RATE)
                await stream.send_audio(samples[begin:end].astype("<i2").tobytes())
            await stream.end()
            nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S

    def spoken_at(self, sample: int) -> float:
        """When the sample was spoken, on Trio's clock."""
        return self.began_at + sample / SAMPLE_RATE

    @property
    def instance(self) -> str:
        """What the server it speaks to calls itself; "" before there is one."""
        told = [event for event in self.events if isinstance(event, Ready | Resumed | Restarted)]
        if not told:
            return ""
        return told[-1].instance if isinstance(told[-1], Ready) else told[-1].ready.instance

    @property
    def finals(self) -> list[Transcript]:
        """Its own, in the order in which they came."""
        return [each for each in self.events if isinstance(each, Transcript) and each.client_id == self.name]

    @property
    def words(self) -> list[str]:
        """What was understood of it."""
        return [word for each in self.finals for word in each.text.split()]

    @property
    def ended(self) -> bool:
        """Whether the stream is over."""
        return bool(self.events) and isinstance(self.events[-1], Ended)

    def stalls(self) -> list[tuple[float, float]]:
        """Each loss of the connection and the next one that was ready, as two moments; a move counts as both."""
        found = []
        lost_at: float | None = None
        for event, at in zip(self.events, self.came_at, strict=True):
            if isinstance(event, Interrupted) and lost_at is None:
                lost_at = at
            elif isinstance(event, Ready):
                lost_at = None  # that was before there was a stream
            elif isinstance(event, Resumed | Restarted):
                found.append((at - event.stall_s if lost_at is None else lost_at, at))
                lost_at = None
        return found

    def caption_delays(self) -> list[float | None]:
        """For each phrase: seconds from its last sample to the final that holds it; None if none does."""
        ends = [
            (event.start_sample, event.end_sample, at)
            for event, at in zip(self.events, self.came_at, strict=True)
            if isinstance(event, Transcript) and event.client_id == self.name
        ]
        delays: list[float | None] = []
        for _, end in self.script.phrases:
            at = next((at for first, behind, at in ends if first <= end - 1 < behind), None)
            delays.append(None if at is None else at - self.spoken_at(end))
        return delays
