"""The instances as supervisord runs them: `instance-1`, `instance-2` …, and the other processes of a fleet."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from attrs import frozen

from trio_stt.fleet.programs import find_redis
from trio_stt.fleet.supervisor import STOP_BEYOND_DRAIN_S, Program, State, Supervisor, own_command
from trio_stt.settings import Settings

_PREFIX = "instance-"


def instance_program(number: int, *, drain_s: float) -> Program:
    """The program of one instance."""
    return Program(
        f"{_PREFIX}{number}", own_command("instance", str(number)), priority=30, stop_s=drain_s + STOP_BEYOND_DRAIN_S
    )


def name_of(number: int) -> str:
    """What its process is called."""
    return f"{_PREFIX}{number}"


def number_of(name: str) -> int | None:
    """The number of the instance whose process is called that; None for another process."""
    number = name.removeprefix(_PREFIX)
    return int(number) if name.startswith(_PREFIX) and number.isdigit() else None


CONDUCTOR = "conductor"
"""The process that starts, ends and probes the instances."""


def standing_programs(settings: Settings) -> list[Program]:
    """What runs beside the instances. Ended in the opposite order: nobody is served by who has lost nginx or Redis."""
    programs = [
        Program("nginx", own_command("nginx"), priority=20, stop_s=10),
        Program(CONDUCTOR, own_command("conductor"), priority=40, stop_s=10),
    ]
    if not settings.redis_url and find_redis() is not None:
        programs.append(Program("redis", own_command("redis"), priority=10, stop_s=10))
    if settings.livekit_url:
        stop_s = settings.drain_timeout_s + STOP_BEYOND_DRAIN_S
        programs.append(Program("agent", own_command("agent"), priority=40, stop_s=stop_s))
    return programs


@frozen
class SupervisedInstances:
    """The conductor's view of them: `trio_stt.fleet.conductor.Processes`. Calls take milliseconds, in a thread."""

    supervisor: Supervisor
    drain_s: float

    async def states(self) -> Mapping[int, State]:
        """Those that exist."""
        found = await trio.to_thread.run_sync(self.supervisor.processes)
        return {number: each.state for each in found if (number := number_of(each.name)) is not None}

    async def add(self, number: int) -> None:
        """Starts one that does not exist."""
        await trio.to_thread.run_sync(self.supervisor.add, instance_program(number, drain_s=self.drain_s))

    async def start(self, number: int) -> None:
        """Starts one that has ended."""
        await trio.to_thread.run_sync(self.supervisor.start, name_of(number))

    async def stop(self, number: int) -> None:
        """Has one end, with a drain. Does not wait."""
        await trio.to_thread.run_sync(self.supervisor.stop, name_of(number))

    async def remove(self, number: int) -> None:
        """Forgets one that has ended."""
        await trio.to_thread.run_sync(self.supervisor.remove, name_of(number))
