"""What a speech recognition engine must offer. Sound is mono signed 16-bit at `SAMPLE_RATE`, as numpy arrays."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from attrs import frozen

SAMPLE_RATE = 16000
"""Samples a second that every engine is given."""

Samples = npt.NDArray[np.int16]
"""Mono signed 16-bit samples, shape (n,)."""


@frozen
class HeardWord:
    """A word with its place in samples (at `SAMPLE_RATE`), counted from the utterance's first sample given."""

    text: str
    start: int
    end: int
    confidence: float


class EngineError(Exception):
    """The engine failed on a call; the recogniser must be discarded."""


class ModelError(Exception):
    """A model is missing or broken. The message says which, and the command that mends it."""


class Recogniser(Protocol):
    """One speaker's recognition. Not safe for two calls at once; every method blocks: call it in a thread."""

    def accept(self, samples: Samples) -> None:
        """Gives the next samples of the utterance (any number). Raises `EngineError`."""

    def partial(self) -> str:
        """The text so far of the open utterance; may be empty. Raises `EngineError`."""

    def finish(self) -> tuple[HeardWord, ...]:
        """Ends the utterance and returns all its words; the next `accept` begins another. Raises `EngineError`."""

    def forget(self) -> None:
        """Drops the open utterance and all that was learnt of the speaker, so that another speaker may use this."""


@frozen
class PlainOptions:
    """How a plain recogniser is made: the sound's own rate (whole samples a second) and what its answers hold.

    `max_alternatives` 0: one text, with confidences; else up to so many texts. `phrases`: all that can be heard; none:
    anything.
    """

    sample_rate: int
    words: bool = True
    max_alternatives: int = 0
    phrases: tuple[str, ...] = ()


class PlainRecogniser(Protocol):
    """One stream decoded as it comes. The engine finds the end points itself and answers in JSON of its own.

    Not safe for two calls at once; every method blocks: call it in a thread.
    """

    def accept(self, payload: bytes) -> bool:
        """Gives the next samples (s16le). True: an utterance has ended, take its `result`. Raises `EngineError`."""

    def partial(self) -> str:
        """The open utterance so far."""

    def result(self) -> str:
        """The utterance that has just ended."""

    def final(self) -> str:
        """Ends the open utterance and returns it; an empty one if there is none. The clock goes on."""


class Engine(Protocol):
    """A loaded model. Making and closing recognisers may block: call it in a thread."""

    @property
    def description(self) -> dict[str, object]:
        """What is loaded, for people: engine, model folder, whether its graph is compiled."""

    @property
    def recogniser_limit(self) -> int | None:
        """How many recognisers may be open at once for the memory they take; None: no such bound."""

    def recogniser_mb(self, decoded_s: float) -> float:
        """About what a recogniser takes, in MB, that has decoded so many seconds of speech."""

    def open(self) -> Recogniser:
        """A recogniser for one speaker. Raises `EngineError`."""

    def load_phrases(self) -> None:
        """Loads what recognisers with `phrases` need, if it is not loaded. One call at a time. Raises `ModelError`."""

    def open_plain(self, options: PlainOptions) -> PlainRecogniser:
        """A plain recogniser; with `phrases`, only after `load_phrases`. Raises `EngineError`."""

    def close(self, recogniser: Recogniser | PlainRecogniser) -> None:
        """Takes a recogniser back; it is not used afterwards by the caller."""

    def unload(self) -> None:
        """Frees the model, whoever still refers to this; no recogniser can be opened any more. Blocks."""
