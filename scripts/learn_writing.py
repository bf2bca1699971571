"""Learns how a language is written (capitals, commas, sentence ends, questions) from plain text.

learn_writing.py LANG OUTPUT.json.gz --text FILE… [--names WORDLIST] [--held-out FILE…]

Texts are UTF-8, paragraphs separated by empty lines. WORDLIST has a word a line, as in /usr/share/dict; words that are
only ever capitalised there count as names. With --held-out the result is judged on text that it was not learnt from.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from trio_stt.translation.writing import MARKS, Writer, WritingModel, mark_features, question_features

COMMON_AT_LEAST = 20
"""Occurrences that make a word a feature itself."""

FEATURE_AT_LEAST = 4
"""Occurrences below which a feature is left out: it would be learnt by heart."""

RUN_SENTENCES = 4
"""Sentences learnt together: about as many as one utterance holds at most."""

ROUNDS = 5
LEAST_MARK_WEIGHT = 1.5
"""Features of marks that weigh less are left out: half of them, and the result is as good."""

LEAST_QUESTION_WEIGHT = 0.1

BIAS = (0.0, 0.0, -3.0)
"""Added for no mark, comma, full stop: a stop amid a sentence harms its translation more than a missing one."""

SCALE = 100
"""Weights are stored as whole numbers, this many to one."""

_ABBREVIATIONS = {"mr.": "mister", "mrs.": "missus", "dr.": "doctor", "st.": "saint"}
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"”'’)]*\s+(?=[\"“'‘(]?[^\W\d_a-zà-ÿ])")
_CLAUSE_ENDS = ",;:—–"


@frozen
class Passage:
    """Written words of one paragraph: their forms, lower-case forms, and the mark after each (`?` is a stop)."""

    forms: tuple[str, ...]
    words: tuple[str, ...]
    marks: tuple[str, ...]


def passages_of(text: str) -> list[Passage]:
    """Runs of up to `RUN_SENTENCES` sentences without digits, none across paragraphs."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        run: list[str] = []
        for sentence in [*_SENTENCE_END.split(_without_abbreviations(" ".join(paragraph.split()))), "0"]:
            usable = not any(letter.isdigit() for letter in sentence)
            if usable:
                run.append(sentence)
            if run and (not usable or len(run) == RUN_SENTENCES):
                passage = _passage(" ".join(run))
                found += [] if passage is None else [passage]
                run = []
    return found


def _without_abbreviations(text: str) -> str:
    for short, long in _ABBREVIATIONS.items():
        text = re.sub(rf"\b{re.escape(short)}(?=\s)", long.capitalize(), text, flags=re.IGNORECASE)
    return text


def _passage(paragraph: str) -> Passage | None:
    text = re.sub(r"[\"“”()\[\]_*]", "", paragraph).replace("’", "'").replace("--", " — ")
    forms: list[str] = []
    marks: list[str] = []
    for chunk in text.split():
        tokens = _TOKEN.findall(chunk)
        tail = chunk[len(chunk.rstrip(".?!,;:—–'")) :] if tokens else chunk
        for token in tokens:
            forms.append(token)
            marks.append("")
        if (forms and not marks[-1]) or (forms and _mark(tail) in (".", "?") and marks[-1] == ","):
            marks[-1] = _mark(tail)
    if len(forms) < 3 or marks[-1] not in (".", "?"):
        return None
    return Passage(tuple(forms), tuple(form.lower() for form in forms), tuple(marks))


def _mark(tail: str) -> str:
    if "?" in tail:
        return "?"
    if "." in tail or "!" in tail:
        return "."
    return "," if any(sign in tail for sign in _CLAUSE_ENDS) else ""


class Perceptron:
    """An averaged perceptron of several classes over features that are present or not."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.weights: dict[str, list[float]] = {}
        self._sums: dict[str, list[float]] = {}
        self._seen: dict[str, list[int]] = {}
        self._step = 0

    def best(self, features: Sequence[str]) -> int:
        """The likeliest class."""
        scores = [0.0] * self._classes
        for feature in features:
            weights = self.weights.get(feature)
            if weights is not None:
                for each in range(self._classes):
                    scores[each] += weights[each]
        return max(range(self._classes), key=scores.__getitem__)

    def learn(self, features: Sequence[str], right: int) -> None:
        """Moves the weights if they would have chosen wrongly."""
        self._step += 1
        guess = self.best(features)
        if guess == right:
            return
        for feature in features:
            self._add(feature, right, 1.0)
            self._add(feature, guess, -1.0)

    def averaged(self, least: float) -> dict[str, tuple[int, ...]]:
        """The mean of the weights over all steps, as whole numbers; of features with one of at least `least`."""
        found = {}
        for feature, weights in self.weights.items():
            means = tuple(
                round(
                    SCALE
                    * (self._sums[feature][at] + (self._step - self._seen[feature][at]) * weights[at])
                    / self._step
                )
                for at in range(self._classes)
            )
            if any(abs(mean) >= SCALE * least for mean in means):
                found[feature] = means
        return found

    def _add(self, feature: str, which: int, amount: float) -> None:
        if feature not in self.weights:
            self.weights[feature] = [0.0] * self._classes
            self._sums[feature] = [0.0] * self._classes
            self._seen[feature] = [0] * self._classes
        self._sums[feature][which] += (self._step - self._seen[feature][which]) * self.weights[feature][which]
        self._seen[feature][which] = self._step
        self.weights[feature][which] += amount


def learn(passages: list[Passage], names: Iterable[str]) -> WritingModel:
    """The model of `passages`."""
    counts = Counter(word for passage in passages for word in passage.words)
    common = frozenset(word for word, count in counts.items() if count >= COMMON_AT_LEAST)
    empty = WritingModel(common, {}, (0, 0, 0), {}, 0, {}, frozenset())
    dice = random.Random(1)
    marks = _learn_marks(passages, empty, dice)
    questions = _learn_questions(passages, empty, dice)
    return WritingModel(
        common,
        marks,
        tuple(round(SCALE * each) for each in BIAS),
        questions,
        0,
        capitals_of(passages, names),
        _never_last(passages, common),
    )


def _learn_marks(passages: list[Passage], model: WritingModel, dice: random.Random) -> dict[str, tuple[int, ...]]:
    examples = [each for passage in passages for each in _mark_examples(passage, model)]
    seen = Counter(feature for features, _ in examples for feature in features)
    learner = Perceptron(len(MARKS))
    examples = [([each for each in features if seen[each] >= FEATURE_AT_LEAST], right) for features, right in examples]
    for number in range(ROUNDS):
        dice.shuffle(examples)
        for features, right in examples:
            learner.learn(features, right)
        print(f"marks: round {number + 1} of {ROUNDS}, {len(examples)} gaps", flush=True)
    return learner.averaged(LEAST_MARK_WEIGHT)


def _mark_examples(passage: Passage, model: WritingModel) -> Iterable[tuple[list[str], int]]:
    known = [model.known(word) for word in passage.words]
    since_stop = since_mark = 0
    for at in range(len(known) - 1):
        since_stop += 1
        since_mark += 1
        mark = "." if passage.marks[at] == "?" else passage.marks[at]
        yield list(mark_features(known, at, since_stop, since_mark)), MARKS.index(mark)
        if mark:
            since_mark = 0
        if mark == ".":
            since_stop = 0


def sentences_of(passage: Passage) -> Iterable[tuple[tuple[str, ...], bool]]:
    """The sentences of a passage, and whether each is a question."""
    start = 0
    for at, mark in enumerate(passage.marks):
        if mark in (".", "?"):
            yield passage.words[start : at + 1], mark == "?"
            start = at + 1


def _learn_questions(passages: list[Passage], model: WritingModel, dice: random.Random) -> dict[str, int]:
    examples = [
        (list(question_features([model.known(word) for word in words])), int(asks))
        for passage in passages
        for words, asks in sentences_of(passage)
    ]
    seen = Counter(feature for features, _ in examples for feature in features)
    examples = [([each for each in features if seen[each] >= 3], right) for features, right in examples]
    asked = [example for example in examples if example[1]]
    # Questions are rare in print and common in talk: each is shown several times.
    examples += asked * 2
    learner = Perceptron(2)
    for _ in range(ROUNDS):
        dice.shuffle(examples)
        for features, right in examples:
            learner.learn(features, right)
    return {feature: asks - tells for feature, (tells, asks) in learner.averaged(LEAST_QUESTION_WEIGHT).items()}


def capitals_of(passages: list[Passage], names: Iterable[str]) -> dict[str, str]:
    """How words and pairs of words that are capitalised inside sentences are written."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    for passage in passages:
        for at, form in enumerate(passage.forms):
            if at == 0 or passage.marks[at - 1] in (".", "?"):
                continue  # capitals at a sentence's start say nothing
            forms[form.lower()][form] += 1
            after = passage.forms[at + 1] if at + 1 < len(passage.forms) and not passage.marks[at] else None
            if after is not None:
                pairs[f"{form.lower()} {after.lower()}"][f"{form} {after}"] += 1
    found = {}
    for name in names:
        if name != name.lower() and name.lower() not in forms:
            found[name.lower()] = name
    for word, seen in forms.items():
        form, count = seen.most_common(1)[0]
        if form != word and count >= 3 and count >= 0.75 * seen.total():
            found[word] = form
    for pair, seen in pairs.items():
        form, count = seen.most_common(1)[0]
        capital = all(part != part.lower() for part in form.split())
        word_by_word = " ".join(found.get(part, part) for part in pair.split())
        if capital and count >= 5 and count >= 0.75 * seen.total() and form != word_by_word:
            found[pair] = form
    return found


def _never_last(passages: list[Passage], common: frozenset[str]) -> frozenset[str]:
    seen: Counter[str] = Counter()
    last: Counter[str] = Counter()
    for passage in passages:
        seen.update(passage.words)
        last.update(word for word, mark in zip(passage.words, passage.marks, strict=True) if mark in (".", "?"))
    return frozenset(word for word in common if seen[word] >= 500 and last[word] < seen[word] / 500)


def judge(model: WritingModel, passages: list[Passage]) -> None:
    """Prints precision, recall and F1 of each mark."""
    writer = Writer(model)
    right: Counter[str] = Counter()
    given: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    cased = total = 0
    for passage in passages:
        written = writer.write(passage.words)
        for word, form, mark in zip(written, passage.forms, passage.marks, strict=True):
            bare = word.rstrip(",.?")
            found = word[len(bare) :]
            given[found] += 1
            wanted[mark] += 1
            right[found] += found == mark
            total += 1
            cased += bare == form
    for mark in (",", ".", "?"):
        precision, recall = right[mark] / max(1, given[mark]), right[mark] / max(1, wanted[mark])
        both = 2 * precision * recall / max(1e-9, precision + recall)
        print(f"{mark}  precision {precision:.3f}  recall {recall:.3f}  F1 {both:.3f}  ({wanted[mark]} in the text)")
    print(f"words written with the right letters: {cased / total:.4f}")


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("language")
    parser.add_argument("output", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--held-out", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    passages = [each for file in arguments.text for each in passages_of(file.read_text(encoding="utf-8"))]
    names = arguments.names.read_text(encoding="utf-8").split() if arguments.names else []
    model = learn(passages, [name for name in names if name.isalpha()])
    document = {
        "language": arguments.language,
        "common": sorted(model.common),
        "marks": dict(sorted(model.marks.items())),
        "bias": model.bias,
        "questions": dict(sorted(model.questions.items())),
        "question_bias": model.question_bias,
        "capitals": dict(sorted(model.capitals.items())),
        "cannot_end": sorted(model.cannot_end),
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    arguments.output.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes, {len(model.marks):,} features of marks")
    if arguments.held_out:
        judge(model, [each for file in arguments.held_out for each in passages_of(file.read_text(encoding="utf-8"))])


if __name__ == "__main__":
    main()
