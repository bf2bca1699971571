"""An agent that is played: it answers servers as a test says, and keeps what they ask."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import unquote

import h11
import trio
from attrs import frozen


@frozen
class Asked:
    """A request: a room's name stands in the body or, encoded, in the target."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class FakeAgent:
    """`rooms`: those that it is in, by name: what it was asked for; more than `most_rooms` are refused."""

    def __init__(self, agent_id: str = "fake-1", *, most_rooms: int = 10, rooms: dict | None = None) -> None:
        self.agent_id = agent_id
        self.most_rooms = most_rooms
        self.rooms = rooms or {}
        self.asked: list[Asked] = []
        self.url = ""
        self.broken_answer: tuple[int, bytes] | None = None
        """What it answers to whatever comes."""

    @property
    def joins(self) -> list[Asked]:
        """What would have changed something."""
        return [one for one in self.asked if one.method != "GET"]

    def answer(self, asked: Asked) -> tuple[int, dict]:
        match asked.method:
            case "GET":
                counts = {"rooms": len(self.rooms), "most_rooms": self.most_rooms, "tracks": 0, "most_tracks": 10}
                return 200, {"agent_id": self.agent_id, "url": "", **counts, "room_names": list(self.rooms)}
            case "POST":
                wanted = json.loads(asked.body)
                known = self.rooms.get(wanted["room_name"])
                if known is not None and known != wanted:
                    return 409, {"error": {"code": "other_settings"}, "agent": self.agent_id}
                if known is None and len(self.rooms) >= self.most_rooms:
                    return 503, {"error": {"code": "full"}}
                self.rooms[wanted["room_name"]] = wanted
                return (201 if known is None else 200), {
                    "result": "created" if known is None else "exists",
                    "agent": self.agent_id,
                }
            case _:
                known = self.rooms.pop(unquote(asked.target.removeprefix("/rooms/")), None)
                return 200, {"result": "absent" if known is None else "cancelled", "agent": self.agent_id}

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                while await self._serve_once(stream):
                    pass

    async def _serve_once(self, stream: trio.SocketStream) -> bool:
        connection, head, body = h11.Connection(h11.SERVER), None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = await stream.receive_some()
                if not data:
                    return False
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        asked = Asked(head.method.decode(), head.target.decode(), headers, body)
        self.asked.append(asked)
        if self.broken_answer is None:
            status, fields = self.answer(asked)
            content = json.dumps(fields).encode()
        else:
            status, content = self.broken_answer
        sent = [("Content-Length", str(len(content))), ("Content-Type", "application/json")]
        for part in (h11.Response(status_code=status, headers=sent), h11.Data(content), h11.EndOfMessage()):
            await stream.send_all(connection.send(part) or b"")
        return True


@asynccontextmanager
async def played_agents(*agents: FakeAgent) -> AsyncIterator[None]:
    """Serves these agents, each at its `url`."""
    async with trio.open_nursery() as nursery:
        for each in agents:
            listeners = await nursery.start(partial(trio.serve_tcp, each.serve, 0, host="127.0.0.1"))
            each.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield
        nursery.cancel_scope.cancel()
