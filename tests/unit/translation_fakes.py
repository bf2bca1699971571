"""Translation engines and a translator for tests: in capitals, slow, dead or hung on command."""

import threading

import trio
import trio.lowlevel

from trio_stt.translation.engine import TranslationError
from trio_stt.translation.translator import TranslationUnavailableError


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


class InlineTranslator:
    """A `Translator` without engines and threads; each translation takes `seconds`."""

    def __init__(self) -> None:
        self.calls = []
        self.prepared = []
        self.seconds = 1.0
        self.failing = False
        self.engines = ["some"]
        self.languages = {"pt", "en", "de"}

    async def run(self):
        await trio.sleep_forever()

    async def prepare(self, targets):
        self.prepared.append(targets)
        await trio.lowlevel.checkpoint()

    async def translate(self, text, source, target, *, remember=True):
        self.calls.append((text, source, target))
        await trio.sleep(self.seconds)
        if self.failing:
            raise TranslationUnavailableError("it is broken")
        return f"{target}:{text}"

    def produces(self, target):
        return target in self.languages
