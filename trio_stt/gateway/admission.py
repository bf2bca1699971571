"""Who may connect: decided before a WebSocket is accepted, so that a refusal is a true HTTP answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

import trio

from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.request import Refusal, language_unavailable, primary_subtag
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.capacity import Capacity
from trio_stt.recognition.degradation import Degradation
from trio_stt.sessions.bus import Call
from trio_stt.sessions.session import call_of

RECONNECT_SHARE = 0.1
"""Places beyond the limit, as a share of it, for clients that take over from their older connection while that is still
captioning its last words. Load refuses none of these: overload shows as lag then."""

RETRY_AFTER_S = 2
"""What a refused client is told to wait when nothing better is known."""

MAX_RETRY_AFTER_S = 30
"""The longest that a client is told to wait while many are refused."""

REFUSALS_REMEMBERED_S = 10.0
"""Refusals are forgotten with this time constant."""

REFUSALS_FOR_A_SECOND = 10
"""So many refusals remembered make those who come wait a second longer: a crowd that tries again costs little then."""


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
        breakers: Mapping[str, Breaker],
        max_speakers: int,
        max_listeners: int,
        session_max_clients: int,
        capacity: Capacity,
        degradation: Degradation,
        replaces: Callable[[StreamRequest], bool],
        gated: bool = True,
    ) -> None:
        """`breakers`: by language (primary subtag) that can be recognised. `replaces`: it takes over its own place.

        `gated`: the speech gate keeps silence away from the recogniser, unless a stream says otherwise.
        """
        self.readiness = Readiness.STARTING
        self.max_speakers = max_speakers
        self.max_listeners = max_listeners
        self.speakers = 0
        self.listeners = 0
        self._breakers = breakers
        self._session_max_clients = session_max_clients
        self._capacity = capacity
        self._degradation = degradation
        self._replaces = replaces
        self._gated = gated
        self._in_session: Counter[Call] = Counter()
        self._retries = _Retries()

    @property
    def ready(self) -> bool:
        """Whether a new speaker would be let in, as far as the instance itself is concerned."""
        return self.readiness is Readiness.READY and any(breaker.admits for breaker in self._breakers.values())

    @property
    def languages(self) -> frozenset[str]:
        """Primary subtags of the languages that can be recognised."""
        return frozenset(self._breakers)

    @property
    def speakers_limit(self) -> int:
        """How many speakers there would be if as many came as are let in now."""
        room = self._capacity.room(continuous=not self._gated) if self._degradation.level.admits else 0
        return max(self.speakers, min(self.max_speakers, self.speakers + room))

    def check(self, request: StreamRequest, *, continuous: bool = False) -> Refusal | None:
        """Why this client is refused now, or None. `continuous`: it asks to be decoded without a speech gate."""
        language = primary_subtag(request.language)
        if request.speak and language not in self._breakers:
            return language_unavailable(request.language)
        if self.readiness is not Readiness.READY:
            return _busy(self.readiness.value, f"this instance is {self.readiness.value}", RETRY_AFTER_S)
        if request.speak and not self._breakers[language].admits:
            wait = math.ceil(self._breakers[language].statistics().retry_after_s) + 1
            return _busy("recogniser_unavailable", "speech recognition is failing and will be tried again", wait)
        if self._replaces(request):
            # It is heard already, by its older connection, and costs little more until that one is gone.
            taken, limit = (self.speakers, self.max_speakers) if request.speak else (self.listeners, self.max_listeners)
            if taken < limit + max(1, round(limit * RECONNECT_SHARE)):
                return None
        why = self._full_for_speakers(continuous) if request.speak else self._full_for_listeners()
        if why is not None:
            return _busy("full", why, self._retries.next_wait_s())
        if self._in_session[call_of(request)] >= self._session_max_clients:
            return _busy("session_full", f"the session has {self._session_max_clients} clients already", RETRY_AFTER_S)
        return None

    @contextmanager
    def place(self, request: StreamRequest, stream_id: str, *, continuous: bool = False) -> Iterator[None]:
        """Holds a place for a client that was not refused, until the block is left."""
        self._in_session[call_of(request)] += 1
        if request.speak:
            self.speakers += 1
            self._capacity.enter(stream_id, continuous=continuous or not self._gated)
        else:
            self.listeners += 1
        try:
            yield
        finally:
            self._in_session[call_of(request)] -= 1
            if not self._in_session[call_of(request)]:
                del self._in_session[call_of(request)]
            if request.speak:
                self.speakers -= 1
                self._capacity.leave(stream_id)
            else:
                self.listeners -= 1

    def _full_for_speakers(self, continuous: bool) -> str | None:
        if self.speakers >= self.max_speakers:
            return f"all {self.max_speakers} places for speakers are taken"
        if not self._degradation.level.admits:
            return f"this instance is late with the captions of its {self.speakers} speakers"
        if not self._capacity.room(continuous=continuous or not self._gated):
            return f"this instance has no room for another speaker besides its {self.speakers}"
        return None

    def _full_for_listeners(self) -> str | None:
        if self.listeners >= self.max_listeners:
            return f"all {self.max_listeners} places for listeners are taken"
        return None


class _Retries:
    """How long those who find no place are told to wait: the longer, the more of them there are."""

    def __init__(self) -> None:
        self._refused = 0.0
        self._at = -math.inf

    def next_wait_s(self) -> int:
        now = trio.current_time()
        self._refused = self._refused * math.exp((self._at - now) / REFUSALS_REMEMBERED_S) + 1
        self._at = now
        return min(MAX_RETRY_AFTER_S, RETRY_AFTER_S + round(self._refused) // REFUSALS_FOR_A_SECOND)


def _busy(code: str, message: str, retry_after_s: int) -> Refusal:
    return Refusal(503, code, f"{message}; try again in {retry_after_s} s", retry_after_s=retry_after_s)
