"""What writing the recogniser's words as sentences does for their translation, and how long translating takes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources

from attrs import frozen

from trio_stt.bench.figures import Figure, percentiles
from trio_stt.translation.engine import TranslationEngine
from trio_stt.translation.writing import write

LEAST_GAIN = 5.0
"""Points of chrF that written text should be closer to the correctly written one's translation."""

MOST_ADDED_MS = 100.0
"""What the embedded engine may add to a final, p95."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MARKS = (",", ".", "?")


class TranslationBenchError(Exception):
    """The benchmark cannot be run. The message says what is missing."""


@frozen
class MarkScore:
    """How well a mark was set: shares of those set and of those wanted."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 if both are."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def sentences_of(language: str) -> list[str]:
    """The correctly written utterances for `language`, of one or two sentences. Raises `TranslationBenchError`."""
    file = resources.files(__package__).joinpath(f"written_{language}.txt")
    if not file.is_file():
        raise TranslationBenchError(f"there are no correctly written sentences in {language}; there are some in en, pt")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def as_recognised(written: str) -> str:
    """The words of `written` as a recogniser gives them: lower case, without marks."""
    return " ".join(_WORD.findall(written.replace("’", "'"))).lower()


def measure(
    engine: TranslationEngine, sentences: Sequence[str], source: str, target: str, say: Callable[[str], None]
) -> tuple[list[Figure], list[str]]:
    """Figures and notes. Blocks. Raises `TranslationError`, `TranslationBenchError`."""
    engine.load()
    recognised = [as_recognised(sentence) for sentence in sentences]
    say(f"{len(sentences)} utterances from {source} to {target}: correctly written, raw, and restored")
    correct = [engine.translate(sentence, source, target) for sentence in sentences]
    raw = [engine.translate(text, source, target) for text in recognised]
    restored, times_s = [], []
    for text in recognised:
        began = time.perf_counter()
        restored.append(engine.translate(write(text, source), source, target))
        times_s.append(time.perf_counter() - began)
    written = [write(text, source) for text in recognised]
    scores = mark_scores(sentences, written)
    raw_chrf, restored_chrf = _chrf(raw, correct), _chrf(restored, correct)
    took = percentiles(times_s)
    figures = [
        Figure("chrF of raw text's translation", raw_chrf, "points"),
        Figure("chrF of restored text's translation", restored_chrf, "points"),
        Figure("gain", restored_chrf - raw_chrf, "points", at_least=LEAST_GAIN),
        *(Figure(f"F1 of {mark!r}", scores[mark].f1, "") for mark in _MARKS),
        Figure("words with the right capitals", 100 * _cased(sentences, written), "%"),
        Figure("restoring and translating, p50", took.p50_ms, "ms"),
        Figure("restoring and translating, p95", took.p95_ms, "ms", at_most=MOST_ADDED_MS),
    ]
    notes = [f"{mark!r}: precision {scores[mark].precision:.2f}, recall {scores[mark].recall:.2f}" for mark in _MARKS]
    return figures, notes


def mark_scores(correct: Sequence[str], written: Sequence[str]) -> dict[str, MarkScore]:
    """For each mark, how well `written` sets it; both hold the same words. Other marks count as the nearest."""
    given: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for one, other in zip(correct, written, strict=True):
        for want, gave in zip(_marks(one), _marks(other), strict=True):
            wanted[want] += 1
            given[gave] += 1
            right[want] += want == gave
    return {mark: MarkScore(right[mark] / max(1, given[mark]), right[mark] / max(1, wanted[mark])) for mark in _MARKS}


def _marks(text: str) -> list[str]:
    """The mark after each word, or nothing."""
    words = list(_WORD.finditer(text))
    starts = [*(word.start() for word in words[1:]), len(text)]
    return [_mark(text[word.end() : start]) for word, start in zip(words, starts, strict=True)]


def _mark(gap: str) -> str:
    if "?" in gap:
        return "?"
    if "." in gap or "!" in gap:
        return "."
    return "," if any(sign in gap for sign in ",;:—") else ""


def _cased(correct: Sequence[str], written: Sequence[str]) -> float:
    pairs: list[tuple[str, str]] = [
        (one, other)
        for sentence, ours in zip(correct, written, strict=True)
        for one, other in zip(_WORD.findall(sentence), _WORD.findall(ours), strict=True)
    ]
    return sum(one == other for one, other in pairs) / max(1, len(pairs))


def _chrf(translations: Sequence[str], references: Sequence[str]) -> float:
    try:
        import sacrebleu
    except ImportError as error:
        raise TranslationBenchError("sacrebleu is missing; it comes with: ./scripts/setup.sh --test") from error
    score: float = sacrebleu.corpus_chrf(list(translations), [list(references)]).score
    return score
