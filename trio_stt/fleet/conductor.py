"""Brings the fleet to what is asked of it, one step after the other: more instances, fewer, all of them anew.

It holds nothing that it could not find out again: if it ends in the middle, its successor goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import attrs
import trio

from trio_stt.fleet.autoscale import Autoscale, Use
from trio_stt.fleet.folder import FleetError
from trio_stt.fleet.goal import Goal, Progress
from trio_stt.fleet.routing import Routing
from trio_stt.fleet.supervisor import State

LOOK_EVERY_S = 0.5

USE_EVERY_S = 2.0
"""How often instances are asked how full they are, where their number may change by itself."""

READY_WITHIN_S = 120.0
"""An instance that does not answer so long after its start will not; large models take tens of seconds to load."""

REVIVE_AFTER_S = 10.0
"""A process that supervisor gave up, after some tries within seconds, is tried again so much later."""

_ENDED = (State.STOPPED, State.EXITED, State.FATAL)


class Processes(Protocol):
    """The instances' processes, by their numbers."""

    async def states(self) -> Mapping[int, State]:
        """Those that exist."""
        ...

    async def add(self, number: int) -> None:
        """Starts one that does not exist."""
        ...

    async def start(self, number: int) -> None:
        """Starts one that has ended."""
        ...

    async def stop(self, number: int) -> None:
        """Has one end, with a drain. Does not wait."""
        ...

    async def remove(self, number: int) -> None:
        """Forgets one that has ended."""
        ...


class Conductor:
    """`run` is all there is to it."""

    def __init__(
        self,
        processes: Processes,
        routing: Routing,
        *,
        read_goal: Callable[[], Goal],
        report: Callable[[Progress], None],
        tell_share: Callable[[int, int], None],
        ask_use: Callable[[Collection[int]], Awaitable[list[Use]]],
        say: Callable[[str], None],
        before: Progress,
    ) -> None:
        """`tell_share`: among how many instances the cores are shared now, and when all that are lost are back.

        `before`: what was reported last.
        """
        self._processes = processes
        self._routing = routing
        self._read_goal = read_goal
        self._report = report
        self._tell_share = tell_share
        self._ask_use = ask_use
        self._say = say
        self._progress = before
        self._autoscale = Autoscale()
        self._shared_by = 0, 0
        self._settled_at = 0  # how many there were when all answered
        self._used_at = -USE_EVERY_S
        self._given_up_at: dict[int, float] = {}
        self._serial_of_problem = 0

    async def run(self) -> None:
        """Looks and acts until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._routing.run)
            while True:
                try:
                    await self._look()
                except (FleetError, OSError) as error:  # a full disk, too, is no reason to end
                    self._say(str(error))
                await trio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        goal = self._read_goal()
        states = await self._processes.states()
        for number in states:
            self._routing.add(number)
        count = await self._how_many(goal, states)
        await self._bring_to(count, states)
        await self._revive(await self._processes.states())
        if goal.restarts > self._progress.restarts:
            await self._restart_all(goal, count)
        if self._progress.problem and goal.serial > self._serial_of_problem:
            self._note(problem="")
        answering = sum(self._routing.healthy(number) for number in range(1, count + 1))
        settled = answering == count
        if settled:
            self._settled_at = count
        # Where one is lost, the others have its speakers and all that these have to catch up with: and its cores, but
        # not for newcomers, who would still be there when it has them again.
        self._share_among(answering if answering and self._settled_at == count else count, count)
        if settled and self._routing.routed == tuple(range(1, count + 1)):
            self._note(reached=goal.serial)
        self._note(instances=count)

    async def _how_many(self, goal: Goal, states: Mapping[int, State]) -> int:
        present = len(states)
        now = trio.current_time()
        if not present or not goal.least <= present <= goal.most or goal.least == goal.most:
            return min(max(present, goal.least), goal.most)
        if now - self._used_at < USE_EVERY_S:
            return present
        self._used_at = now
        use = await self._ask_use(states.keys())
        count = self._autoscale.decide(now, use, instances=present, least=goal.least, most=goal.most)
        if count != present:
            self._say(f"{present} instances have {sum(each.streams for each in use)} streams: now {count} instances")
        return count

    async def _bring_to(self, count: int, states: Mapping[int, State]) -> None:
        new = [number for number in range(1, count + 1) if number not in states]
        superfluous = [number for number in states if number > count]
        if new:
            self._share_among(count, count)  # first: those that are there make room
            self._note(doing=f"starting {_names(new)}")
            for number in new:
                await self._processes.add(number)
                self._routing.add(number)
        if superfluous:
            await self._retire(superfluous)
        if not new and all(self._routing.healthy(number) for number in states):
            self._note(doing="")

    async def _retire(self, numbers: list[int]) -> None:
        self._note(doing=f"draining {_names(numbers)}")
        for number in numbers:
            await self._routing.hold_out(number)
            await self._processes.stop(number)
        for number in numbers:
            await self._wait_ended(number)
            await self._processes.remove(number)
            self._routing.remove(number)
        self._note(doing="")

    async def _wait_ended(self, number: int) -> None:
        while (await self._processes.states()).get(number, State.STOPPED) not in _ENDED:  # noqa: ASYNC110
            await trio.sleep(LOOK_EVERY_S)

    async def _revive(self, states: Mapping[int, State]) -> None:
        """Those that supervisor has given up, or that were left stopped when our predecessor ended."""
        now = trio.current_time()
        for number, state in states.items():
            if state not in _ENDED:
                self._given_up_at.pop(number, None)
            elif now - self._given_up_at.setdefault(number, now) >= REVIVE_AFTER_S:
                self._say(f"{_names([number])} does not run ({state.value}): started again")
                del self._given_up_at[number]
                await self._processes.start(number)
                self._routing.let_in(number)

    async def _restart_all(self, goal: Goal, count: int) -> None:
        """One at a time, the next when the last one answers; ends at the first that does not."""
        numbers = list(range(1, count + 1))
        problem = ""
        if count == 1:  # its clients need somewhere to go
            problem = await self._start_second()
        for number in numbers:
            problem = problem or await self._restart(number)
        if count == 1:
            await self._retire([2])
            self._share_among(1, 1)
        if problem:
            self._serial_of_problem = goal.serial
            self._say(f"the restart was broken off: {problem}")
        self._note(restarts=goal.restarts, problem=problem, doing="")

    async def _start_second(self) -> str:
        self._share_among(2, 2)
        self._note(doing=f"starting {_names([2])} to stand in for {_names([1])}")
        await self._processes.add(2)
        self._routing.add(2)
        return await self._wait_healthy(2)

    async def _restart(self, number: int) -> str:
        """Returns why that failed; "" if it did not."""
        self._note(doing=f"restarting {_names([number])}")
        if not await self._another_answers(number):
            return f"no other instance than {_names([number])} answers"
        await self._routing.hold_out(number)
        await self._processes.stop(number)
        await self._wait_ended(number)
        await self._processes.start(number)
        self._routing.let_in(number)
        return await self._wait_healthy(number)

    async def _another_answers(self, number: int) -> bool:
        with trio.move_on_after(READY_WITHIN_S):
            while not any(self._routing.healthy(other) for other in self._routing if other != number):  # noqa: ASYNC110
                await trio.sleep(LOOK_EVERY_S)
            return True
        return False

    async def _wait_healthy(self, number: int) -> str:
        with trio.move_on_after(READY_WITHIN_S):
            while not (self._routing.healthy(number) and number in self._routing.routed):
                if (await self._processes.states()).get(number) is State.FATAL:
                    return f"{_names([number])} ends again and again"
                await trio.sleep(LOOK_EVERY_S)
            return ""
        return f"{_names([number])} did not answer within {READY_WITHIN_S:g} s of its start"

    def _share_among(self, now: int, lasting: int) -> None:
        if (now, lasting) != self._shared_by:
            self._shared_by = now, lasting
            self._tell_share(now, lasting)

    def _note(self, **changes: Any) -> None:
        progress = attrs.evolve(self._progress, routed=self._routing.routed, **changes)
        if progress.doing != self._progress.doing and progress.doing:
            self._say(progress.doing)
        if progress != self._progress:
            self._progress = progress
            self._report(progress)


def _names(numbers: list[int]) -> str:
    return ", ".join(f"instance-{number}" for number in sorted(numbers))
