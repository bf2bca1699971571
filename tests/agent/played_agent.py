"""A process that is an agent in all but its rooms, which are played: `python -m tests.agent.played_agent`.

It prints ``in ROOM`` and ``out ROOM``.
"""

import asyncio
import os

from agent.serving import serve_until_signal
from tests.agent.played_rooms import PlayedRoom
from trio_stt.operations.logs import configure_logs
from trio_stt.rooms.wanted import WantedRoom
from trio_stt.settings import load


class PrintingRoom(PlayedRoom):
    async def run(self) -> str:
        print("in", self.wanted.room_name, flush=True)
        try:
            return await super().run()
        finally:
            print("out", self.wanted.room_name, flush=True)


def make(wanted: WantedRoom) -> PrintingRoom:
    return PrintingRoom(wanted)


if __name__ == "__main__":
    configure_logs("WARNING", "json")  # which go elsewhere
    asyncio.run(serve_until_signal(load(dict(os.environ)), make))
