"""Models that are loaded when a client first asks for them: once, one at a time, off the event loop."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_stt.recognition.engine import Engine


class ModelChoice:
    """The engines that clients chose, by name. What was loaded stays."""

    def __init__(self, load: Callable[[str], Engine]) -> None:
        """`load` blocks and raises `ModelError` or `EngineError`."""
        self._load = load
        self._engines: dict[str, Engine] = {}
        self._loading = trio.Lock()

    async def engine(self, default: Engine, name: str | None, *, phrases: bool) -> Engine:
        """The engine called `name` (None: `default`), with what it needs for phrases if they are wanted.

        Raises `ModelError` or `EngineError`; who asks next tries again. May be cancelled, but for a load under way.
        """
        if name is None and not phrases:
            return default
        async with self._loading:
            if name is not None and name not in self._engines:
                self._engines[name] = await trio.to_thread.run_sync(self._load, name, abandon_on_cancel=False)
            engine = default if name is None else self._engines[name]
            if phrases:
                await trio.to_thread.run_sync(engine.load_phrases, abandon_on_cancel=False)
        return engine
