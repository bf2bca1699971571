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

    def close(self, recogniser: Recogniser) -> None:
        """Takes a recogniser back; it is not used afterwards by the caller."""
