"""A call: its members, who hears what, and the finals that late joiners may still read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

import attrs

from trio_stt.dialects.events import Close, Presence, ServerEvent, StreamRequest, Transcript, Translation
from trio_stt.sessions.outbox import Outbox
from trio_stt.sessions.translate import CallTranslations, TranslationDesk

HISTORY_FINALS = 200
"""Finals that a session remembers for late joiners: the most that `history` may ask for."""

REPLACED = Close(4001, "replaced by a newer connection of this client")
READS_TOO_SLOWLY = Close(4008, "reads too slowly")


class Member:
    """One connected client as its session sees it. `request` holds its settings now in force."""

    def __init__(self, request: StreamRequest, outbox: Outbox[ServerEvent], stop: Callable[[Close], None]) -> None:
        """`stop` ends the client's connection with that close code; it returns at once."""
        self.request = request
        self.outbox = outbox
        self.stop = stop

    @property
    def client_id(self) -> str:
        """Who this is, unique in the session."""
        return self.request.client_id

    def deliver(self, event: ServerEvent) -> None:
        """Queues `event` if this client asked for its kind. Never waits; a client with a full outbox is closed 4008."""
        if isinstance(event, Transcript):
            if not self.request.transcript or not (event.is_final or self.request.partials):
                return
        elif isinstance(event, Translation):
            if not self.request.translation or not (event.is_final or self.request.partials):
                return
        elif isinstance(event, Presence) and not self.request.presence:
            return
        self.outbox.put(event)
        if self.outbox.overflowing:
            self.stop(READS_TOO_SLOWLY)


class Session:
    """The members of one call. Everything here happens between two checkpoints: nobody sees it half done."""

    def __init__(self, session_id: str, tenant: str = "", desk: TranslationDesk | None = None) -> None:
        """`desk`: where captions are translated; None: nowhere."""
        self.session_id = session_id
        self.tenant = tenant
        self._members: dict[str, Member] = {}
        self._history: deque[Transcript] = deque(maxlen=HISTORY_FINALS)
        self._translations = None if desk is None else CallTranslations(desk, lambda: self)
        self._translates_partials = desk is not None and desk.partials

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    def find(self, client_id: str) -> Member | None:
        """The member of that name."""
        return self._members.get(client_id)

    @property
    def wants_partials(self) -> bool:
        """Whether anybody would read a partial."""
        return any(
            member.request.partials
            and (member.request.transcript or (member.request.translation and self._translates_partials))
            for member in self._members.values()
        )

    def join(self, member: Member) -> None:
        """Adds `member` and sends it the history it asked for; an older connection of its client is closed 4001."""
        older = self._members.get(member.client_id)
        self._members[member.client_id] = member
        if older is not None:
            older.stop(REPLACED)
        else:
            self._announce("joined", member)
        if self._translations is not None:
            self._translations.joined(member)
        for final in self._recent(member):
            member.deliver(final)
            if self._translations is not None:
                self._translations.recall(member, final)

    def leave(self, member: Member) -> None:
        """Removes `member`, unless a newer connection has taken its place."""
        if self._members.get(member.client_id) is member:
            del self._members[member.client_id]
            self._announce("left", member)

    def publish(self, transcript: Transcript) -> None:
        """Sends a caption to every member that wants it; finals with text are remembered."""
        if transcript.is_final and transcript.text:
            self._history.append(transcript)
        for member in self:
            member.deliver(transcript)
        if self._translations is not None:
            self._translations.follow(transcript)

    async def wait_translated(self, stream_id: str) -> None:
        """Returns when what that stream said so far is translated, or given up. May be cancelled."""
        if self._translations is not None:
            await self._translations.wait_done(stream_id)

    def _announce(self, event: str, about: Member) -> None:
        for member in self:
            if member is not about:
                member.deliver(Presence(event, about.client_id))

    def _recent(self, member: Member) -> list[Transcript]:
        others = (final for final in reversed(self._history) if final.client_id != member.client_id)
        newest_first = list(islice(others, member.request.history))
        return [attrs.evolve(final, history=True) for final in reversed(newest_first)]


class Sessions:
    """The calls of this instance. A call begins with its first member and ends with its last.

    Tenants name their calls as they like: those of different tenants have nothing to do with each other.
    """

    def __init__(self, desk: TranslationDesk | None = None) -> None:
        """`desk`: where captions are translated; None: nowhere."""
        self._desk = desk
        self._sessions: dict[tuple[str, str], Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def find(self, tenant: str, session_id: str) -> Session | None:
        """That tenant's call of that name."""
        return self._sessions.get((tenant, session_id))

    def replaces(self, request: StreamRequest) -> bool:
        """Whether that client is connected to that call already, in the same role: speaking or listening."""
        session = self.find(request.tenant, request.session_id)
        older = None if session is None else session.find(request.client_id)
        return older is not None and older.request.speak == request.speak

    def join(self, member: Member) -> Session:
        """The call that `member` asked for, with it in it."""
        tenant, session_id = member.request.tenant, member.request.session_id
        session = self._sessions.setdefault((tenant, session_id), Session(session_id, tenant, self._desk))
        session.join(member)
        return session

    def leave(self, member: Member) -> None:
        """Removes `member` from its call, and the call when it is empty. Does nothing the second time."""
        tenant, session_id = member.request.tenant, member.request.session_id
        session = self.find(tenant, session_id)
        if session is not None:
            session.leave(member)
            if not len(session):
                del self._sessions[tenant, session_id]
