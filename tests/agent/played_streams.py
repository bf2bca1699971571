"""Streams to the server that are played: what they are given is kept, and a test says what comes back."""

import asyncio
from contextlib import asynccontextmanager

from trio_stt.client.resume_events import Ended, EndReason, ResumingEvent
from trio_stt.client.resuming_client import StreamEndedError
from trio_stt.dialects.events import Close, StreamRequest, Transcript, Translation


class PlayedStream:
    """One. `finish`: it ends well as soon as it is told to end."""

    def __init__(self, request: StreamRequest, token: object, *, finish: bool = True) -> None:
        self.request = request
        self.token = token
        self.given = bytearray()
        self.asked: list[object] = []
        self.ended: Ended | None = None
        self.unsettled = b""
        self.closed = False
        self.is_ending = False
        self._finish = finish
        self._events: asyncio.Queue[ResumingEvent] = asyncio.Queue()

    # ── what the agent does ──────────────────────────────────────────────────────────────────────────────────────

    async def send_audio(self, payload: bytes) -> None:
        self._must_go_on()
        self.given += payload

    async def finalize(self) -> None:
        self._must_go_on()
        self.asked.append(len(self.given))

    async def configure(self, **changes: object) -> None:
        self._must_go_on()
        self.asked.append(changes)

    async def end(self) -> None:
        self._must_go_on()
        self.is_ending = True
        if self._finish:
            self.finish()

    def __aiter__(self) -> "PlayedStream":
        return self

    async def __anext__(self) -> ResumingEvent:
        if self.ended is not None and self._events.empty():
            raise StopAsyncIteration
        return await self._events.get()

    def _must_go_on(self) -> None:
        if self.ended is not None:
            raise StreamEndedError(self.ended)

    # ── what the test plays ──────────────────────────────────────────────────────────────────────────────────────

    def say(self, event: ResumingEvent) -> None:
        self._events.put_nowait(event)

    def finish(self, reason: EndReason = EndReason.FINISHED, *, unsettled: bytes = b"", **said: object) -> None:
        self.unsettled = unsettled
        self.ended = Ended(reason, Close(1000), **said)
        self.say(self.ended)


class PlayedServer:
    """All streams that were opened, in order; `plays` is asked what becomes of each."""

    def __init__(self) -> None:
        self.streams: list[PlayedStream] = []
        self.finish = True
        self.refuses: EndReason | None = None

    @asynccontextmanager
    async def open(self, servers: str, request: StreamRequest, *, token: object = None, live: bool = True):
        stream = PlayedStream(request, token, finish=self.finish)
        self.streams.append(stream)
        if self.refuses is not None:
            stream.finish(self.refuses, code="language_unavailable", message="no such model")
        try:
            yield stream
        finally:
            stream.closed = True


def final(client: str, text: str, segment: str = "s-1", *, is_final: bool = True, language: str = "en") -> Transcript:
    return Transcript("call", client, "s", segment, text, is_final, language, 0, 16000, 16000, 0.0)


def translation(client: str, text: str, segment: str = "s-1", *, is_final: bool = True, language: str = "pt"):
    return Translation("call", client, "s", segment, text, is_final, "en", language, 0.0)
