"""However members come, go, move between instances and are replaced, and whatever befalls the bus: none misses a final
that it should hear, and none hears one twice."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.unit.sessions.calls import Client, caption, translated
from tests.unit.sessions.trio_machine import TrioMachine

INSTANCES = 3
NAMES = st.sampled_from("abc")
PLACES = st.integers(0, INSTANCES - 1)


class Spoken:
    """A final that was said: by whom, on which instance, when in the order of all that happened."""

    def __init__(self, client, text: str, place: int, number: int) -> None:
        self.name = client.member.client_id
        self.stream_id = f"stream-{client.member.connection}"
        self.text = text
        self.place = place
        self.number = number


class Membership(TrioMachine):
    """The model: who is a member where, and what was said while it was."""

    INSTANCES = INSTANCES

    def __init__(self) -> None:
        super().__init__()
        self.clients = []  # every connection that ever was, each with where and when
        self.spoken = []
        self.number = 0
        self.is_down = False

    def do(self, action) -> None:
        """The same, and who is told to go goes."""
        super().do(action)
        super().do(self.see_off)
        self.is_down = self.memory.down

    def see_off(self) -> None:
        for client in self.present():
            if client.closes:
                self.take_leave(client)

    def present(self, name: str | None = None) -> list:
        return [
            client
            for client in self.clients
            if client.left_at is None and (name is None or client.member.client_id == name)
        ]

    def take_leave(self, client) -> None:
        client.left_at = self.number
        client.left_in_outage = self.is_down
        self.instances[client.place].leave(client)

    @rule(name=NAMES, place=PLACES, history=st.sampled_from([0, 200]))
    def join(self, name: str, place: int, history: int) -> None:
        client = Client(name, history=history, presence=True, translation=True, read_language="pt")
        client.place, client.joined_at, client.left_at = place, self.number, None
        client.history = history
        client.joined_in_outage = self.is_down
        self.clients.append(client)
        self.do(lambda: self.clock.jump(0.001))  # no two come at the same moment
        self.do(lambda: self.instances[place].join(client))

    @rule(name=NAMES, data=st.data())
    def leave(self, name: str, data: st.DataObject) -> None:
        candidates = self.present(name)
        if candidates:
            client = data.draw(st.sampled_from(candidates))
            self.do(lambda: self.take_leave(client))

    @rule(name=NAMES, data=st.data(), with_translation=st.booleans())
    def speak(self, name: str, data: st.DataObject, with_translation: bool) -> None:
        candidates = self.present(name)
        if candidates:
            client = data.draw(st.sampled_from(candidates))
            self.number += 1
            text = str(self.number)
            self.spoken.append(Spoken(client, text, client.place, self.number))

            async def say() -> None:
                final = caption(client, text)
                await client.publisher.publish(final)
                if with_translation:
                    await client.publisher.publish_translation(translated(final, text))

            self.do(say)

    @precondition(lambda self: not self.is_down)
    @rule(forget=st.booleans())
    def lose_the_bus(self, forget: bool) -> None:
        self.do(lambda: self.memory.stop(forget=forget))

    @precondition(lambda self: not self.is_down)
    @rule(place=PLACES, forget=st.booleans())
    def lose_the_bus_with_the_next_answer(self, place: int, forget: bool) -> None:
        bus = self.instances[place].bus
        bus.lose_next_answer, bus.forget = True, forget

    @precondition(lambda self: self.is_down)
    @rule()
    def find_the_bus(self) -> None:
        self.do(lambda: self.memory.start())

    @rule(seconds=st.sampled_from([1.0, 6.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.do(lambda: self.clock.jump(seconds))

    @invariant()
    def nobody_hears_a_final_twice_or_out_of_order(self) -> None:
        for client in self.clients:
            assert max(Counter(client.texts).values(), default=0) <= 1
            assert max(Counter(client.translations).values(), default=0) <= 1
            for stream_id in {one.stream_id for one in self.spoken}:
                heard = [
                    int(event.text)
                    for event in client.received
                    if getattr(event, "stream_id", "") == stream_id
                    and hasattr(event, "text")
                    # Of what was said before, one who joins in an outage gets a part at once, the rest when it is over.
                    and not (event.history and client.joined_in_outage)
                ]
                assert heard == sorted(heard)

    @invariant()
    def whoever_is_here_hears_who_speaks_here_at_once(self) -> None:
        for client in self.clients:
            assert {one.text for one in self.heard_while_in(client) if one.place == client.place} <= set(client.texts)

    @invariant()
    def with_the_bus_up_everybody_has_heard_everything(self) -> None:
        for client in self.clients:
            if not (self.is_down if client.left_at is None else client.left_in_outage):
                assert {one.text for one in self.heard_while_in(client)} <= set(client.texts)

    def heard_while_in(self, client) -> list:
        end = self.number if client.left_at is None else client.left_at
        return [one for one in self.spoken if client.joined_at < one.number <= end]

    def teardown(self) -> None:
        try:
            for instance in self.instances:
                instance.bus.lose_next_answer = False
            if self.is_down:
                self.find_the_bus()
            for _ in range(8):
                self.wait(6.0)
            self.nobody_hears_a_final_twice_or_out_of_order()
            self.with_the_bus_up_everybody_has_heard_everything()
            self.presence_is_true_in_the_end()
        finally:
            super().teardown()

    def presence_is_true_in_the_end(self) -> None:
        for name, count in Counter(client.member.client_id for client in self.present()).items():
            assert count == 1, f"{name} is there {count} times"
        there = {client.member.client_id for client in self.present()}
        for client in self.present():
            last = {name: event for event, name in client.presence}
            for name, event in last.items():
                assert (event == "joined") == (name in there)


Membership.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
test_membership = Membership.TestCase
