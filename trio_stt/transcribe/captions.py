"""Cuts recognised text into captions of at most two short lines, each with its time."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from rich.cells import cell_len, chop_cells

MAX_LINE_WIDTH = 42
"""Columns in a line: what broadcasters' guides agree on for Latin scripts. A wide (East Asian) character takes two."""

MAX_LINES = 2

MAX_CAPTION_S = 7.0
"""Longest time that one caption stands (the same guides)."""

MIN_PAUSE_S = 1.5
"""A pause between words from which on a new caption begins."""


@frozen
class TimedWord:
    """A word and when it was spoken, in seconds."""

    text: str
    start_s: float
    end_s: float


@frozen
class Caption:
    """What stands on the screen from `start_s` to `end_s`: one or two lines."""

    lines: tuple[str, ...]
    start_s: float
    end_s: float


def plain(text: str) -> str:
    """`text` on one line, with no character in it that would steer a terminal or a player."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def spread_words(text: str, start_s: float, end_s: float) -> list[TimedWord]:
    """The words of `text`, each given a share of the time by its length: for a text whose word times are not known."""
    words = text.split()
    share_s = (end_s - start_s) / max(1, len(text.replace(" ", "")))
    spread = []
    at_s = start_s
    for word in words:
        spread.append(TimedWord(word, at_s, at_s + share_s * len(word)))
        at_s = spread[-1].end_s
    return spread


def lay_out(words: Sequence[TimedWord]) -> list[Caption]:
    """The captions that show `words`, in order: as few as fit, of about equal length, so that no word is left alone."""
    words = [piece for word in words for piece in _fitting_pieces(word)]
    captions = []
    for phrase in _phrases(words):
        captions += [_caption(group) for group in _balanced_groups(phrase)]
    return captions


def add_translation(captions: Sequence[Caption], text: str) -> list[Caption]:
    """The same captions with `text` below them, shared out among them by the time that each stands."""
    words = text.split()
    whole_s = sum(caption.end_s - caption.start_s for caption in captions)
    both, taken, passed_s = [], 0, 0.0
    for number, caption in enumerate(captions, 1):
        passed_s += caption.end_s - caption.start_s
        upto = len(words) if number == len(captions) or not whole_s else round(len(words) * passed_s / whole_s)
        both.append(Caption((*caption.lines, *_wrapped(words[taken:upto])), caption.start_s, caption.end_s))
        taken = max(taken, upto)
    return both


def _wrapped(words: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for piece in (piece for word in words for piece in chop_cells(word, MAX_LINE_WIDTH)):
        if lines and cell_len(lines[-1]) + 1 + cell_len(piece) <= MAX_LINE_WIDTH:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return lines


def _fitting_pieces(word: TimedWord) -> list[TimedWord]:
    """The word, cut where it is longer than a line (scripts without spaces come as one long word)."""
    if cell_len(word.text) <= MAX_LINE_WIDTH:
        return [word]
    share_s = (word.end_s - word.start_s) / len(word.text)
    pieces = []
    at_s = word.start_s
    for text in chop_cells(word.text, MAX_LINE_WIDTH):
        pieces.append(TimedWord(text, at_s, at_s + share_s * len(text)))
        at_s = pieces[-1].end_s
    return pieces


def _phrases(words: Sequence[TimedWord]) -> list[list[TimedWord]]:
    phrases: list[list[TimedWord]] = []
    for word in words:
        if not phrases or word.start_s - phrases[-1][-1].end_s >= MIN_PAUSE_S:
            phrases.append([])
        phrases[-1].append(word)
    return phrases


def _balanced_groups(words: list[TimedWord]) -> list[list[TimedWord]]:
    """The fewest groups that fit a caption each; of all ways to make so many, one whose widest group is narrowest."""
    widest = MAX_LINES * MAX_LINE_WIDTH + 1
    best = _greedy_groups(words, widest)
    for width in range(widest - 1, 0, -1):
        groups = _greedy_groups(words, width)
        if len(groups) > len(best):
            break
        best = groups
    return best


def _greedy_groups(words: list[TimedWord], width: int) -> list[list[TimedWord]]:
    groups: list[list[TimedWord]] = []
    for word in words:
        if not groups or not _fits([*groups[-1], word], width):
            groups.append([])
        groups[-1].append(word)
    return groups


def _fits(words: list[TimedWord], width: int) -> bool:
    whole = _width(words)
    if whole > width or words[-1].end_s - words[0].start_s > MAX_CAPTION_S:
        return False
    return whole <= MAX_LINE_WIDTH or _line_break(words) is not None


def _line_break(words: list[TimedWord]) -> int | None:
    """How many words stand on the first of two lines, the longer of which is as short as can be; None: no way fits."""
    breaks = [(max(_width(words[:at]), _width(words[at:])), at) for at in range(1, len(words))]
    width, at = min(breaks, default=(MAX_LINE_WIDTH + 1, 0))
    return at if width <= MAX_LINE_WIDTH else None


def _width(words: Sequence[TimedWord]) -> int:
    return sum(cell_len(word.text) for word in words) + len(words) - 1


def _caption(words: list[TimedWord]) -> Caption:
    at = None if _width(words) <= MAX_LINE_WIDTH else _line_break(words)
    parts = [words] if at is None else [words[:at], words[at:]]
    lines = tuple(" ".join(word.text for word in part) for part in parts)
    return Caption(lines, words[0].start_s, words[-1].end_s)
