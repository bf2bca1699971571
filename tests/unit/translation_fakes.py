"""Translation engines for tests: one that answers in capitals, and that can be slow, dead or hung on command."""

import threading

from trio_stt.translation.engine import TranslationError


class ShoutingEngine:
    """Translates "good day" from en to pt as "en>pt(Good day.)". Counts its calls."""

    def __init__(self, *pairs: tuple[str, str], name: str = "shouting") -> None:
        self.name = name
        self.pairs = frozenset(pairs or {("en", "pt"), ("pt", "en")})
        self.calls: list[tuple[str, str, str]] = []
        self.loads = 0
        self.failing = False
        self._free = threading.Event()
        self._free.set()

    def load(self) -> None:
        self.loads += 1

    def translate(self, text: str, source: str, target: str) -> str:
        self.calls.append((text, source, target))
        assert self._free.wait(20)
        if self.failing:
            raise TranslationError("planted")
        return f"{source}>{target}({text})"

    def hang(self) -> None:
        """Calls do not return until `release`."""
        self._free.clear()

    def release(self) -> None:
        self._free.set()
