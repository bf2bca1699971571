"""Who may connect: decided before a WebSocket is accepted, so that a refusal is a true HTTP answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Protocol

import trio

from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.request import Refusal, language_unavailable, primary_subtag
from trio_stt.gateway.parking import Parking
from trio_stt.gateway.quotas import Quotas, with_room_for_reconnects
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.capacity import Capacity
from trio_stt.recognition.degradation import Degradation

RETRY_AFTER_S = 2
"""What a refused client is told to wait when nothing better is known."""

MAX_RETRY_AFTER_S = 30
"""The longest that a client is told to wait while many are refused."""

BEHIND_HOLD_S = 5.0
"""New speakers are let in so long after the last resumed stream was behind: they would else bring that back at once."""

REFUSALS_REMEMBERED_S = 10.0
"""Refusals are forgotten with this time constant."""

REFUSALS_FOR_A_SECOND = 10
"""So many refusals remembered make those who come wait a second longer: a crowd that tries again costs little then."""


class Readiness(Enum):
    """Whether this instance takes new clients."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Model(Protocol):
    """A speech model, as far as it decides who is let in."""

    @property
    def breaker(self) -> Breaker:
        """Open while it fails."""


class Models(Protocol):
    """The speech models of the instance, by language (primary subtag)."""

    def find(self, language: str) -> Model | None:
        """The model of a language; None: none is installed."""

    @property
    def admits(self) -> bool:
        """Whether any of those that are loaded can be used now."""


class Admission:
    """Counts what is connected and refuses what does not fit. Whoever is in stays in.

    A stream whose client is away holds no place: others may have it. Its client is let in again all the same.
    """

    def __init__(
        self,
        *,
        models: Models,
        max_speakers: int,
        max_listeners: int,
        quotas: Quotas,
        capacity: Capacity,
        degradation: Degradation,
        replaces: Callable[[StreamRequest], bool],
        behind: Callable[[], int] = lambda: 0,
        gated: bool = True,
    ) -> None:
        """`replaces`: whether that client takes over its own place. `behind`: how many streams, here and on the other
        instances, lost their instance lately and are behind: they were here before whoever is new.

        `gated`: the speech gate keeps silence away from the recogniser, unless a stream says otherwise.
        """
        self.readiness = Readiness.STARTING
        self.max_speakers = max_speakers
        self.max_listeners = max_listeners
        self.speakers = 0
        self.listeners = 0
        self.parked_hold_places = False
        """Where recognisers are what is short: a stream keeps its own while its client is away."""
        self._parking = Parking(
            most=lambda: self.max_speakers, most_of_tenant=lambda tenant: quotas.quota(tenant).streams
        )
        self._models = models
        self._quotas = quotas
        self._capacity = capacity
        self._degradation = degradation
        self._replaces = replaces
        self._behind = behind
        self._behind_at = -math.inf
        self._gated = gated
        self._retries = _Retries()

    @property
    def ready(self) -> bool:
        """Whether a new speaker would be let in, as far as the instance itself is concerned."""
        return self.readiness is Readiness.READY and self._models.admits

    @property
    def parked(self) -> int:
        """Streams whose clients are away and may come back; not among the `speakers`."""
        return len(self._parking)

    @property
    def _places(self) -> int:
        return max(0, self.max_speakers - self.parked) if self.parked_hold_places else self.max_speakers

    def knows(self, language: str) -> bool:
        """Whether that language (BCP-47) can be recognised: whether a model is installed for it."""
        return self._models.find(primary_subtag(language)) is not None

    @property
    def speakers_limit(self) -> int:
        """How many speakers there would be if as many came as are let in now, or soon: when none are behind."""
        room = self._capacity.room(continuous=not self._gated) if self._degradation.level.admits else 0
        return max(self.speakers, min(self._places, self.speakers + room))

    def check(self, request: StreamRequest, *, continuous: bool = False) -> Refusal | None:
        """Why this client is refused now, or None. `continuous`: it asks to be decoded without a speech gate."""
        language = primary_subtag(request.language)
        model = self._models.find(language) if request.speak else None
        if request.speak and model is None:
            return language_unavailable(request.language)
        if self.readiness is not Readiness.READY:
            return _busy(self.readiness.value, f"this instance is {self.readiness.value}", RETRY_AFTER_S)
        if model is not None and not model.breaker.admits:
            wait = math.ceil(model.breaker.statistics().retry_after_s) + 1
            return _busy("recogniser_unavailable", "speech recognition is failing and will be tried again", wait)
        # Who resumes is heard already as well, here or on an instance that is gone.
        returns = self._parking.expects(request)
        replaces = returns or request.resume or self._replaces(request)
        refusal = self._quotas.refusal(request, replaces=replaces, returns=returns)
        if refusal is not None or returns:
            return refusal
        if replaces:
            # It is heard already, by its older connection, and costs little more until that one is gone. Load refuses
            # none of these: overload shows as lag then.
            taken, limit = (self.speakers, self._places) if request.speak else (self.listeners, self.max_listeners)
            if taken < with_room_for_reconnects(limit, replaces):
                return None
        why = self._full_for_speakers(language, continuous) if request.speak else self._full_for_listeners()
        return None if why is None else _busy("full", why, self._retries.next_wait_s())

    def most_users(self, request: StreamRequest, limit: int) -> float:
        """How many streams may use a speech model, that of this client among them; `limit` is for newcomers.

        A client that comes back is one of them already: its older connection, or its parked stream, is about to end.
        """
        if self._parking.expects(request) or self._replaces(request):
            return math.inf
        return with_room_for_reconnects(limit, request.resume)

    @contextmanager
    def place(self, request: StreamRequest, stream_id: str, *, continuous: bool = False) -> Iterator[Place]:
        """Holds a place for a client that was not refused, until the block is left or it is parked."""
        with ExitStack() as held:
            held.enter_context(self._parking.come_back(request))
            held.enter_context(self._counted(request, stream_id, continuous))
            held.enter_context(self._quotas.place(request))
            yield Place(self._parking, request, held)

    @contextmanager
    def _counted(self, request: StreamRequest, stream_id: str, continuous: bool) -> Iterator[None]:
        if request.speak:
            self.speakers += 1
            language = primary_subtag(request.language)
            self._capacity.enter(stream_id, continuous=continuous or not self._gated, language=language)
        else:
            self.listeners += 1
        try:
            yield
        finally:
            if request.speak:
                self.speakers -= 1
                self._capacity.leave(stream_id)
            else:
                self.listeners -= 1

    def _full_for_speakers(self, language: str, continuous: bool) -> str | None:
        if self.speakers >= self._places:
            return f"all {self.max_speakers} places for speakers are taken"
        if not self._degradation.level.admits:
            return f"this instance is late with the captions of its {self.speakers} speakers"
        if self._others_first():
            return "speakers who lost their instance are behind and come first"
        if not self._capacity.room(continuous=continuous or not self._gated, language=language):
            return f"this instance has no room for another speaker besides its {self.speakers}"
        return None

    def _others_first(self) -> bool:
        now = trio.current_time()
        if self._behind():
            self._behind_at = now
        return now - self._behind_at < BEHIND_HOLD_S

    def _full_for_listeners(self) -> str | None:
        if self.listeners >= self.max_listeners:
            return f"all {self.max_listeners} places for listeners are taken"
        return None


class Place:
    """What a client holds."""

    def __init__(self, parking: Parking, request: StreamRequest, held: ExitStack) -> None:
        """`held`: is closed when the place is left, by whatever road."""
        self._parking = parking
        self._request = request
        self._held = held

    def park(self, end: Callable[[], None]) -> None:
        """Its client is away: others may have the place. Not after it was left.

        `end` is called if too many streams are parked: it finishes this one, and returns at once.
        """
        self._held.close()
        self._held.enter_context(self._parking.park(self._request, end))


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
