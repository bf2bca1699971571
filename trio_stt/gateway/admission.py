"""Who may connect: decided before a WebSocket is accepted, so that a refusal is a true HTTP answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.request import Refusal, language_unavailable, primary_subtag
from trio_stt.recognition.breaker import Breaker

RECONNECT_SHARE = 0.1
"""Places beyond the limit, as a share of it, for clients that take over from their older connection while that is still
captioning its last words."""

RETRY_AFTER_S = 2
"""What a refused client is told to wait when nothing better is known."""


class Readiness(Enum):
    """Whether this instance takes new clients."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Admission:
    """Counts what is connected and refuses what does not fit. Whoever is in stays in."""

    def __init__(
        self,
        *,
        languages: frozenset[str],
        max_speakers: int,
        max_listeners: int,
        session_max_clients: int,
        breaker: Breaker,
        replaces: Callable[[StreamRequest], bool],
    ) -> None:
        """`languages`: primary subtags that can be recognised. `replaces`: it takes over its own place."""
        self.readiness = Readiness.STARTING
        self.languages = languages
        self.max_speakers = max_speakers
        self.max_listeners = max_listeners
        self.speakers = 0
        self.listeners = 0
        self._session_max_clients = session_max_clients
        self._breaker = breaker
        self._replaces = replaces
        self._in_session: Counter[str] = Counter()

    @property
    def ready(self) -> bool:
        """Whether a new speaker would be let in, as far as the instance itself is concerned."""
        return self.readiness is Readiness.READY and self._breaker.admits

    def check(self, request: StreamRequest) -> Refusal | None:
        """Why this client is refused now, or None."""
        if request.speak and primary_subtag(request.language) not in self.languages:
            return language_unavailable(request.language)
        if self.readiness is not Readiness.READY:
            return _busy(self.readiness.value, f"this instance is {self.readiness.value}", RETRY_AFTER_S)
        if request.speak and not self._breaker.admits:
            wait = math.ceil(self._breaker.statistics().retry_after_s) + 1
            return _busy("recogniser_unavailable", "speech recognition is failing and will be tried again", wait)
        taken = self.speakers if request.speak else self.listeners
        limit = self.max_speakers if request.speak else self.max_listeners
        if self._replaces(request) and taken < limit + max(1, round(limit * RECONNECT_SHARE)):
            return None
        if request.speak and self.speakers >= self.max_speakers:
            return _busy("full", f"all {self.max_speakers} places for speakers are taken", RETRY_AFTER_S)
        if not request.speak and self.listeners >= self.max_listeners:
            return _busy("full", f"all {self.max_listeners} places for listeners are taken", RETRY_AFTER_S)
        if self._in_session[request.session_id] >= self._session_max_clients:
            return _busy("session_full", f"the session has {self._session_max_clients} clients already", RETRY_AFTER_S)
        return None

    @contextmanager
    def place(self, request: StreamRequest) -> Iterator[None]:
        """Holds a place for a client that was not refused, until the block is left."""
        self._in_session[request.session_id] += 1
        if request.speak:
            self.speakers += 1
        else:
            self.listeners += 1
        try:
            yield
        finally:
            self._in_session[request.session_id] -= 1
            if not self._in_session[request.session_id]:
                del self._in_session[request.session_id]
            if request.speak:
                self.speakers -= 1
            else:
                self.listeners -= 1


def _busy(code: str, message: str, retry_after_s: int) -> Refusal:
    return Refusal(503, code, f"{message}; try again in {retry_after_s} s", retry_after_s=retry_after_s)
