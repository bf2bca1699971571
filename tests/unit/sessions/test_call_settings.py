"""However the members of a call come, go, are replaced and change their settings: each hears every final that it
should, once and in order."""

import time

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.unit.sessions.calls import Client
from tests.unit.sessions.trio_machine import TrioMachine
from trio_stt.dialects.events import Transcript
from trio_stt.sessions.history import HISTORY_FINALS
from trio_stt.sessions.session import REPLACED

NAMES = st.sampled_from("abcd")


class Connected(Client):
    """One connection: what the session gave it, and what it should have been given."""

    def __init__(self, number: int, name: str, **asked) -> None:
        super().__init__(name, **asked)
        self.number = number
        self.name = name
        self.finals: list[tuple[str, bool]] = []  # what it should have: text, and whether it is history
        self.told: list[tuple[str, str]] = []  # the presence that it should have been told

    def all_of(self, kind: type) -> list:
        return [event for event in self.received if isinstance(event, kind)]


class Settings(TrioMachine):
    """The model: who is in, with which settings, and what was said since the call began."""

    def __init__(self) -> None:
        super().__init__()
        self.present: dict[str, Connected] = {}
        self.clients: list[Connected] = []
        self.said: list[Transcript] = []  # finals with text since the call began
        self.number = 0

    @rule(
        name=NAMES,
        history=st.sampled_from([0, 1, 3, HISTORY_FINALS]),
        transcript=st.booleans(),
        partials=st.booleans(),
        presence=st.booleans(),
        speak=st.booleans(),
    )
    def join(self, name: str, history: int, **asked) -> None:
        client = Connected(len(self.clients), name, history=history, **asked)
        older = self.present.get(name)
        if older is None:
            self._expect_presence("joined", name)
        others = [final.text for final in self.said[-HISTORY_FINALS:] if final.client_id != name]
        if asked["transcript"] and history:
            client.finals = [(text, True) for text in others[-history:]]
        self.do(lambda: self.instances[0].sessions.join(client.member))
        self.present[name] = client
        self.clients.append(client)
        if older is not None:
            assert older.closes == [REPLACED]

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Any connection, also one that was replaced, and any of them twice."""
        client = data.draw(st.sampled_from(self.clients))
        if self.present.get(client.name) is client:
            del self.present[client.name]
            self._expect_presence("left", client.name)
        self.do(lambda: self.instances[0].sessions.leave(client.member))

    @precondition(lambda self: self.present)
    @rule(
        data=st.data(),
        changes=st.fixed_dictionaries(
            {},
            optional={
                "transcript": st.booleans(),
                "partials": st.booleans(),
                "language": st.sampled_from(["en", "en-GB", "de"]),
                "read_language": st.sampled_from(["pt", "vi"]),
            },
        ),
    )
    def configure(self, data: st.DataObject, changes: dict) -> None:
        member = self._anybody(data).member
        self.do(lambda: setattr(member, "request", attrs.evolve(member.request, **changes)))

    @precondition(lambda self: self.present)
    @rule(data=st.data(), silent=st.booleans())
    def publish_final(self, data: st.DataObject, silent: bool) -> None:
        """A final of somebody who is in; an empty one is told but not remembered."""
        final = self._caption(self._anybody(data), is_final=True, silent=silent)
        for client in self.present.values():
            if client.member.request.transcript:
                client.finals.append((final.text, False))
        if final.text:
            self.said.append(final)
        self.do(lambda: self._store(final))

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def publish_partial(self, data: st.DataObject) -> None:
        partial = self._caption(self._anybody(data), is_final=False)
        wants = [client.member.request.transcript and client.member.request.partials for client in self._in]
        assert self._call.wants_partials == any(wants)
        before = [client.all_of(Transcript) for client in self._in]
        self.do(lambda: self._call.publish_partial(partial))
        for client, wanted, earlier in zip(self._in, wants, before, strict=True):
            assert (partial in client.all_of(Transcript)) == wanted
            assert wanted or client.all_of(Transcript) == earlier

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def publish_the_last_words_of_one_who_has_left(self, data: st.DataObject) -> None:
        """Its final comes when its connection is gone or replaced, while others are in."""
        client = data.draw(st.sampled_from(self.clients))
        if self.present:
            final = self._caption(client, is_final=True)
            for member in self.present.values():
                if member.member.request.transcript:
                    member.finals.append((final.text, False))
            self.said.append(final)
            self.do(lambda: self._store(final))

    @invariant()
    def nobody_misses_or_doubles_a_final(self) -> None:
        for client in self.clients:
            finals = [event for event in client.all_of(Transcript) if event.is_final]
            assert [(final.text, final.history) for final in finals] == client.finals

    @invariant()
    def whoever_asked_is_told_who_comes_and_goes(self) -> None:
        for client in self.clients:
            assert client.presence == client.told

    @invariant()
    def a_call_is_there_while_somebody_is_in_it(self) -> None:
        assert [sorted(member.client_id for member in call) for call in self.instances[0].sessions] == (
            [sorted(self.present)] if self.present else []
        )

    @property
    def _in(self) -> list[Connected]:
        return list(self.present.values())

    @property
    def _call(self):
        (call,) = self.instances[0].sessions
        return call

    async def _store(self, final: Transcript) -> None:
        bus = self.instances[0].bus
        await bus.publish_final(self._call.call, final, epoch=1, follows=0)
        self._call.deliver(final)

    def _anybody(self, data: st.DataObject) -> Connected:
        return data.draw(st.sampled_from(self._in))

    def _caption(self, client: Connected, *, is_final: bool, silent: bool = False) -> Transcript:
        self.number += 1
        stream = f"stream-{client.number}"
        text = "" if silent else str(self.number)
        return Transcript(
            "call",
            client.name,
            stream,
            f"{stream}-{self.number}",
            text,
            is_final,
            "en",
            self.number,
            self.number + 1,
            16000,
            time.time(),
        )

    def _expect_presence(self, event: str, about: str) -> None:
        for client in self.present.values():
            if client.name != about and client.member.request.presence:
                client.told.append((event, about))


Settings.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_call_settings = Settings.TestCase
