"""One speech model of an instance: where it lies, whether it is loaded, who uses it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import TracebackType

import trio
from attrs import frozen

from trio_stt.models import footprint
from trio_stt.models.errors import ModelStoreError
from trio_stt.models.installed import language_of
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.engine import Engine


class ModelState(Enum):
    """`INSTALLED`: not loaded, nobody needs it. `FAILING`: loading or decoding fails; it will be tried again."""

    INSTALLED = "installed"
    LOADING = "loading"
    LOADED = "loaded"
    FAILING = "failing"


class Unavailable(Enum):
    """Why a stream does not get a model."""

    NOT_INSTALLED = "not_installed"
    LOADING = "loading"
    """It is being loaded, which takes longer than the stream may wait."""
    FAILING = "failing"
    NO_MEMORY = "no_memory"
    """The models in use take what `MODELS_MEMORY_MB` allows."""
    ALL_TAKEN = "all_taken"
    """As many streams use it as there is memory for their recognisers."""


@frozen
class ModelStatistics:
    """A model as it stands. `users`: streams that use it or wait for it; `memory_mb`: what it takes, by estimate."""

    name: str
    language: str
    state: ModelState
    users: int
    memory_mb: float


class Load:
    """A load under way: all who need it wait for `over`, and `problem` is then why it did not succeed."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.problem: Unavailable | None = None


class ShelvedModel:
    """A model by its folder. Used on the event loop only."""

    def __init__(self, folder: Path, breaker: Breaker, language: str | None = None) -> None:
        """`language`: primary subtag; None: as the folder's name says."""
        self.folder = folder
        self.breaker = breaker
        """Of this engine with this model: opened by calls that fail, and at once by a load that fails."""
        self.language = language_of(folder) if language is None else language
        self.engine: Engine | None = None
        """None: not loaded."""
        self.has_phrases = False
        """Whether the graph that phrases need is loaded besides."""
        self.users = 0
        self.used_at = 0.0
        """When a stream last gave it back, on Trio's clock."""
        self.load: Load | None = None
        """The load under way."""
        self.error = ""
        """What the engine said of a load that failed, for operators."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def state(self) -> ModelState:
        """How it stands."""
        if not self.breaker.admits:
            return ModelState.FAILING
        if self.load is not None:
            return ModelState.LOADING
        return ModelState.INSTALLED if self.engine is None else ModelState.LOADED

    @property
    def needs_mb(self) -> float:
        """What loading it takes, by estimate. Looks at the disk."""
        return _estimated(footprint.memory_mb, self.folder)

    @property
    def phrases_need_mb(self) -> float:
        """What loading the graph for phrases takes besides, by estimate. Looks at the disk."""
        return _estimated(footprint.phrases_mb, self.folder)

    def statistics(self, memory_mb: float) -> ModelStatistics:
        """A snapshot, for health and statistics."""
        return ModelStatistics(self.name, self.language, self.state, self.users, round(memory_mb))


def _estimated(estimate: Callable[[Path], float], folder: Path) -> float:
    try:
        return estimate(folder)
    except (ModelStoreError, OSError):  # loading it will say what is wrong with it
        return 0.0


class Loan:
    """A stream's use of a model, which stays loaded until the loan is closed."""

    def __init__(self, model: ShelvedModel) -> None:
        self.model = model
        self._open = True
        model.users += 1

    @property
    def engine(self) -> Engine:
        """The loaded model."""
        if self.model.engine is None:
            raise RuntimeError(f"{self.model.name} is used before it was loaded")
        return self.model.engine

    @property
    def breaker(self) -> Breaker:
        """Of the engine with this model."""
        return self.model.breaker

    def close(self) -> None:
        """Gives the model back. Does nothing the second time."""
        if self._open:
            self._open = False
            self.model.users -= 1
            self.model.used_at = trio.current_time()

    def __enter__(self) -> Loan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
