"""What the agent speaks with: `agent.spoken_tracks.Speech`, by Kokoro."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from agent.tts.frames import SAMPLE_RATE
from agent.tts.sentences import sentences
from agent.tts.synthesis import BusyError, LateError, Synthesis, SynthesisError
from agent.tts.voices import Voices
from trio_stt.models.kokoro import NAME, InstalledKokoro, installed_kokoro
from trio_stt.settings import Settings

PAUSE_S: Final = 0.2
"""Between two pieces of a text: Kokoro's silence at the end of each is cut off."""

Play = Callable[[npt.NDArray[np.float32], int], Awaitable[None]]
"""Takes mono samples from -1 to 1, and how many of them are a second; returns when more may come."""


class SpeechStatus(Enum):
    """How it went with a text."""

    COMPLETED = "completed"
    SKIPPED = "skipped"
    """Too much else is to be said."""
    UNSUPPORTED_LANGUAGE = "unsupported_language"
    UNKNOWN_VOICE = "unknown_voice"
    """There is no such voice, or it speaks another language."""
    NOTHING_TO_SAY = "nothing_to_say"
    """The text has no letter or digit."""
    FAILED = "error"


class KokoroSpeech:
    """Speaks with the voices that are installed."""

    def __init__(self, voices: Voices, synthesis: Synthesis) -> None:
        self._voices = voices
        self._synthesis = synthesis
        self._log = structlog.get_logger()

    def languages(self) -> frozenset[str]:
        """Those that have a voice, as tags in lower case."""
        return self._voices.languages()

    def refusal(self, language: str, voice: str | None) -> SpeechStatus | None:
        """Why that voice, or the language's own, cannot speak it; None: it can."""
        if self._voices.voice_for(language) is None:
            return SpeechStatus.UNSUPPORTED_LANGUAGE
        return SpeechStatus.UNKNOWN_VOICE if self._voices.voice_for(language, voice) is None else None

    async def say(
        self, text: str, language: str, voice: str | None, onto: Play, *, begin_within_s: float | None = None
    ) -> SpeechStatus:
        """Speaks `text` into `onto`, piece by piece; the next is computed while one is heard.

        Skipped when the first piece was not begun within `begin_within_s`, or too much waits. May be cancelled: what
        is being computed is broken off. Errors of `onto` go through.
        """
        refusal = self.refusal(language, voice)
        chosen = self._voices.voice_for(language, voice)
        if refusal is not None or chosen is None:
            return refusal or SpeechStatus.UNSUPPORTED_LANGUAGE
        pieces = sentences(text)
        if not pieces:
            return SpeechStatus.NOTHING_TO_SAY
        coming = self._begin(pieces[0], chosen, begin_within_s)
        try:
            for place in range(len(pieces)):
                sound = await coming
                if place + 1 < len(pieces):
                    coming = self._begin(pieces[place + 1], chosen, None)
                    sound = np.concatenate([sound, np.zeros(int(PAUSE_S * SAMPLE_RATE), np.float32)])
                await onto(sound, SAMPLE_RATE)
        except (BusyError, LateError):
            return SpeechStatus.SKIPPED
        except SynthesisError as error:
            self._log.warning("text_not_spoken", why=str(error), language=language)
            return SpeechStatus.FAILED
        finally:
            coming.cancel()
            await asyncio.wait([coming])
        return SpeechStatus.COMPLETED

    def _begin(self, piece: str, voice: str, within_s: float | None) -> asyncio.Task[npt.NDArray[np.float32]]:
        return asyncio.create_task(self._synthesis.sound_of(piece, voice, begin_within_s=within_s))


def why_not(settings: Settings) -> str | None:
    """Why nothing can be said, in words, with what to do; None: packages and model are there."""
    if importlib.util.find_spec("kokoro_onnx") is None:
        return "the packages are not installed: ./scripts/setup.sh --speech, or pip install 'trio-stt[speech]'"
    if installed_kokoro(settings.models_dir) is None:
        return f"the model is not installed: trio-stt models install {NAME}"
    return None


def command(model: InstalledKokoro, threads: int) -> list[str]:
    """What starts the synthesiser's process."""
    program = [sys.executable, "-m", "agent.tts.synthesiser"]
    return [*program, str(model.model), str(model.voices_file), str(threads)]


@asynccontextmanager
async def open_speech(settings: Settings) -> AsyncIterator[KokoroSpeech | None]:
    """The agent's speech, until left; None, and why in the log, where packages or model are missing.

    The model is loaded when something is to be said.
    """
    log = structlog.get_logger()
    model = installed_kokoro(settings.models_dir)
    why = why_not(settings)
    if why is not None or model is None:
        log.info("speech_not_available", why=why)
        yield None
        return
    voices = Voices(model.voices, settings.agent_voices)
    unknown = [name for name in settings.agent_voices if name not in voices.names]
    if unknown:
        log.warning("voices_not_there", voices=unknown)
    log.info("speech_available", languages=sorted(voices.languages()))
    async with Synthesis(command(model, settings.agent_speech_threads)) as synthesis:
        yield KokoroSpeech(voices, synthesis)
