"""What is done to a fleet while people talk: tasks that go on until they are cancelled, and note what they did."""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field, frozen

from trio_stt.drill.drilled_fleet import DrilledFleet

KILL_EVERY_S = 2.0
FROZEN_S = 10.0
REDIS_DOWN_S = 30.0
RELOADS = 20
PAUSE_S = 5.0
"""Between two of the longer troubles."""

LARGE, SMALL = 5, 2
"""The fleet is scaled to these sizes and back."""

_LOOK_S = 0.25


@frozen
class Blow:
    """Something that was done, when (Trio's clock), and to which instance, if to one."""

    at: float
    what: str
    instance: int | None = None


@define
class Trouble:
    """What the troubles of one drill need. `blows`: what was done so far."""

    fleet: DrilledFleet
    instances: int
    seconds: float
    dice: random.Random
    blows: list[Blow] = field(factory=list)

    def note(self, what: str, instance: int | None = None) -> None:
        """Writes a blow down."""
        self.blows.append(Blow(trio.current_time(), what, instance))

    async def two_ready(self) -> list[int]:
        """Waits until two instances or more are ready, so that one may be hurt; returns them."""
        while len(ready := await self.fleet.ready()) < 2:  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
        return ready


Act = Callable[[Trouble], Awaitable[None]]


async def nothing(trouble: Trouble) -> None:
    """To compare with."""
    await trio.sleep_forever()


async def kill(trouble: Trouble) -> None:
    """Kills a random ready instance every two seconds, never the last one that is ready."""
    while True:
        await trio.sleep(KILL_EVERY_S)
        await _kill_one(trouble)


async def freeze(trouble: Trouble) -> None:
    """Stops an instance for ten seconds, with all its sockets open, and lets it go on."""
    while True:
        await trio.sleep(PAUSE_S)
        number = trouble.dice.choice(await trouble.two_ready())
        if not await trouble.fleet.signal(number, signal.SIGSTOP):
            continue
        trouble.note("frozen", number)
        await trio.sleep(FROZEN_S)
        await trouble.fleet.signal(number, signal.SIGCONT)
        trouble.note("revived", number)


async def restart(trouble: Trouble) -> None:
    """Restarts all instances, one at a time, again and again."""
    while True:
        await trio.sleep(PAUSE_S)
        trouble.note("rolling restart")
        await trouble.fleet.command("restart")
        trouble.note("all restarted")


async def scale(trouble: Trouble) -> None:
    """Scales up to five, down to two and back."""
    while True:
        for size in (LARGE, SMALL, trouble.instances):
            await trio.sleep(PAUSE_S)
            await trouble.fleet.command("scale", str(size))
            trouble.note(f"scaled to {size}")


async def reload(trouble: Trouble) -> None:
    """Has nginx read its configuration again, twenty times."""
    for _ in range(RELOADS):
        await trio.sleep(trouble.seconds / (RELOADS + 1))
        await trouble.fleet.reload_nginx()
        trouble.note("nginx reloaded")


async def redis(trouble: Trouble, *, kills: bool = False) -> None:
    """Takes Redis away for thirty seconds; it comes back empty. With `kills` an instance dies in between."""
    down_s = min(REDIS_DOWN_S, trouble.seconds / 3)
    while True:
        await trio.sleep(PAUSE_S)
        await trouble.fleet.stop_redis()
        trouble.note("Redis gone")
        await trio.sleep(down_s / 2)
        if kills:
            await _kill_one(trouble)
        await trio.sleep(down_s / 2)
        await trouble.fleet.start_redis()
        trouble.note("Redis back, empty")


async def _kill_one(trouble: Trouble) -> None:
    number = trouble.dice.choice(await trouble.two_ready())
    if await trouble.fleet.signal(number, signal.SIGKILL):
        trouble.note("killed", number)
