"""Answers every frame as vosk-server does, but decodes only what the speech gate passes."""

from __future__ import annotations

import math
from collections.abc import Callable

from trio_stt.dialects.events import Transcript
from trio_stt.dialects.vosk_server import encode_final, encode_partial
from trio_stt.recognition.lock_step import Reply
from trio_stt.sessions.backlog import AudioRun
from trio_stt.sessions.caption_sink import CaptionSink
from trio_stt.sessions.captioner import Captioner


class GatedListener(CaptionSink):
    """A captioner whose captions are put into the replies. See `trio_stt.sessions.lock_step.Listener`."""

    def __init__(self, make_captioner: Callable[[CaptionSink], Captioner], *, words: bool) -> None:
        """`make_captioner` is given where captions go; `words`: whether finals have their words."""
        self._captioner = make_captioner(self)
        self._words = words
        self._finals: list[Transcript] = []
        self._partial = ""

    @property
    def patient_until(self) -> float:
        """Frames never wait for each other."""
        return -math.inf

    async def hear(self, run: AudioRun) -> list[Reply]:
        """Takes the next frames and returns the answer to each: what the gate ended within it, or the text so far."""
        replies = []
        for frame in run.frames:
            await self._captioner.hear(AudioRun((frame,), run.arrived_at))
            replies.append(self._final() if self._finals else Reply(encode_partial(self._partial), is_final=False))
        return replies

    async def finish(self) -> Reply:
        """Ends the open utterance, if any."""
        await self._captioner.finish()
        return self._final()

    async def aclose(self) -> None:
        """Gives the recogniser back. Shield it."""
        await self._captioner.aclose()

    async def publish(self, caption: Transcript) -> None:
        """Keeps a caption for the reply to the frame that brought it."""
        self.publish_now(caption)

    def publish_now(self, caption: Transcript) -> None:
        """The same at once."""
        if caption.is_final:
            self._finals.append(caption)
            self._partial = ""
        else:
            self._partial = caption.text

    def _final(self) -> Reply:
        finals, self._finals = self._finals, []
        return Reply(encode_final(finals, words=self._words), is_final=True)
