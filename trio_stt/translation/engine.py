"""What a translation engine must offer."""

from __future__ import annotations

from typing import Protocol

Pair = tuple[str, str]
"""Source and target language, as primary subtags of BCP-47."""


class TranslationError(Exception):
    """The engine could not translate. The message says why; it never holds the text."""


class TranslationEngine(Protocol):
    """Translates between some pairs of languages. Every method blocks: call it in a thread."""

    @property
    def name(self) -> str:
        """What it is called in health, metrics and logs."""

    @property
    def pairs(self) -> frozenset[Pair] | None:
        """What it translates; None: not known before `load` has succeeded, so anything may be. Answers at once."""

    def load(self) -> None:
        """Makes it ready, so that the first translation does not wait; a second call costs nothing.

        Raises `TranslationError`.
        """

    def translate(self, text: str, source: str, target: str) -> str:
        """`text` in the language `target`, for a pair of `pairs`; loads what is missing. Raises `TranslationError`.

        Safe in several threads.
        """
