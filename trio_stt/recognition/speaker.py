"""One speaker's recogniser as a stream uses it: in threads, behind the breaker, surviving an engine that fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import structlog
from attrs import frozen

from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.decoders import Decoders
from trio_stt.recognition.engine import SAMPLE_RATE, Engine, EngineError, HeardWord, Recogniser, Samples
from trio_stt.recognition.resting import Resting
from trio_stt.recognition.schedule import Turn

T = TypeVar("T")

ATTEMPTS = 3
"""How often the same audio is tried, each time by a new recogniser, before its utterance ends with what was heard."""

ENDING_COST_S = 0.5
"""Ending an utterance takes about what so many seconds of audio take: the engine is fed silence before its result."""


@frozen
class Heard:
    """A finished utterance: its text, and its words unless the engine failed on it for good."""

    text: str
    words: tuple[HeardWord, ...] = ()


class SpeakerRecogniser:
    """Decodes one speaker's utterances, one call at a time. Close it with `aclose`.

    The open utterance's audio is kept: when a recogniser fails, a new one hears it all again. While the breaker is open
    calls wait.
    """

    def __init__(
        self,
        engine: Engine,
        decoders: Decoders,
        breaker: Breaker,
        resting: Resting[SpeakerRecogniser],
        log: structlog.stdlib.BoundLogger,
        *,
        give_up: Callable[[Recogniser], None],
        stream_id: str = "",
        tenant: str = "",
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """`give_up` takes a recogniser that is given up to save memory, to close it later, and returns at once.

        `on_close` is called when the engine is needed no more.
        """
        self._engine = engine
        self._decoders = decoders
        self._breaker = breaker
        self._resting = resting
        self._log = log
        self._give_up = give_up
        self._stream_id = stream_id
        self._tenant = tenant
        self._on_close = on_close
        self._recogniser: Recogniser | None = None
        self._decoded_samples = 0  # by this recogniser
        self._utterance: list[Samples] = []
        self._text = ""

    async def accept(self, samples: Samples, *, partial: bool, due: float = -math.inf, catch_up: bool = False) -> str:
        """Gives samples of the open utterance; returns its text so far (the last one known unless `partial`).

        One thread hop, when it is `due` (Trio's clock). `catch_up`: the samples were spoken while the stream had no
        server. If cancelled while it waits for a thread, the samples count as not given.
        """
        self._take_up(samples)

        def decode(recogniser: Recogniser, audio: Samples) -> str:
            recogniser.accept(audio)
            return recogniser.partial() if partial else self._text

        heard = await self._attempt(
            decode, samples, Turn(due, samples.size / SAMPLE_RATE, self._tenant, catch_up=catch_up)
        )
        if heard is not None:
            self._text = heard
        return self._text

    async def finish(self, samples: Samples, *, due: float = -math.inf, catch_up: bool = False) -> Heard:
        """Gives the utterance's last samples (perhaps none), ends it and returns all of it. One thread hop."""
        self._take_up(samples)

        def decode(recogniser: Recogniser, audio: Samples) -> tuple[HeardWord, ...]:
            if audio.size:
                recogniser.accept(audio)
            return recogniser.finish()

        audio_s = samples.size / SAMPLE_RATE + ENDING_COST_S
        turn = Turn(due, audio_s, self._tenant, ends_utterance=True, catch_up=catch_up)
        words = await self._attempt(decode, samples, turn)
        heard = Heard(self._text) if words is None else Heard(" ".join(word.text for word in words), words)
        self._utterance = []
        self._text = ""
        if self._recogniser is None:
            self._resting.remove(self)
        else:
            self._make_room(self._resting.rests(self, self._memory_mb))
        return heard

    async def aclose(self) -> None:
        """Gives the recogniser back to the engine. Shield it: it must not be cancelled while it waits for a thread."""
        self._resting.remove(self)
        self._utterance = []
        held = [self._let_go()]

        def close() -> None:
            # The last reference goes in the thread, because freeing a recogniser takes time.
            recogniser = held.pop()
            if recogniser is not None:
                self._engine.close(recogniser)

        try:
            if held[0] is not None:
                await self._decoders.run(close, owner=self._stream_id)
        except EngineError as error:
            self._log.warning("recogniser_close_failed", error=str(error))
        finally:
            self._on_close()

    @property
    def _memory_mb(self) -> float:
        return self._engine.recogniser_mb(self._decoded_samples / SAMPLE_RATE)

    def _take_up(self, samples: Samples) -> None:
        if not self._utterance:
            self._make_room(self._resting.speaks(self, self._memory_mb))
        self._utterance.append(samples)

    def _make_room(self, excess: list[SpeakerRecogniser]) -> None:
        # Without a checkpoint: who was chosen because it rests must not begin to speak before it is dealt with.
        for speaker in excess:
            recogniser = speaker._let_go()
            if recogniser is not None:
                self._give_up(recogniser)

    def _let_go(self) -> Recogniser | None:
        recogniser, self._recogniser = self._recogniser, None
        self._decoded_samples = 0
        return recogniser

    async def _attempt(self, decode: Callable[[Recogniser, Samples], T], samples: Samples, turn: Turn) -> T | None:
        for _ in range(ATTEMPTS):
            await self._breaker.wait_closed()
            try:
                result = await self._decoders.run(
                    lambda: self._decode_in_thread(decode, samples), turn, owner=self._stream_id
                )
            except EngineError as error:
                # The failed recogniser is dropped, never given back: nobody knows what state it is in.
                self._recogniser = None
                self._breaker.record(ok=False)
                self._log.warning("decode_failed", error=str(error))
            else:
                self._breaker.record(ok=True)
                return result
        self._log.error("utterance_lost", attempts=ATTEMPTS, audio_s=sum(map(len, self._utterance)) / SAMPLE_RATE)
        return None

    def _decode_in_thread(self, decode: Callable[[Recogniser, Samples], T], samples: Samples) -> T:
        if self._recogniser is None:
            recogniser = self._engine.open()
            samples = np.concatenate(self._utterance)
            result = decode(recogniser, samples)
            self._recogniser = recogniser
            self._decoded_samples = samples.size
            return result
        self._decoded_samples += samples.size
        return decode(self._recogniser, samples)
