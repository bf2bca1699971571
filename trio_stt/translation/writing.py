"""Writes recognised words as sentences: capitals, full stops, question marks and commas, which recognisers leave out.

A linear model (averaged perceptron) decides after each word whether a sentence or a clause ends there, and of each
sentence whether it is a question; a word list says what has a capital. What it knows of a language lies beside this
file, learnt by ``scripts/learn_writing.py``. Words are never changed, added or removed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Literal

from attrs import frozen

Mark = Literal["", ",", "."]
"""What follows a word; a full stop may turn out to be a question mark."""

MARKS: tuple[Mark, ...] = ("", ",", ".")

CLOSING_MARKS = ".?!…。？！।؟"
"""A text that ends with one of these has been written already."""

_IDEOGRAPHIC = frozenset({"zh", "ja"})
_DANDA = frozenset({"hi", "bn", "mr", "ne"})
_UNMARKED = frozenset({"th", "lo", "km", "my"})
"""Languages whose sentences end with a space, or a mark that speech gives no hint of."""

_FAR = 20
"""Words since the last mark are counted up to here."""


@frozen
class WritingModel:
    """What is known of one language's writing."""

    common: frozenset[str]
    """Words that are features themselves; others stand for their ending."""
    marks: Mapping[str, tuple[int, ...]]
    """Weights of each feature, in the order of `MARKS`."""
    bias: tuple[int, ...]
    """Added to the scores of `MARKS`."""
    questions: Mapping[str, int]
    """Weights of the features of a whole sentence; above 0 in sum: a question."""
    question_bias: int
    capitals: Mapping[str, str]
    """How a word, or two words with a space between them, are written inside a sentence."""
    cannot_end: frozenset[str]
    """Words that no sentence ends with: an utterance that does was cut short."""

    def known(self, word: str) -> str:
        """The word as a feature."""
        return word if word in self.common else "*" + word[-3:]


def mark_features(known: Sequence[str], at: int, since_stop: int, since_mark: int) -> Iterator[str]:
    """Features of the gap after the word `at`.

    `known`: the words as `WritingModel.known` gives them. `since_stop`, `since_mark`: words, this one included, since
    the last full stop and since the last mark of any kind.
    """
    before = known[at - 1] if at else "<"
    word = known[at]
    after = known[at + 1] if at + 1 < len(known) else ">"
    later = known[at + 2] if at + 2 < len(known) else ">"
    first = known[at + 1 - since_stop]
    far = min(since_stop, _FAR)
    near = min(since_mark, _FAR)
    yield f"b {word}"
    yield f"c {after}"
    yield f"bc {word} {after}"
    yield f"ab {before} {word}"
    yield f"cd {after} {later}"
    yield f"d {later}"
    yield f"s {far}"
    yield f"m {near}"
    yield f"sc {far} {after}"
    yield f"mc {near} {after}"
    yield f"fc {first} {after}"
    yield f"mb {near} {word}"


def question_features(known: Sequence[str]) -> Iterator[str]:
    """Features of a whole sentence."""
    yield f"1 {known[0]}"
    yield f"12 {' '.join(known[:2])}"
    yield f"123 {' '.join(known[:3])}"
    yield f"2 {known[1] if len(known) > 1 else '>'}"
    yield f"-1 {known[-1]}"
    yield f"-2 {' '.join(known[-2:])}"
    yield f"-3 {' '.join(known[-3:])}"
    yield f"n {min(len(known), _FAR)}"
    yield from {f"w {word}" for word in known}


class Writer:
    """Writes one language's words as sentences. Safe in several threads."""

    def __init__(self, model: WritingModel) -> None:
        self._model = model

    def write(self, words: Sequence[str]) -> list[str]:
        """The same words with capitals and marks. Lower-case words without marks are expected."""
        if not words:
            return []
        marks = self._marks([self._model.known(word) for word in words])
        cased = self._cased(words)
        written: list[str] = []
        start = 0
        for at, mark in enumerate(marks):
            word = cased[at]
            if at == start:
                word = _capitalised(word)
            if mark == ".":
                sentence = [self._model.known(each) for each in words[start : at + 1]]
                mark_written = "?" if self._is_question(sentence) else "."
                start = at + 1
            else:
                mark_written = mark
            written.append(word + mark_written)
        return written

    def _marks(self, known: list[str]) -> list[Mark]:
        model = self._model
        marks: list[Mark] = []
        since_stop = since_mark = 0
        for at in range(len(known) - 1):
            since_stop += 1
            since_mark += 1
            scores = list(model.bias)
            for feature in mark_features(known, at, since_stop, since_mark):
                weights = model.marks.get(feature)
                if weights is not None:
                    scores = [score + weight for score, weight in zip(scores, weights, strict=True)]
            mark = MARKS[max(range(len(MARKS)), key=scores.__getitem__)]
            if mark:
                since_mark = 0
            if mark == ".":
                since_stop = 0
            marks.append(mark)
        marks.append("" if known[-1] in model.cannot_end else ".")
        return marks

    def _is_question(self, known: Sequence[str]) -> bool:
        weights = self._model.questions
        return self._model.question_bias + sum(weights.get(feature, 0) for feature in question_features(known)) > 0

    def _cased(self, words: Sequence[str]) -> list[str]:
        capitals = self._model.capitals
        cased = [capitals.get(word, word) for word in words]
        for at, (word, after) in enumerate(pairwise(words)):
            pair = capitals.get(f"{word} {after}")
            if pair is not None:
                cased[at], cased[at + 1] = pair.split(" ")
        return cased


class PlainWriter:
    """For languages of which nothing was learnt: a capital, and the stop that their script ends a sentence with."""

    def __init__(self, language: str) -> None:
        """`language`: primary subtag."""
        self._stop = "。" if language in _IDEOGRAPHIC else "।" if language in _DANDA else "."
        if language in _UNMARKED:
            self._stop = ""

    def write(self, words: Sequence[str]) -> list[str]:
        """The same words, the first with a capital, the last with a stop."""
        if not words:
            return []
        written = list(words)
        written[0] = _capitalised(written[0])
        written[-1] += self._stop
        return written


def write(text: str, language: str) -> str:
    """Recognised `text` as sentences; `language` is the primary subtag. Text that has been written stays as it is."""
    words = text.split()
    if text != text.lower() or text.rstrip().endswith(tuple(CLOSING_MARKS)):
        return text
    return " ".join(_writer_of(language).write(words))


@cache
def _writer_of(language: str) -> Writer | PlainWriter:
    model = load_model(language)
    return PlainWriter(language) if model is None else Writer(model)


def load_model(language: str) -> WritingModel | None:
    """What was learnt of `language` (primary subtag); None: nothing."""
    file = resources.files(__package__).joinpath(f"writing_{language}.json.gz")
    if not file.is_file():
        return None
    data = json.loads(gzip.decompress(file.read_bytes()))
    return WritingModel(
        common=frozenset(data["common"]),
        marks={feature: tuple(weights) for feature, weights in data["marks"].items()},
        bias=tuple(data["bias"]),
        questions=data["questions"],
        question_bias=data["question_bias"],
        capitals=data["capitals"],
        cannot_end=frozenset(data["cannot_end"]),
    )


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
