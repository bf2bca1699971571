"""The conductor brings a fleet to its goal, on a virtual clock, with processes that take their time."""

import math
from collections.abc import AsyncIterator, Collection, Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_stt.fleet.autoscale import Use
from trio_stt.fleet.conductor import READY_WITHIN_S, REVIVE_AFTER_S, Conductor
from trio_stt.fleet.folder import FleetError
from trio_stt.fleet.goal import Goal, Progress
from trio_stt.fleet.routing import Routing
from trio_stt.fleet.supervisor import State

LOAD_S = 3.0
DRAIN_S = 5.0


class Machine:
    """Instances that answer `LOAD_S` after their start and end `DRAIN_S` after they were told to."""

    def __init__(self) -> None:
        self.goal = Goal(serial=1, least=2, most=2, restarts=0, base_port=8001)
        self.progress = Progress()
        self.events: list[str] = []
        self.shares: list[tuple[int, ...]] = []
        self.use: list[Use] = []
        self.broken: set[int] = set()  # start and never answer
        self.ends_again_and_again: set[int] = set()
        self.supervisor_answers = True
        self.fewest_answering: float = math.inf
        self._answers_from: dict[int, float] = {}
        self._ends_at: dict[int, float] = {}
        self.given_up: set[int] = set()

    def conductor(self) -> Conductor:
        return Conductor(
            self,
            Routing(self._ask, self._route_to),
            read_goal=lambda: self.goal,
            report=self._report,
            tell_share=lambda *counts: self.shares.append(counts),
            ask_use=self._ask_use,
            say=lambda line: None,
            before=self.progress,
        )

    def ask_for(self, **changes: int) -> None:
        self.goal = attrs.evolve(self.goal, serial=self.goal.serial + 1, **changes)

    async def reached(self, within_s: float = 300) -> float:
        """How long it took."""
        begun = trio.current_time()
        with trio.fail_after(within_s):
            while self.progress.reached != self.goal.serial:
                await trio.sleep(0.05)
        return trio.current_time() - begun

    def answering(self) -> set[int]:
        now = trio.current_time()
        return {
            number
            for number, since in self._answers_from.items()
            if since <= now < self._ends_at.get(number, math.inf) and number not in self.given_up
        }

    # Processes:

    async def states(self) -> dict[int, State]:
        await trio.sleep(0.01)
        if not self.supervisor_answers:
            raise FleetError("supervisord does not answer")
        now = trio.current_time()

        def state(number: int) -> State:
            if number in self.given_up:
                return State.FATAL
            if number not in self._ends_at:
                return State.RUNNING
            return State.STOPPING if now < self._ends_at[number] + DRAIN_S else State.STOPPED

        return {number: state(number) for number in self._answers_from}

    async def add(self, number: int) -> None:
        self.events.append(f"add {number}")
        self._begin(number)

    async def start(self, number: int) -> None:
        assert (await self.states())[number] in (State.STOPPED, State.FATAL)
        self.events.append(f"start {number}")
        self._begin(number)

    async def stop(self, number: int) -> None:
        self.events.append(f"stop {number}")
        assert number not in self.routed or len(self.routed) == 1
        self._ends_at[number] = trio.current_time()  # it says at once that it takes nobody any more

    async def remove(self, number: int) -> None:
        assert (await self.states())[number] is State.STOPPED
        self.events.append(f"remove {number}")
        del self._answers_from[number]

    def _begin(self, number: int) -> None:
        self._ends_at.pop(number, None)
        self.given_up.discard(number)
        self.given_up |= {number} & self.ends_again_and_again
        self._answers_from[number] = math.inf if number in self.broken else trio.current_time() + LOAD_S

    async def _ask(self, number: int) -> bool:
        await trio.sleep(0.01)
        return number in self.answering()

    routed: tuple[int, ...] = ()

    async def _route_to(self, numbers: Sequence[int]) -> bool:
        await trio.sleep(0.02)
        self.routed = tuple(numbers)
        return True

    def _report(self, progress: Progress) -> None:
        self.progress = progress
        if progress.reached:
            self.fewest_answering = min(self.fewest_answering, len(set(self.routed) & self.answering()))

    async def _ask_use(self, numbers: Collection[int]) -> list[Use]:
        return self.use


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    """A machine whose fleet of two has just become ready."""
    machine = Machine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.conductor().run)
        await machine.reached()
        machine.events.clear()
        yield machine
        nursery.cancel_scope.cancel()


async def test_a_new_fleet_is_there_when_all_answer(autojump_clock: MockClock) -> None:
    machine = Machine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.conductor().run)
        assert LOAD_S <= await machine.reached() < LOAD_S + 1.5
        nursery.cancel_scope.cancel()
    assert machine.events == ["add 1", "add 2"]
    assert machine.routed == (1, 2)
    assert machine.shares == [(2, 2)]


async def test_growing_leaves_the_others_alone_and_makes_room_first(
    autojump_clock: MockClock, machine: Machine
) -> None:
    machine.ask_for(least=4, most=4)
    await machine.reached()
    assert machine.events == ["add 3", "add 4"]
    assert machine.routed == (1, 2, 3, 4)
    assert machine.shares == [(2, 2), (4, 4)]


async def test_shrinking_drains_all_who_go_at_once_and_then_gives_the_others_their_cores(
    autojump_clock: MockClock, machine: Machine
) -> None:
    machine.ask_for(least=4, most=4)
    await machine.reached()
    machine.events.clear()
    machine.ask_for(least=1, most=1)
    took_s = await machine.reached()
    assert machine.events == ["stop 2", "stop 3", "stop 4", "remove 2", "remove 3", "remove 4"]
    assert DRAIN_S <= took_s < DRAIN_S + 3
    assert machine.routed == (1,)
    assert machine.shares == [(2, 2), (4, 4), (1, 1)]


async def test_the_others_have_the_cores_of_one_that_is_lost_until_it_answers_again(
    autojump_clock: MockClock, machine: Machine
) -> None:
    machine.ask_for(least=3, most=3)
    await machine.reached()
    machine._begin(2)  # killed, and started again by supervisor
    await trio.sleep(1.5)
    assert machine.shares == [(2, 2), (3, 3), (2, 3)]
    await trio.sleep(LOAD_S)
    assert machine.shares == [(2, 2), (3, 3), (2, 3), (3, 3)]


async def test_none_that_answers_is_no_share(autojump_clock: MockClock, machine: Machine) -> None:
    machine._begin(1)
    machine._begin(2)
    await trio.sleep(2)
    assert machine.routed == (1, 2)
    assert machine.shares == [(2, 2)]


async def test_a_rolling_restart_waits_for_each_before_the_next(autojump_clock: MockClock, machine: Machine) -> None:
    machine.ask_for(least=3, most=3)
    await machine.reached()
    machine.events.clear()
    machine.ask_for(restarts=1)
    took_s = await machine.reached()
    assert machine.events == ["stop 1", "start 1", "stop 2", "start 2", "stop 3", "start 3"]
    assert took_s >= 3 * (DRAIN_S + LOAD_S)
    assert machine.fewest_answering == 2
    assert machine.shares == [(2, 2), (3, 3)]


async def test_a_single_instance_has_a_stand_in_while_it_is_restarted(
    autojump_clock: MockClock, machine: Machine
) -> None:
    machine.ask_for(least=1, most=1)
    await machine.reached()
    machine.events.clear()
    machine.ask_for(restarts=1)
    await machine.reached()
    assert machine.events == ["add 2", "stop 1", "start 1", "stop 2", "remove 2"]
    assert machine.fewest_answering == 1
    assert machine.shares == [(2, 2), (1, 1), (2, 2), (1, 1)]


async def test_a_restart_ends_at_the_first_that_does_not_come_back(autojump_clock: MockClock, machine: Machine) -> None:
    machine.broken = {1}
    machine.ask_for(restarts=1)
    with trio.fail_after(READY_WITHIN_S + 60):
        while not machine.progress.problem:
            await trio.sleep(1)
    assert machine.events == ["stop 1", "start 1"]
    assert "instance-1 did not answer within" in machine.progress.problem
    assert machine.routed == (2,)
    assert machine.progress.reached < machine.goal.serial

    machine.broken = set()
    machine.given_up.add(1)
    machine.ask_for()
    await machine.reached()
    assert machine.progress.problem == ""
    assert machine.routed == (1, 2)


async def test_a_restart_does_not_wait_for_one_that_was_given_up(autojump_clock: MockClock, machine: Machine) -> None:
    machine.ends_again_and_again = {1}
    machine.ask_for(restarts=1)
    with trio.fail_after(30):
        while not machine.progress.problem:
            await trio.sleep(0.1)
    assert machine.events == ["stop 1", "start 1"]
    assert "instance-1 ends again and again" in machine.progress.problem


async def test_the_last_one_that_answers_is_not_restarted(autojump_clock: MockClock, machine: Machine) -> None:
    machine.broken = {2}
    machine.given_up.add(2)
    await trio.sleep(2)
    machine.ask_for(restarts=1)
    with trio.fail_after(2 * READY_WITHIN_S + 60):
        while not machine.progress.problem:
            await trio.sleep(1)
    assert "stop 1" not in machine.events
    assert "no other instance than instance-1 answers" in machine.progress.problem


async def test_who_was_given_up_is_started_again_later(autojump_clock: MockClock, machine: Machine) -> None:
    machine.given_up.add(1)
    await trio.sleep(REVIVE_AFTER_S - 1)
    assert machine.routed == (2,)
    assert machine.events == []
    await trio.sleep(4 + LOAD_S)
    assert machine.events == ["start 1"]
    assert machine.routed == (1, 2)


async def test_while_supervisor_does_not_answer_routing_goes_on(autojump_clock: MockClock, machine: Machine) -> None:
    machine.supervisor_answers = False
    machine.given_up.add(1)
    await trio.sleep(2)
    assert machine.routed == (2,)
    machine.given_up.clear()
    machine.supervisor_answers = True
    await trio.sleep(2)
    assert machine.routed == (1, 2)


async def test_its_successor_goes_on_where_it_ended(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.goal = attrs.evolve(machine.goal, least=3, most=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.conductor().run)
        await machine.reached()
        machine.ask_for(restarts=1)
        await trio.sleep(1)
        assert machine.events[-1] == "stop 1"  # and now it ends
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.conductor().run)
        await machine.reached()
        assert machine.routed == (1, 2, 3)
        assert machine.events[-2:] == ["stop 3", "start 3"]
        assert machine.progress.problem == ""
        nursery.cancel_scope.cancel()


async def test_where_it_may_the_fleet_grows_when_it_is_full(autojump_clock: MockClock, machine: Machine) -> None:
    machine.use = [Use(9, 10), Use(9, 10)]
    await trio.sleep(30)
    assert machine.events == []
    machine.ask_for(least=2, most=3)
    await trio.sleep(30)
    assert machine.events == ["add 3"]
    machine.use = [Use(10, 10)] * 3
    await trio.sleep(100)
    assert machine.events == ["add 3"]
    assert machine.progress.instances == 3
