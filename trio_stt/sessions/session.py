"""A call: its members here and on other instances, who hears what, and the finals that late joiners may still read."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final

import trio
from attrs import frozen

from trio_stt.dialects.events import Close, Presence, ServerEvent, StreamRequest, Transcript, Translation
from trio_stt.sessions.bus import (
    KEPT_ENTRIES,
    PRESENCE_S,
    Bus,
    BusEvent,
    Call,
    Here,
    Joined,
    Left,
    Outcome,
    Present,
    StoredFinal,
)
from trio_stt.sessions.history import History
from trio_stt.sessions.outbox import Outbox

REPLACED = Close(4001, "replaced by a newer connection of this client")
READS_TOO_SLOWLY = Close(4008, "reads too slowly")

CATCH_UP_S: Final = 0.3
"""The longest that the first member of a call here waits for what the bus has of it; what comes later is told then."""

REFRESH_EVERY_S: Final = PRESENCE_S / 3
"""How often the other instances are told who is still here."""

REMEMBERED_NAMES: Final = 2 * KEPT_ENTRIES
"""Finals and translations that are known to have been delivered; twice what the bus could bring again."""


def call_of(request: StreamRequest) -> Call:
    """The call that a client asks for."""
    return Call(request.tenant, request.session_id)


class Member:
    """One connected client as its session sees it. `request` holds its settings now in force."""

    def __init__(self, request: StreamRequest, outbox: Outbox[ServerEvent], stop: Callable[[Close], None]) -> None:
        """`stop` ends the client's connection with that close code; it returns at once."""
        self._request = request
        self.outbox = outbox
        self.stop = stop
        self.connection = secrets.token_hex(6)
        """Tells this connection of the client from its others."""
        self.order = 0
        """What the bus gave this connection; 0: nothing yet."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `request` has changed."""

    @property
    def request(self) -> StreamRequest:
        """The settings now in force."""
        return self._request

    @request.setter
    def request(self, request: StreamRequest) -> None:
        self._request = request
        self.on_change()

    @property
    def client_id(self) -> str:
        """Who this is, unique in the session."""
        return self._request.client_id

    @property
    def reads_partials(self) -> bool:
        """Whether it would read a partial."""
        return self._request.transcript and self._request.partials

    @property
    def languages(self) -> tuple[str, ...]:
        """What it wants translations into."""
        if not self._request.translation:
            return ()
        return tuple(dict.fromkeys((self._request.read_language, *self._request.target)))

    def deliver(self, event: ServerEvent) -> None:
        """Queues `event` if this client asked for its kind. Never waits; a client with a full outbox is closed 4008."""
        if isinstance(event, Transcript):
            if not self._request.transcript or not (event.is_final or self._request.partials):
                return
        elif isinstance(event, Translation):
            if event.language not in self.languages:
                return
        elif isinstance(event, Presence) and not self._request.presence:
            return
        self.outbox.put(event)
        if self.outbox.overflowing:
            self.stop(READS_TOO_SLOWLY)

    def present(self) -> Present:
        """How other instances see it."""
        return Present(self.client_id, self.connection, self.reads_partials, self.languages, self.order)


@frozen
class _Remote:
    """A client on another instance, and until when it counts as present without being heard of."""

    present: Present
    until: float


class Session:
    """The members of one call. What happens between two checkpoints nobody sees half done."""

    def __init__(self, call: Call, bus: Bus, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when the other instances should be told of a member anew."""
        self.call = call
        self.joining = 0
        """Clients that wait to become members."""
        self._bus = bus
        self._on_change = on_change
        self._members: dict[str, Member] = {}
        self._remote: dict[str, _Remote] = {}
        self._history = History()
        self._delivered: OrderedDict[Hashable, None] = OrderedDict()
        self._began = time.time()
        self._following = bus.follow(call, self._receive)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    @property
    def session_id(self) -> str:
        """The call's name, unique among its tenant's."""
        return self.call.session_id

    def find(self, client_id: str) -> Member | None:
        """The member of that name on this instance."""
        return self._members.get(client_id)

    @property
    def wants_partials(self) -> bool:
        """Whether anybody would read a partial, here or elsewhere."""
        return any(member.reads_partials for member in self._members.values()) or self._others_want_partials

    @property
    def wanted_languages(self) -> frozenset[str]:
        """Languages that anybody wants translations into, here or elsewhere."""
        here = {language for member in self._members.values() for language in member.languages}
        elsewhere = {language for remote in self._remote.values() for language in remote.present.languages}
        return frozenset(here | elsewhere)

    # ── members ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def wait_caught_up(self) -> None:
        """Returns when what the bus has of this call is known here, or it takes too long. May be cancelled."""
        if self._bus.up:
            with trio.move_on_after(CATCH_UP_S):
                await self._following.caught_up.wait()

    def join(self, member: Member) -> None:
        """Adds `member` and sends it the history it asked for; an older connection of its client is closed 4001."""
        older = self._members.get(member.client_id)
        self._members[member.client_id] = member
        member.on_change = self._on_change
        if older is not None:
            older.stop(REPLACED)
        elif member.client_id not in self._remote:
            self._tell_presence("joined", member.client_id)
        for event in self._history.recent(member.request.history, besides=member.client_id):
            member.deliver(event)

    async def announce(self, member: Member) -> None:
        """Tells the other instances that `member` came, if the bus is up. May be cancelled."""
        order = await self._bus.announce(self.call, member.present())
        if order is Outcome.DOWN:
            return
        member.order = order
        remote = self._remote.get(member.client_id)
        if remote is not None:
            self._replace_if_older(member, remote.present)

    def leave(self, member: Member) -> None:
        """Removes `member`, unless a newer connection has taken its place."""
        if self._members.get(member.client_id) is member:
            del self._members[member.client_id]
            self._bus.depart(self.call, member.present())
            if member.client_id not in self._remote:
                self._tell_presence("left", member.client_id)

    async def refresh(self) -> None:
        """Tells the other instances who is here; forgets who is there no more. May be cancelled."""
        for member in self:
            if not member.order and self.find(member.client_id) is member:
                await self.announce(member)
        known = [member.present() for member in self if member.order]
        heard = not known or await self._bus.refresh(self.call, known) is Outcome.STORED
        now = trio.current_time()
        if not (heard and self._bus.up):  # the others cannot be heard of: nobody leaves for that
            self._remote = {name: _Remote(remote.present, now + PRESENCE_S) for name, remote in self._remote.items()}
        for remote in tuple(self._remote.values()):
            if remote.until < now:
                self._forget(remote.present.client_id)

    def end(self) -> None:
        """Nothing is heard of the call any more."""
        self._following.close()

    # ── what members hear ────────────────────────────────────────────────────────────────────────────────────────

    def publish_partial(self, partial: Transcript) -> None:
        """Sends a partial to everybody who reads partials, here and elsewhere."""
        for member in self:
            member.deliver(partial)
        if self._others_want_partials:
            self._bus.publish_partial(self.call, partial)

    def deliver(self, event: Transcript | Translation) -> bool:
        """Sends a final or its translation to the members here, once however often it comes; finals are remembered."""
        if not self._is_new(event):
            return False
        self._history.add(event)
        for member in self:
            member.deliver(event)
        return True

    def _is_new(self, event: Transcript | Translation) -> bool:
        name = _name_of(event)
        if name in self._delivered:
            return False
        self._delivered[name] = None
        if len(self._delivered) > REMEMBERED_NAMES:
            self._delivered.popitem(last=False)
        return True

    @property
    def _others_want_partials(self) -> bool:
        return any(remote.present.partials for remote in self._remote.values())

    # ── what comes from the bus ──────────────────────────────────────────────────────────────────────────────────

    def _receive(self, events: Sequence[BusEvent], earlier: bool) -> None:
        missed = []
        for event in events:
            match event:
                case StoredFinal() | Translation():
                    kept = event.final if isinstance(event, StoredFinal) else event
                    if not (earlier and kept.timestamp < self._began):
                        self.deliver(kept)
                    elif self._is_new(kept):
                        self._history.add(kept)
                        missed.append(kept.segment_id)
                case Transcript():
                    self._receive_partial(event)
                case Joined():
                    self._receive_present(event.present)
                case Here():
                    for present in event.presents:
                        self._receive_present(present)
                case Left():
                    remote = self._remote.get(event.client_id)
                    if remote is not None and remote.present.connection == event.connection:
                        self._forget(event.client_id)
        if missed:
            self._tell_history(missed)

    def _receive_partial(self, partial: Transcript) -> None:
        if partial.segment_id in self._delivered:  # it was overtaken by its final
            return
        for member in self:
            member.deliver(partial)

    def _tell_history(self, segment_ids: Sequence[str]) -> None:
        """To those who joined before the bus had told what was said before."""
        for member in self:
            for event in self._history.recent(member.request.history, besides=member.client_id, among=segment_ids):
                member.deliver(event)

    def _receive_present(self, present: Present) -> None:
        known = self._remote.get(present.client_id)
        if known is not None and known.present.order > present.order:
            return
        self._remote[present.client_id] = _Remote(present, trio.current_time() + PRESENCE_S)
        member = self._members.get(present.client_id)
        if member is not None:
            self._replace_if_older(member, present)
        elif known is None:
            self._tell_presence("joined", present.client_id)

    def _replace_if_older(self, member: Member, present: Present) -> None:
        if member.order and present.order > member.order:
            member.stop(REPLACED)

    def _forget(self, client_id: str) -> None:
        del self._remote[client_id]
        if client_id not in self._members:
            self._tell_presence("left", client_id)

    def _tell_presence(self, event: str, client_id: str) -> None:
        for member in self:
            if member.client_id != client_id:
                member.deliver(Presence(event, client_id))


def _name_of(event: Transcript | Translation) -> Hashable:
    return (event.segment_id, event.language) if isinstance(event, Translation) else event.segment_id


class Sessions:
    """The calls of this instance. A call begins here with its first member here and ends with its last."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._sessions: dict[Call, Session] = {}
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def replaces(self, request: StreamRequest) -> bool:
        """Whether that client is connected to that call here already, in the same role: speaking or listening."""
        session = self._sessions.get(call_of(request))
        older = None if session is None else session.find(request.client_id)
        return older is not None and older.request.speak == request.speak

    def __contains__(self, call: Call) -> bool:
        return call in self._sessions

    async def join(self, member: Member) -> Session:
        """The call that `member` asked for, with it in it; leave it in any case.

        Waits at most `CATCH_UP_S` for what was said before, and for the bus to hear of it. May be cancelled.
        """
        call = call_of(member.request)
        session = self._sessions.get(call)
        if session is None:
            session = self._sessions[call] = Session(call, self._bus, self._change)
        session.joining += 1
        try:
            await session.wait_caught_up()
            session.join(member)
        finally:
            session.joining -= 1
            self._end_if_empty(session)
        await session.announce(member)
        return session

    def leave(self, member: Member) -> None:
        """Removes `member` from its call, and the call when it is empty. Does nothing the second time."""
        session = self._sessions.get(call_of(member.request))
        if session is not None:
            session.leave(member)
            self._end_if_empty(session)

    async def run(self) -> None:
        """Keeps the other instances informed of who is here. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_bus)
            while True:
                with trio.move_on_after(REFRESH_EVERY_S):
                    await self._changed.wait()
                self._changed = trio.Event()
                for session in self:
                    await session.refresh()

    async def _watch_bus(self) -> None:
        generation = 0
        while True:
            generation = await self._bus.wait_up(generation)
            self._change()

    def _change(self) -> None:
        self._changed.set()

    def _end_if_empty(self, session: Session) -> None:
        if not len(session) and not session.joining and self._sessions.get(session.call) is session:
            del self._sessions[session.call]
            session.end()
