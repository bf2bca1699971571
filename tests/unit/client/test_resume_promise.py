"""No word lost: the promise of docs/resume.md, held against a model of the servers, and shown to be able to break."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.client.faulty_clients import FAULTY
from tests.unit.client.simulation import INSTANCES, Simulation, run_at_random

FEW = st.integers(1, 8)
PLACES = st.integers(0, INSTANCES - 1)
RUNS = 120
"""Of each kind: with and without a bus, live and from a file, with room enough and without."""


class Resuming(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32), live=st.booleans(), with_bus=st.booleans())
    def start(self, seed: int, live: bool, with_bus: bool) -> None:
        self.simulation = Simulation(seed, live=live, with_bus=with_bus)

    @rule(samples=st.binary(min_size=1, max_size=40).map(lambda noise: bytes(byte % 4 > 0 for byte in noise)))
    def speak(self, samples: bytes) -> None:
        self.simulation.speak(samples)

    @rule(repeated=st.integers(20, 100))
    def speak_long(self, repeated: int) -> None:
        self.simulation.speak(b"\1" * repeated)

    @rule()
    def finalize(self) -> None:
        self.simulation.finalize()

    @rule()
    def configure(self) -> None:
        self.simulation.configure()

    @rule(seconds=st.sampled_from([0.05, 0.2, 0.6, 1.1]))
    def pass_time(self, seconds: float) -> None:
        self.simulation.pass_time(seconds)

    @rule(messages=FEW)
    def send(self, messages: int) -> None:
        self.simulation.send(messages)

    @rule(messages=FEW)
    def arrive_at_server(self, messages: int) -> None:
        self.simulation.arrive_at_server(messages)

    @rule(messages=FEW)
    def arrive_at_client(self, messages: int) -> None:
        self.simulation.arrive_at_client(messages)

    @rule()
    def all_arrives(self) -> None:
        self.simulation.pass_time(0.2)
        for _ in range(3):
            self.simulation.send(100)
            self.simulation.arrive_at_server(100)
            self.simulation.arrive_at_client(100)

    @rule(place=PLACES)
    def kill(self, place: int) -> None:
        self.simulation.kill(place)

    @rule(place=PLACES)
    def freeze(self, place: int) -> None:
        self.simulation.freeze(place)

    @rule(seconds=st.sampled_from([0.5, 1.6, 2.1]))
    def freeze_in_use(self, seconds: float) -> None:
        self.simulation.freeze_in_use(seconds)

    @rule(place=PLACES)
    def revive(self, place: int) -> None:
        self.simulation.revive(place)

    @rule(kept=st.floats(0, 1), told=st.booleans())
    def cut(self, kept: float, told: bool) -> None:
        self.simulation.cut(kept, told)

    @rule()
    def go_away(self) -> None:
        self.simulation.go_away()

    @rule()
    def depart(self) -> None:
        self.simulation.depart()

    @rule()
    def end_windows(self) -> None:
        self.simulation.end_windows()

    @rule()
    def lose_bus(self) -> None:
        self.simulation.lose_bus()

    @rule(empty=st.booleans())
    def restore_bus(self, empty: bool) -> None:
        self.simulation.restore_bus(empty)

    @invariant()
    def the_promise_holds(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.check_events()

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.finish()


TestResuming = Resuming.TestCase
TestResuming.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def simulations(client_class: type | None = None):
    """One for each seed, of every kind."""
    arguments = () if client_class is None else (client_class,)
    for seed in range(4 * RUNS):
        yield Simulation(seed, *arguments, live=seed % 2 == 0, with_bus=seed % 4 < 2), seed % 3 == 0


def test_the_promise_holds_in_long_conversations():
    for simulation, overflows in simulations():
        run_at_random(simulation, 300, overflows=overflows)


@pytest.mark.parametrize("client_class", FAULTY, ids=lambda each: each.__name__)
def test_a_client_with_a_fault_breaks_the_promise_and_is_found_out(client_class: type):
    for simulation, overflows in simulations(client_class):
        try:
            run_at_random(simulation, 300, overflows=overflows)
        except AssertionError:
            return
    pytest.fail("the fault was not noticed")
