"""What each tenant may have at once, and how much sound it may send in a day."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.request import NAME, Refusal
from trio_stt.settings import Settings

RETRY_AFTER_S = 10
"""What a client is told to wait for which its tenant has no place left."""

RECONNECT_SHARE = 0.1
"""Places beyond a limit, as a share of it, for clients that take over from their older connection while that is still
captioning its last words."""

DAY_S = 86_400


class QuotaFileError(Exception):
    """The file with the tenants' own quotas cannot be used. The message says why."""


@frozen
class Quota:
    """Bounds of one tenant; 0: none. `members`: clients in one session; `audio_s_a_day`: received, in UTC days."""

    streams: int = 0
    listeners: int = 0
    sessions: int = 0
    members: int = 0
    audio_s_a_day: float = 0


def quotas_of(settings: Settings) -> Quotas:
    """What the settings say. Blocks: reads TENANT_QUOTAS_FILE. Raises `QuotaFileError`."""
    everybody = Quota(
        settings.tenant_max_streams,
        settings.tenant_max_listeners,
        settings.tenant_max_sessions,
        settings.session_max_clients,
        settings.tenant_audio_s_a_day,
    )
    file = settings.tenant_quotas_file
    return Quotas(everybody, {} if file is None else _read(file, everybody))


class Quotas:
    """Counts what tenants have on this instance. No tenant's numbers depend on another's."""

    def __init__(
        self, everybody: Quota, of_tenants: Mapping[str, Quota] | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """`everybody`: for tenants that `of_tenants` does not name. `now`: Unix seconds."""
        self._everybody = everybody
        self._of_tenants = of_tenants or {}
        self._now = now
        self._streams: Counter[str] = Counter()
        self._listeners: Counter[str] = Counter()
        self._sessions: Counter[str] = Counter()
        self._members: Counter[tuple[str, str]] = Counter()
        self._day = self._today()
        self._audio_s: dict[str, float] = {}

    def refusal(self, request: StreamRequest, *, replaces: bool = False, returns: bool = False) -> Refusal | None:
        """Why this client gets no place of its tenant's, or None. `replaces`: it takes over one that is counted.

        `returns`: to a stream that waits for it here; of these the tenant may have as many as `streams`.
        """
        quota = self.quota(request.tenant)
        if request.speak and self.is_used_up(request.tenant):
            message = f"the {quota.audio_s_a_day:g} s of audio that may be sent in a day (UTC) are used up"
            return Refusal(429, "quota_used_up", message, retry_after_s=self._rest_of_day_s())
        if returns:
            return None
        what, taken, most = (
            ("speaking streams", self._streams, quota.streams)
            if request.speak
            else ("listeners", self._listeners, quota.listeners)
        )
        if most and taken[request.tenant] >= with_room_for_reconnects(most, replaces):
            return _too_many("too_many_streams", f"all {most} {what} that there may be at once are connected")
        if replaces:
            return None
        members = self._members[request.tenant, request.session_id]
        if quota.members and members >= quota.members:
            return _too_many("session_full", f"the session has {quota.members} clients already")
        if quota.sessions and not members and self._sessions[request.tenant] >= quota.sessions:
            return _too_many("too_many_sessions", f"all {quota.sessions} sessions that there may be at once are open")
        return None

    @contextmanager
    def place(self, request: StreamRequest) -> Iterator[None]:
        """Counts a client until the block is left."""
        tenant, session = request.tenant, (request.tenant, request.session_id)
        kind = self._streams if request.speak else self._listeners
        kind[tenant] += 1
        self._sessions[tenant] += session not in self._members
        self._members[session] += 1
        try:
            yield
        finally:
            _less(kind, tenant)
            _less(self._members, session)
            if session not in self._members:
                _less(self._sessions, tenant)

    def spend(self, tenant: str, audio_s: float) -> None:
        """Counts audio that was received."""
        self._begin_day()
        self._audio_s[tenant] = self._audio_s.get(tenant, 0.0) + audio_s

    def is_used_up(self, tenant: str) -> bool:
        """Whether the tenant has sent today what it may."""
        most = self.quota(tenant).audio_s_a_day
        if not most:
            return False
        self._begin_day()
        return self._audio_s.get(tenant, 0.0) >= most

    def quota(self, tenant: str) -> Quota:
        """What holds for that tenant."""
        return self._of_tenants.get(tenant, self._everybody)

    def _begin_day(self) -> None:
        if self._day != self._today():
            self._day = self._today()
            self._audio_s.clear()

    def _today(self) -> int:
        return math.floor(self._now() / DAY_S)

    def _rest_of_day_s(self) -> int:
        return math.ceil(DAY_S - self._now() % DAY_S)


def with_room_for_reconnects(limit: int, replaces: bool) -> int:
    """The limit that holds for a client; `replaces`: it takes over from its older connection."""
    return limit + max(1, round(limit * RECONNECT_SHARE)) if replaces else limit


def _too_many(code: str, message: str) -> Refusal:
    return Refusal(429, code, f"{message}; try again in {RETRY_AFTER_S} s", retry_after_s=RETRY_AFTER_S)


def _less(counter: Counter[Any], key: object) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _read(file: Path, everybody: Quota) -> dict[str, Quota]:
    expected = f"TENANT_QUOTAS_FILE={file}: expected a JSON object of tenants, each an object"
    try:
        tenants = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise QuotaFileError(f"{expected}, but it cannot be read: {error}") from error
    if not isinstance(tenants, dict) or not all(isinstance(quota, dict) for quota in tenants.values()):
        raise QuotaFileError(f"{expected}.")
    known = {field.name for field in attrs.fields(Quota)}
    for tenant, changes in tenants.items():
        if not NAME.fullmatch(tenant):
            raise QuotaFileError(f"{expected}, but {tenant!r} is no tenant's name.")
        for name, value in changes.items():
            is_number = isinstance(value, int if name != "audio_s_a_day" else int | float)
            if name not in known or isinstance(value, bool) or not is_number or not 0 <= value < math.inf:
                names = ", ".join(sorted(known))
                raise QuotaFileError(
                    f"{expected} with {names}, numbers from 0 on, but {tenant!r} has {name}: {value!r}."
                )
    return {tenant: attrs.evolve(everybody, **changes) for tenant, changes in tenants.items()}
