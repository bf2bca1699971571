"""Which of Kokoro's voices speaks a language. The first letter of a voice's name is the language that it was made for.

Text becomes phonemes by espeak-ng, whose name of a language stands here beside ours. Two languages of Kokoro are left
out, because espeak-ng does not read them as Kokoro was taught: of Japanese it says "Chinese letter" in place of each
kanji, and of Chinese the tones are lost, which Kokoro's alphabet writes otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import frozen


@frozen
class Accent:
    """What the voices of one letter speak."""

    language: str
    """Our name: a tag in lower case."""
    espeak: str
    voice: str
    """Which of them speaks unless another is chosen."""


ACCENTS: Final = {
    "a": Accent("en", "en-us", "af_heart"),
    "b": Accent("en-gb", "en-gb", "bf_emma"),
    "e": Accent("es", "es", "ef_dora"),
    "f": Accent("fr", "fr-fr", "ff_siwis"),
    "h": Accent("hi", "hi", "hf_alpha"),
    "i": Accent("it", "it", "if_sara"),
    "p": Accent("pt", "pt-br", "pf_dora"),
}
"""By the first letter of a voice's name."""


class Voices:
    """The voices that are installed. `preferred`: each takes the place of its language's usual one, if it is there."""

    def __init__(self, installed: Iterable[str], preferred: Iterable[str] = ()) -> None:
        self.names = frozenset(name for name in installed if name[:1] in ACCENTS)
        self._chosen: dict[str, str] = {}
        for letter, accent in ACCENTS.items():
            theirs = sorted(name for name in self.names if name.startswith(letter))
            wished = [name for name in preferred if name in theirs]
            if theirs:
                usual = accent.voice if accent.voice in theirs else theirs[0]
                self._chosen[accent.language] = wished[0] if wished else usual
        if "en" not in self._chosen and "en-gb" in self._chosen:
            self._chosen["en"] = self._chosen["en-gb"]

    def languages(self) -> frozenset[str]:
        """Those that have a voice, as tags in lower case."""
        return frozenset(self._chosen)

    def voice_for(self, language: str, wished: str | None = None) -> str | None:
        """The voice for a language's tag: the one that is `wished`, if it speaks that language; None: there is none.

        ``pt-PT`` is spoken by the voice for ``pt``.
        """
        tag = language.lower()
        primary = tag.partition("-")[0]
        if wished is not None:
            fits = wished in self.names and accent_of(wished).language.partition("-")[0] == primary
            return wished if fits else None
        return self._chosen.get(tag) or self._chosen.get(primary)


def accent_of(voice: str) -> Accent:
    """What that voice speaks. Raises `KeyError` for one of a language that is left out."""
    return ACCENTS[voice[:1]]
