"""What `POST /api/tts/speak` does: `agent.http.Speak`, by the life that the agent has in the room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from agent.http import Speak, Spoken
from agent.pool import RoomWorker
from agent.tts.speech import KokoroSpeech, SpeechStatus
from trio_stt.dialects.request import Refusal


@runtime_checkable
class CanSay(Protocol):
    """A life in a room that speaks there."""

    def say(self, text: str, language: str, voice: str | None, done: Callable[[str], None]) -> None:
        """Speaks `text` into the room; `done` is told how it went."""
        ...


class NotSpokenError(Exception):
    """It was not said. The message is the status of `agent.tts.speech.SpeechStatus`."""


def speak_on_request(speech: KokoroSpeech | None) -> Speak | None:
    """How the agent has something said in a room; None: it cannot."""
    if speech is None:
        return None

    def speak(worker: RoomWorker, spoken: Spoken) -> Awaitable[None] | Refusal:
        refusal = speech.refusal(spoken.language, spoken.voice)
        if refusal is SpeechStatus.UNSUPPORTED_LANGUAGE:
            known = ", ".join(sorted(speech.languages()))
            return Refusal(400, refusal.value, f"there is a voice for {known} only", "language")
        if refusal is not None:
            return Refusal(400, refusal.value, "no voice of that name speaks the language", "voice")
        if not isinstance(worker, CanSay):
            return Refusal(404, "not_available", "this agent has no voice in rooms")
        return _said(worker, spoken)

    return speak


async def _said(worker: CanSay, spoken: Spoken) -> None:
    status: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def done(how: str) -> None:
        if not status.done():
            status.set_result(how)

    worker.say(spoken.text, spoken.language, spoken.voice, done)
    how = await status
    if how != SpeechStatus.COMPLETED.value:
        raise NotSpokenError(how)
