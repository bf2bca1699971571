"""Cuts a text into what is spoken at once: sentences, and of long ones parts.

The first sound of a piece comes when the whole of it is computed, so pieces are short; and each gets an intonation of
its own, so they end where a speaker would draw breath, as far as there is such a place.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST_PIECE: Final = 100
"""Characters: five to seven seconds of speech."""

_ENDS: Final = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[।।॥。！？]+[\"'”’»)\]」]*")
"""Where a sentence may end; the marks of Hindi and Chinese need no space behind them."""

_PAUSES: Final = re.compile(r"[,;:–—、，；：]+(?=\s)|[、，；：]+")

_ABBREVIATED: Final = frozenset(
    """
    mr mrs ms dr dra prof st sr sra srta jr mt vs approx dept inc ltd co corp gen col sgt capt lt rev hon gov sen rep
    e.g i.e a.m p.m u.s u.k ph.d dª dna exmo exma av p.ex tel ee.uu aprox
    mm mme mlle c.-à-d env sig sig.ra sig.na dott dott.ssa ing avv prof.ssa ecc etc
    """.split()  # noqa: SIM905
)
"""What has a dot of its own, in the languages that there are voices for."""

_FOLLOWED_BY_NUMBER: Final = frozenset(
    ["no", "nos", "nº", "núm", "num", "p", "pp", "pág", "pag", "vol", "fig", "art", "cap", "chap", "ca"]
)
"""Of these the dot ends a sentence unless a number follows."""


def sentences(text: str, longest: int = LONGEST_PIECE) -> list[str]:
    """The pieces of `text` in order, of at most `longest` characters; none where there is nothing to say.

    Put together with spaces between they are the text, with each run of white space as one space, except where a word
    longer than `longest` had to be cut.
    """
    whole = " ".join(text.split())
    pieces: list[str] = []
    begin = 0
    for mark in _ENDS.finditer(whole):
        if _ends_sentence(whole, begin, mark):
            pieces += _parts(whole[begin : mark.end()].strip(), longest)
            begin = mark.end()
    pieces += _parts(whole[begin:].strip(), longest)
    return [piece for piece in pieces if any(character.isalnum() for character in piece)]


def _ends_sentence(text: str, begin: int, mark: re.Match[str]) -> bool:
    if not mark[0].startswith(".") or mark[0].startswith(".."):
        return not (mark[0].startswith(("..", "…")) and _next(text, mark.end()).islower())
    word = text[begin : mark.start()].rpartition(" ")[2].lstrip("\"'“‘«([¿¡")
    following = _next(text, mark.end())
    if following.islower():
        return False
    if word.lower() in _FOLLOWED_BY_NUMBER:
        return not following.isdigit()
    if word.lower() in _ABBREVIATED or re.fullmatch(r"(\w\.)*[A-ZÀ-Ý]", word):  # initials: J. S. Bach
        return False
    return not (word.isdigit() and begin + len(word) >= mark.start() - 1)  # 1. is the number of what follows


def _next(text: str, at: int) -> str:
    """The first letter or digit from there on."""
    return next((character for character in text[at : at + 8] if character.isalnum()), "")


def _parts(sentence: str, longest: int) -> list[str]:
    parts = []
    while len(sentence) > longest:
        at = _cut(sentence, longest)
        parts.append(sentence[:at].rstrip())
        sentence = sentence[at:].lstrip()
    return [*parts, sentence] if sentence else parts


def _cut(sentence: str, longest: int) -> int:
    """Where to cut: behind the last pause that fits, unless that leaves next to nothing; else at a space."""
    pauses = [mark.end() for mark in _PAUSES.finditer(sentence) if longest // 4 <= mark.end() <= longest]
    if pauses:
        return pauses[-1]
    space = sentence.rfind(" ", 1, longest + 1)
    return space if space > 0 else longest
