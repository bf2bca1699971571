"""A call: its members here and on other instances, who hears what, and the finals that late joiners may still read."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

import attrs
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
from trio_stt.sessions.translate import CallTranslations, TranslationDesk, languages_of

REPLACED = Close(4001, "replaced by a newer connection of this client")
RESUMED = Close(4001, "the stream goes on in a newer connection of this client")
READS_TOO_SLOWLY = Close(4008, "reads too slowly")

CATCH_UP_S: Final = 0.3
"""The longest that the first member of a call here waits for what the bus has of it; what comes later is told then."""

REFRESH_EVERY_S: Final = PRESENCE_S / 3
"""How often the other instances are told who is still here."""

LATE_S: Final = 5.0
"""A final that is older was held up on its way: by an outage of the bus."""

REFRESH_PAUSE_S: Final = 0.1
"""The other instances are told of changes at most so often."""

REMEMBERED_NAMES: Final = 2 * KEPT_ENTRIES
"""Finals and translations that are known to have been delivered; twice what the bus could bring again."""


def call_of(request: StreamRequest) -> Call:
    """The call that a client asks for."""
    return Call(request.tenant, request.session_id)


def _ended(close: Close) -> None:
    """A connection that has ended is not closed again."""


class Member:
    """One connected client as its session sees it. `request` holds its settings now in force."""

    def __init__(
        self, request: StreamRequest, outbox: Outbox[ServerEvent], stop: Callable[[Close], None], stream_id: str = ""
    ) -> None:
        """`stop` ends the client's connection with that close code; it returns at once."""
        self.stream_id = stream_id
        """That it speaks in."""
        self.goes_on_with: str | None = None
        """The stream that it took from an earlier connection."""
        self.handed_over = False
        """Another connection is about to take its place: until then it is not gone, though its connection may be."""
        self._request = request
        self.outbox = outbox
        self.stop = stop
        self.connection = secrets.token_hex(6)
        """Tells this connection of the client from its others."""
        self.told: Present | None = None
        """What the other instances were last told of it, or are about to be."""
        self.joined_at = 0.0
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

    def let_go(self) -> None:
        """The connection has ended: it is referred to no more, so that its memory is free at once."""
        self.stop = _ended
        self.on_change = lambda: None

    def deliver(self, event: ServerEvent) -> None:
        """Queues `event` if this client asked for its kind. Never waits; a client with a full outbox is closed 4008."""
        if isinstance(event, Transcript):
            if not self._request.transcript or not (event.is_final or self._request.partials):
                return
        elif isinstance(event, Translation):
            wanted = event.language in languages_of(self._request, spoken=event.source_language)
            if not wanted or not (event.is_final or self._request.partials):
                return
        elif isinstance(event, Presence) and not self._request.presence:
            return
        self.outbox.put(event, late=_is_late(event))
        if self.outbox.overflowing:
            self.stop(READS_TOO_SLOWLY)


def _is_late(event: ServerEvent) -> bool:
    """Whether it comes with many others: as history, or because the bus was away. The reader is not to blame then."""
    if not isinstance(event, Transcript | Translation):
        return False
    return event.history or (event.is_final and time.time() - event.timestamp > LATE_S)


@frozen
class _Remote:
    """A client on another instance, and until when it counts as present without being heard of."""

    present: Present
    until: float


class Session:
    """The members of one call. What happens between two checkpoints nobody sees half done."""

    def __init__(
        self,
        call: Call,
        bus: Bus,
        on_change: Callable[[Session], None] = lambda session: None,
        desk: TranslationDesk | None = None,
        unconfirmed: Iterable[Transcript | Translation] = (),
    ) -> None:
        """`on_change` is called with this when the other instances should be told of a member anew.

        `desk`: where captions are translated; None: nowhere. `unconfirmed`: what was said in this call here before,
        and the bus does not have yet.
        """
        self.call = call
        self.joining = 0
        """Clients that wait to become members."""
        self.history = History()
        """What late joiners may still read."""
        self._bus = bus
        self._on_change = on_change
        self._members: dict[str, Member] = {}
        self._remote: dict[str, _Remote] = {}
        self._translations = None if desk is None else CallTranslations(desk, self)
        self._translates_partials = desk is not None and desk.partials
        self._delivered: OrderedDict[Hashable, None] = OrderedDict()
        self._began = time.time()
        for event in unconfirmed:  # the bus will not bring what this instance itself wrote
            if self._is_new(event):
                self.history.add(event)
        self._following = bus.follow(call, self._receive)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    @property
    def tenant(self) -> str:
        """Whose call it is."""
        return self.call.tenant

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
        return any(self._reads_partials(member) for member in self) or self._others_want_partials

    @property
    def wanted_languages(self) -> frozenset[str]:
        """Languages that anybody wants translations into, here or elsewhere."""
        here = {language for member in self for language in languages_of(member.request)}
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
        member.on_change = partial(self._member_changed, member)
        member.joined_at = trio.current_time()
        if older is not None:
            older.stop(RESUMED if member.goes_on_with == older.stream_id else REPLACED)
        elif member.client_id not in self._remote:
            self._tell_presence("joined", member.client_id)
        member.told = attrs.evolve(self._present(member), order=0)
        self._prepare(languages_of(member.request))
        self._tell_history(member)

    async def announce(self, member: Member) -> None:
        """Tells the other instances that `member` came, if the bus is up. May be cancelled."""
        order = await self._bus.announce(self.call, self._present(member), trio.current_time() - member.joined_at)
        if order is Outcome.DOWN:
            return
        member.order = order
        remote = self._remote.get(member.client_id)
        if remote is not None:
            self._replace_if_older(member, remote.present)

    def leave(self, member: Member) -> None:
        """Removes `member`, unless a newer connection has taken its place."""
        if self._members.get(member.client_id) is member and not member.handed_over:
            del self._members[member.client_id]
            self._bus.depart(self.call, self._present(member))
            if member.client_id not in self._remote:
                self._tell_presence("left", member.client_id)

    async def refresh(self) -> None:
        """Tells the other instances who is here; forgets who is there no more. May be cancelled."""
        for member in self:
            if not member.order and self.find(member.client_id) is member:
                await self.announce(member)
        known = [self._present(member) for member in self if member.order]
        heard = not known or await self._bus.refresh(self.call, known) is Outcome.STORED
        now = trio.current_time()
        if not (heard and self._bus.up):  # the others cannot be heard of: nobody leaves for that
            self._remote = {name: _Remote(remote.present, now + PRESENCE_S) for name, remote in self._remote.items()}
        for remote in tuple(self._remote.values()):
            if remote.until < now:
                self._forget(remote.present.client_id)

    def _member_changed(self, member: Member) -> None:
        present = attrs.evolve(self._present(member), order=0)
        if present != member.told:
            member.told = present
            self._prepare(languages_of(member.request))
            self._on_change(self)

    def _reads_partials(self, member: Member) -> bool:
        request = member.request
        return request.partials and (request.transcript or (request.translation and self._translates_partials))

    def _present(self, member: Member) -> Present:
        languages = languages_of(member.request)
        return Present(member.client_id, member.connection, self._reads_partials(member), languages, member.order)

    def end(self) -> None:
        """Nothing is heard of the call any more, nor translated here: who listens elsewhere is served there."""
        self._following.close()
        self._translations = None  # else they and this would keep each other

    # ── what members hear ────────────────────────────────────────────────────────────────────────────────────────

    def publish_partial(self, caption: Transcript) -> None:
        """Sends a partial to everybody who reads partials, here and elsewhere."""
        self._deliver_partial(caption)
        if self._others_want_partials:
            self._bus.publish_partial(self.call, caption)

    def deliver(self, event: Transcript | Translation) -> bool:
        """Sends a final or its translation to the members here, once however often it comes; finals are remembered."""
        if not self._is_new(event):
            return False
        self.history.add(event)
        for member in self:
            member.deliver(event)
        if self._translations is not None:
            self._translations.delivered(event)
        return True

    # ── translations ─────────────────────────────────────────────────────────────────────────────────────────────

    def translate(self, final: Transcript, publish: Callable[[Translation], Awaitable[None]]) -> None:
        """Has a final that was spoken here translated, once into each language that anybody wants. Returns at once.

        `publish` brings each translation to everybody.
        """
        if self._translations is not None:
            self._translations.translate(final, publish)

    async def publish_translation(self, translation: Translation) -> None:
        """Brings a translation of what was spoken elsewhere to everybody. May be cancelled."""
        if await self._bus.publish_translation(self.call, translation) is not Outcome.ALREADY_STORED:
            self.deliver(translation)

    def recall(self, translation: Translation, readers: Sequence[Member]) -> None:
        """Remembers a translation that only these late joiners asked for, and sends it to them as history."""
        if self._is_new(translation):  # else it came meanwhile, to them too
            self.history.add(translation)
            for member in readers:
                member.deliver(attrs.evolve(translation, history=True))

    async def wait_translated(self, stream_id: str) -> None:
        """Returns when what that stream said so far is translated, or given up. May be cancelled."""
        if self._translations is not None:
            await self._translations.wait_done(stream_id)

    def _prepare(self, languages: Iterable[str]) -> None:
        if self._translations is not None:
            self._translations.prepare(languages)

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
                        if self.deliver(kept) and self._translations is not None and isinstance(kept, Transcript):
                            self._translations.expect(kept)
                    elif self._is_new(kept):
                        self.history.add(kept)
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
        if missed:  # by those who joined before the bus had told what was said before
            for member in self:
                self._tell_history(member, among=missed)

    def _receive_partial(self, caption: Transcript) -> None:
        if caption.segment_id not in self._delivered:  # else it was overtaken by its final
            self._deliver_partial(caption)

    def _deliver_partial(self, caption: Transcript) -> None:
        for member in self:
            member.deliver(caption)
        if self._translations is not None:
            self._translations.follow_partial(caption)

    def _tell_history(self, member: Member, *, among: Sequence[str] | None = None) -> None:
        """What it asked for of what was said before it came; `among`: of these segments only."""
        events = self.history.recent(member.request.history, besides=member.client_id, among=among)
        for event in events:
            member.deliver(event)
        if self._translations is not None:
            self._translations.recall(member, [event for event in events if isinstance(event, Transcript)])

    def _receive_present(self, present: Present) -> None:
        known = self._remote.get(present.client_id)
        if known is not None and known.present.order > present.order:
            return
        self._remote[present.client_id] = _Remote(present, trio.current_time() + PRESENCE_S)
        self._prepare(present.languages)
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
    """The calls of this instance. A call begins here with its first member here and ends with its last.

    Tenants name their calls as they like: those of different tenants have nothing to do with each other.
    """

    def __init__(
        self,
        bus: Bus,
        desk: TranslationDesk | None = None,
        unconfirmed: Callable[[Call], Iterable[Transcript | Translation]] = lambda call: (),
    ) -> None:
        """`desk`: where captions are translated; None: nowhere. `unconfirmed`: what of a call the bus may not have."""
        self._bus = bus
        self._desk = desk
        self._unconfirmed = unconfirmed
        self._sessions: dict[Call, Session] = {}
        self._changed: dict[Session, None] = {}  # of whose members the others are to be told
        self._some_changed = trio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def find(self, tenant: str, session_id: str) -> Session | None:
        """That tenant's call of that name."""
        return self._sessions.get(Call(tenant, session_id))

    def replaces(self, request: StreamRequest) -> bool:
        """Whether that client is connected to that call here already, in the same role: speaking or listening."""
        session = self._sessions.get(call_of(request))
        older = None if session is None else session.find(request.client_id)
        return older is not None and older.request.speak == request.speak

    def __contains__(self, call: Call) -> bool:
        return call in self._sessions

    async def join(self, member: Member, *, is_gone: Callable[[], bool] = lambda: False) -> Session:
        """The call that `member` asked for, with it in it; leave it in any case.

        `is_gone`: asked before anybody is told; then `trio.EndOfChannel` is raised, and it replaces no connection.
        Waits at most `CATCH_UP_S` for what was said before, and for the bus to hear of it. May be cancelled.
        """
        call = call_of(member.request)
        session = self._sessions.get(call)
        if session is None:
            session = Session(call, self._bus, self._change, self._desk, self._unconfirmed(call))
            self._sessions[call] = session
        session.joining += 1
        try:
            await session.wait_caught_up()
            if is_gone():
                raise trio.EndOfChannel
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
        member.let_go()

    async def run(self) -> None:
        """Keeps the other instances informed of who is here. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_bus)
            all_due = trio.current_time()
            while True:
                with trio.move_on_at(all_due):
                    await self._some_changed.wait()
                await trio.sleep(REFRESH_PAUSE_S)
                if trio.current_time() >= all_due:
                    all_due = trio.current_time() + REFRESH_EVERY_S
                    self._changed = dict.fromkeys(self)
                changed, self._changed = self._changed, {}
                self._some_changed = trio.Event()
                while changed:  # no call that is over meanwhile is kept here until the next round
                    await changed.popitem()[0].refresh()

    async def _watch_bus(self) -> None:
        generation = 0
        while True:
            generation = await self._bus.wait_up(generation)
            for session in self:
                self._change(session)

    def _change(self, session: Session) -> None:
        self._changed[session] = None
        self._some_changed.set()

    def _end_if_empty(self, session: Session) -> None:
        if not len(session) and not session.joining and self._sessions.get(session.call) is session:
            del self._sessions[session.call]
            session.end()
