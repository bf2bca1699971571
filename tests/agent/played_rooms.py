"""Lives of an agent in a room that are played: they last until a test ends them."""

import asyncio
from collections.abc import Mapping

from trio_stt.rooms.wanted import WantedRoom


class PlayedRoom:
    """Stays until `leave` or `fail`; `slow_s`: how long it takes to leave when it is cancelled."""

    def __init__(self, wanted: WantedRoom, *, slow_s: float = 0.0) -> None:
        self.wanted = wanted
        self.entered = False
        self.left = False
        self.figures: dict[str, object] = {"tracks": 0, "captions": 0, "drops": 0}
        self._slow_s = slow_s
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self) -> str:
        self.entered = True
        try:
            return await self._end
        finally:
            await asyncio.sleep(self._slow_s)
            self.left = True

    def status(self) -> Mapping[str, object]:
        return self.figures

    def leave(self, why: str = "empty") -> None:
        self._end.set_result(why)

    def fail(self, error: Exception) -> None:
        self._end.set_exception(error)


class PlayedRooms:
    """All lives that were made, in order."""

    def __init__(self, *, slow_s: float = 0.0) -> None:
        self.lives: list[PlayedRoom] = []
        self._slow_s = slow_s

    def make(self, wanted: WantedRoom) -> PlayedRoom:
        life = PlayedRoom(wanted, slow_s=self._slow_s)
        self.lives.append(life)
        return life

    @property
    def inside(self) -> list[str]:
        """The rooms in which there is one now."""
        return sorted(life.wanted.room_name for life in self.lives if life.entered and not life.left)


async def until(is_so, within_s: float = 10.0) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)
