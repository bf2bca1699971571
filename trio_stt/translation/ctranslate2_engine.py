"""CTranslate2 models with sentencepiece: OPUS-MT as converted by CTranslate2's own tools, and Argos packages.

Needs the extra ``trio-stt[ctranslate2]``. One engine is one model, for one pair of languages.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from pathlib import Path
from typing import Any

from attrs import frozen

from trio_stt.models.errors import ModelStoreError
from trio_stt.models.translation_models import TranslationLayout, layout_of_translation
from trio_stt.translation.engine import Pair, TranslationError

BEAM = 2
"""Hypotheses kept: half the cost of CTranslate2's usual 5 or so, and hardly worse for short sentences."""

MAX_TOKENS = 256
"""Longest translation of one sentence; a model that repeats itself is stopped here."""

_END = "</s>"
_SENTENCE_END = re.compile(r"(?<=[.?!…])\s+")
_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my"})


def is_available() -> bool:
    """Whether the extra is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("ctranslate2", "sentencepiece"))


@frozen
class _Loaded:
    translator: Any
    source: Any
    target: Any
    ends_source: bool
    prefix: list[str]


class CTranslate2Engine:
    """One model. Loaded when it is first needed."""

    def __init__(self, folder: Path, source: str, target: str, *, threads: int) -> None:
        """`folder`: as `trio-stt models install` leaves it; `threads`: that one translation may use."""
        self.name = f"ctranslate2:{source}-{target}"
        self.pairs: frozenset[Pair] = frozenset({(source, target)})
        self._folder = folder
        self._target = target
        self._threads = threads
        self._loaded: _Loaded | None = None
        self._loading = threading.Lock()

    def load(self) -> None:
        """Loads the model."""
        self._model()

    def translate(self, text: str, source: str, target: str) -> str:
        """Translates each sentence of `text`; these models know no more than one at a time."""
        model = self._model()
        sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence]
        tokens = [self._tokens(model, sentence) for sentence in sentences]
        try:
            results = model.translator.translate_batch(
                tokens,
                target_prefix=[model.prefix] * len(tokens) if model.prefix else None,
                beam_size=BEAM,
                max_decoding_length=MAX_TOKENS,
            )
            pieces = [result.hypotheses[0][len(model.prefix) :] for result in results]
            translated = [str(model.target.decode(piece)).strip() for piece in pieces]
        except (RuntimeError, ValueError) as error:
            raise TranslationError(f"{self.name} failed: {type(error).__name__}") from error
        return ("" if self._target in _WITHOUT_SPACES else " ").join(translated)

    def _tokens(self, model: _Loaded, sentence: str) -> list[str]:
        tokens: list[str] = model.source.encode(sentence, out_type=str)
        return [*tokens, _END] if model.ends_source else tokens

    def _model(self) -> _Loaded:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> _Loaded:
        import ctranslate2
        import sentencepiece

        try:
            layout = layout_of_translation(self._folder)
            translator = ctranslate2.Translator(
                str(self._folder / layout.model), device="cpu", intra_threads=self._threads, compute_type="int8"
            )
            source = sentencepiece.SentencePieceProcessor(model_file=str(self._folder / layout.source_pieces))
            target = sentencepiece.SentencePieceProcessor(model_file=str(self._folder / layout.target_pieces))
            return _Loaded(translator, source, target, self._ends_source(layout), self._prefix(layout))
        except (ModelStoreError, OSError, RuntimeError, ValueError) as error:
            raise TranslationError(f"the model in {self._folder} cannot be loaded: {error}") from error

    def _ends_source(self, layout: TranslationLayout) -> bool:
        """OPUS-MT models want an end after the source; newer conversions add it by themselves."""
        configuration = self._folder / layout.model / "config.json"
        adds_itself = configuration.is_file() and json.loads(configuration.read_text("utf-8")).get("add_source_eos")
        return layout.is_opus_mt and not adds_itself

    def _prefix(self, layout: TranslationLayout) -> list[str]:
        """What the target must begin with; some Argos packages name it."""
        metadata = self._folder / "metadata.json"
        prefix = "" if layout.is_opus_mt else json.loads(metadata.read_text("utf-8")).get("target_prefix", "")
        return [prefix] if prefix else []
