"""A recogniser that answers every frame of one stream, as the engine itself would; in threads, behind the breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from attrs import frozen

from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.decoders import Decoders
from trio_stt.recognition.engine import Engine, EngineError, PlainOptions, PlainRecogniser
from trio_stt.recognition.schedule import Turn

T = TypeVar("T")

BYTES_PER_SAMPLE = 2

STEP_S = 0.2
"""Kaldi decodes a longer call in such steps (``Recognizer::AcceptWaveform``): cut there, it says the same."""

STEPS_A_CALL = 2
"""A frame of more steps is decoded in several calls: others wait for the thread meanwhile."""

FRAMES_A_CALL = 64
"""Most frames answered in one call, however short they are: each answer costs up to 0.1 ms."""


@frozen
class Reply:
    """The answer to one frame, as it goes over the wire; `is_final` if it ends an utterance."""

    text: str
    is_final: bool


class Frame(Protocol):
    """Sound that came in one message."""

    @property
    def payload(self) -> bytes:
        """Samples, s16le."""


class LockStepRecogniser:
    """Decodes one stream as it comes, one call at a time. Close it with `aclose`.

    While the breaker is open calls wait. A call that fails has lost the recogniser: whoever uses this gives up.
    """

    def __init__(
        self,
        engine: Engine,
        options: PlainOptions,
        decoders: Decoders,
        breaker: Breaker | None,
        *,
        on_decoded: Callable[[float], None],
        stream_id: str = "",
        tenant: str = "",
    ) -> None:
        """`breaker` None: failures of this recogniser are nobody else's. `on_decoded` is told of decoded seconds."""
        self._engine = engine
        self._options = options
        self._decoders = decoders
        self._breaker = breaker
        self._on_decoded = on_decoded
        self._stream_id = stream_id
        self._tenant = tenant
        self._recogniser: PlainRecogniser | None = None
        self._began_at: float | None = None  # when the first sample was spoken, on Trio's clock
        self._decoded_s = 0.0
        self._partial: Reply | None = None  # the last one; None: nothing of the open utterance was answered yet
        self._step_bytes = BYTES_PER_SAMPLE * int(options.sample_rate * STEP_S)

    async def hear(self, frames: Sequence[Frame], arrived_at: float, *, together: bool = False) -> list[Reply]:
        """Gives the next frames, the first of which came at `arrived_at`, and returns the answer to each.

        `together`: the engine is given them as one, which costs less; all but the last get the last partial once more.

        One thread hop, more for a long frame. Raises `EngineError`. If cancelled while it waits for a thread, some of
        the frames count as not given.
        """
        if self._began_at is None:
            self._began_at = arrived_at - self._seconds(len(frames[0].payload))
        decode = self._decode_together if together else self._decode
        pieces = self._pieces(frames)
        replies: list[Reply] = []
        while call := self._next_call(pieces):
            audio_s = self._seconds(sum(len(payload) for payload, _ in call))
            self._decoded_s += audio_s
            replies += await self._run(partial(decode, call), self._turn(audio_s))
            self._on_decoded(audio_s)
        return replies

    async def finish(self) -> Reply:
        """Ends the open utterance, if any. One thread hop. Raises `EngineError`."""
        turn = self._turn(0.0, ends_utterance=True)
        return Reply(await self._run(lambda: self._opened().final(), turn), is_final=True)

    async def aclose(self) -> None:
        """Frees the recogniser. Shield it: it must not be cancelled while it waits for a thread."""
        if self._recogniser is None:
            return
        held, self._recogniser = [self._recogniser], None
        # The last reference goes in the thread, because freeing a recogniser takes time.
        await self._decoders.run(lambda: self._engine.close(held.pop()), owner=self._stream_id)

    def _seconds(self, size_bytes: int) -> float:
        return size_bytes / BYTES_PER_SAMPLE / self._options.sample_rate

    def _turn(self, audio_s: float, *, ends_utterance: bool = False) -> Turn:
        """When what has been given so far was spoken, if the stream is sent in real time."""
        return Turn((self._began_at or 0.0) + self._decoded_s, audio_s, self._tenant, ends_utterance)

    async def _run(self, call: Callable[[], T], turn: Turn) -> T:
        if self._breaker is None:
            return await self._decoders.run(call, turn, owner=self._stream_id)
        await self._breaker.wait_closed()
        try:
            result = await self._decoders.run(call, turn, owner=self._stream_id)
        except EngineError:
            self._breaker.record(ok=False)
            raise
        self._breaker.record(ok=True)
        return result

    def _opened(self) -> PlainRecogniser:
        if self._recogniser is None:
            self._recogniser = self._engine.open_plain(self._options)
        return self._recogniser

    def _decode(self, pieces: Sequence[tuple[bytes, bool]]) -> list[Reply]:
        recogniser = self._opened()
        replies = []
        for payload, whole in pieces:
            ended = recogniser.accept(payload)
            if whole:
                replies.append(self._answer(recogniser, ended))
        return replies

    def _decode_together(self, pieces: Sequence[tuple[bytes, bool]]) -> list[Reply]:
        before = self._partial or Reply(self._opened().partial(), False)
        ended = self._opened().accept(b"".join(payload for payload, _ in pieces))
        answered = sum(whole for _, whole in pieces)
        return [before] * (answered - 1) + [self._answer(self._opened(), ended)] if answered else []

    def _answer(self, recogniser: PlainRecogniser, ended: bool) -> Reply:
        if ended:
            self._partial = None
            return Reply(recogniser.result(), True)
        self._partial = Reply(recogniser.partial(), False)
        return self._partial

    def _pieces(self, frames: Sequence[Frame]) -> Iterator[tuple[bytes, bool]]:
        """Frames, or parts of one that is long; with whether the frame is whole now and is to be answered."""
        most_bytes = STEPS_A_CALL * self._step_bytes
        for frame in frames:
            payload, begin = frame.payload, 0
            while len(payload) - begin > most_bytes:
                yield payload[begin : begin + most_bytes], False
                begin += most_bytes
            yield payload[begin:], True  # bytes that are sliced whole are not copied

    def _next_call(self, pieces: Iterator[tuple[bytes, bool]]) -> list[tuple[bytes, bool]]:
        call, size_bytes = [], 0
        for piece in islice(pieces, FRAMES_A_CALL):
            call.append(piece)
            size_bytes += len(piece[0])
            if size_bytes >= STEPS_A_CALL * self._step_bytes:
                break
        return call
