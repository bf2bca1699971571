"""Which instances get new clients: those that answer, but for those that are about to be ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio
from attrs import define

from trio_stt.fleet.probe import PROBE_EVERY_S, Verdict

Ask = Callable[[int], Awaitable[bool]]
"""Whether the instance of that number answers."""

RouteTo = Callable[[Sequence[int]], Awaitable[bool]]
"""Sends new clients to the instances of these numbers; false if that failed, and is to be tried again."""

AGAIN_AFTER_S = 1.0
"""Before it is tried again."""


@define
class _Member:
    verdict: Verdict
    scope: trio.CancelScope
    held_out: bool = False


class Routing:
    """Probes its members and tells the proxy whenever those that get new clients change."""

    def __init__(self, ask: Ask, route_to: RouteTo) -> None:
        self._ask = ask
        self._route_to = route_to
        self._members: dict[int, _Member] = {}
        self._changed = trio.Condition()
        self._routed: tuple[int, ...] = ()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Probes until cancelled. Members may be added once it has started (`task_status`)."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                wanted = self._wanted()
                if wanted and wanted != self._routed:
                    if await self._route_to(wanted):
                        self._routed = wanted
                        await self._announce()
                    else:
                        await trio.sleep(AGAIN_AFTER_S)
                await trio.sleep(PROBE_EVERY_S / 5)

    @property
    def routed(self) -> tuple[int, ...]:
        """Who gets new clients, as the proxy was told last."""
        return self._routed

    def __iter__(self) -> Iterator[int]:
        """The members' numbers."""
        return iter(self._members)

    def add(self, number: int) -> None:
        """A new member, probed from now on."""
        if self._nursery is None:
            raise RuntimeError("not started yet")
        if number not in self._members:
            member = self._members[number] = _Member(Verdict(), trio.CancelScope())
            self._nursery.start_soon(self._probe, number, member)

    def remove(self, number: int) -> None:
        """It is gone; not probed any more."""
        self._members.pop(number).scope.cancel()

    def healthy(self, number: int) -> bool:
        """Whether it answers, as far as is known."""
        return number in self._members and self._members[number].verdict.healthy is True

    async def hold_out(self, number: int) -> None:
        """Returns when no new clients are sent to that member, unless there is no other. May be cancelled."""
        self._members[number].held_out = True
        async with self._changed:
            while number in self._routed and self._wanted() != self._routed:
                await self._changed.wait()

    def let_in(self, number: int) -> None:
        """It gets new clients again as soon as a probe that begins now is answered."""
        member = self._members[number]
        member.held_out = False
        member.verdict = Verdict(healthy=False)

    def _wanted(self) -> tuple[int, ...]:
        """Who should get new clients. At first nobody is changed, until of each it is known whether it answers.

        If none is left, those are better than nobody that are about to end, and else those that do not answer now.
        """
        if not self._routed and any(member.verdict.healthy is None for member in self._members.values()):
            return ()
        healthy = {number: each for number, each in sorted(self._members.items()) if each.verdict.healthy}
        staying = tuple(number for number, each in healthy.items() if not each.held_out)
        return staying or tuple(healthy) or tuple(sorted(self._members))

    async def _probe(self, number: int, member: _Member) -> None:
        with member.scope:
            while True:
                began = trio.current_time()
                verdict = member.verdict
                answered = await self._ask(number)
                if verdict is member.verdict and verdict.note(answered):  # else it was let in meanwhile
                    await self._announce()
                await trio.sleep_until(max(began + PROBE_EVERY_S, trio.current_time()))

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()
