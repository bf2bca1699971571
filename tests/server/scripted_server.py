"""A WebSocket server that captions samples by counting them, and does to each connection what its plan says.

Byte n of all the samples is n % 251, so whatever comes can be checked. Every 100 samples are an
utterance, unless a test says otherwise.
"""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from urllib.parse import parse_qs, urlsplit

import trio
from attrs import field, frozen
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

HEARTBEAT_MS = 500


def samples(start: int, end: int) -> bytes:
    return bytes(position % 251 for position in range(start, end))


@frozen
class Serve:
    """Captions well, until `finals` were sent on this connection; then does what its kind does."""

    finals: float = inf
    acks: bool = True
    tokens: bool = True
    """Whether `ready` has a resume token."""


@frozen
class Cut(Serve):
    """Drops the connection without a word."""


@frozen
class HalfOpen(Serve):
    """Neither reads nor says anything any more, but keeps the connection."""


@frozen
class GoAway(Serve):
    """Asks the client to go, and goes on until it does, but answers no `eof` any more."""


@frozen
class CloseWith(Serve):
    """Closes with `code`, after an error with `error` if there is one."""

    code: int = 1012
    error: str | None = None
    reason: str = ""


@frozen
class Refuse:
    """Answers the upgrade with `status`."""

    status: int
    retry_after: bytes | None = None
    body: dict = field(factory=dict)


@frozen
class NeverAnswer:
    """Takes the connection, but never answers the upgrade."""


@frozen
class NeverReady:
    """Answers the upgrade, but sends no `ready`."""


@frozen
class RefuseResume:
    """Does not know the token."""


Act = Serve | Refuse | NeverAnswer | NeverReady | RefuseResume


class ScriptedServer:
    """`plan`: what happens to the first connection, the second, …; all later ones are served well."""

    def __init__(self, plan: Iterable[Act]) -> None:
        self.plan = list(plan)
        self.url = ""
        self.utterance_samples = 100
        self.queries: list[dict[str, str]] = []
        self.bearers: list[str | None] = []
        self.subprotocols: list[tuple[str, ...]] = []
        self.resumes: list[dict] = []
        self.closed_by_client: list[int | None] = []
        self.streams = 0
        self.finals: list[tuple[int, int]] = []  # of the stream that goes on
        self.began_at = 0  # the client's position of the stream's first sample
        self.begins_again_at = 0  # that of a second stream
        self.accepted = trio.Event()  # of the first connection that gets no `ready`
        self.configured = {"partials": True}

    async def handle(self, request: WebSocketRequest) -> None:
        parts = urlsplit(request.path)
        self.queries.append({name: values[0] for name, values in parse_qs(parts.query).items()})
        headers = {name.lower(): value for name, value in request.headers}
        self.bearers.append(headers.get(b"authorization", b"").decode() or None)
        self.subprotocols.append(request.proposed_subprotocols)
        act = self.plan.pop(0) if self.plan else Serve()
        match act:
            case Refuse():
                headers = [] if act.retry_after is None else [(b"Retry-After", act.retry_after)]
                await request.reject(act.status, extra_headers=headers, body=json.dumps(act.body).encode())
            case NeverAnswer():
                await trio.sleep_forever()
            case NeverReady():
                websocket = await self._accept(request)
                self.accepted.set()
                await self._listen(websocket)
            case _:
                await self._converse(await self._accept(request), act)

    async def _accept(self, request: WebSocketRequest) -> WebSocketConnection:
        return await request.accept(subprotocol="bearer" if "bearer" in request.proposed_subprotocols else None)

    async def _listen(self, websocket: WebSocketConnection) -> None:
        try:
            while True:
                await websocket.get_message()
        except ConnectionClosed as closed:
            self._note(closed)

    async def _converse(self, websocket: WebSocketConnection, act: Serve | RefuseResume) -> None:
        try:
            resume = None
            if self.queries[-1].get("resume") == "true":
                resume = json.loads(await websocket.get_message())
                assert resume.pop("type") == "resume"
                self.resumes.append(resume)
                if isinstance(act, RefuseResume):
                    await self._fail(websocket, "resume_refused", "expired")
                    await websocket.aclose(1008, "resume_refused")
                    return
            assert isinstance(act, Serve)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat, websocket)
                await self._run(Conversation(self, websocket, act, resume))
                nursery.cancel_scope.cancel()
            if isinstance(act, HalfOpen | Cut):
                await trio.sleep_forever()
        except ConnectionClosed as closed:
            self._note(closed)

    async def _run(self, conversation: "Conversation") -> None:
        try:
            await conversation.run()
        except ConnectionClosed as closed:
            self._note(closed)

    def _note(self, closed: ConnectionClosed) -> None:
        self.closed_by_client.append(closed.reason.code if closed.reason else None)

    async def _fail(self, websocket: WebSocketConnection, code: str, message: str) -> None:
        await websocket.send_message(json.dumps({"type": "error", "timestamp": 1, "code": code, "message": message}))

    async def _beat(self, websocket: WebSocketConnection) -> None:
        while True:
            await trio.sleep(HEARTBEAT_MS / 2000)
            try:
                await websocket.send_message(json.dumps({"type": "pong", "timestamp": 1}))
            except ConnectionClosed:
                return


class Conversation:
    """One connection that is served, for a while."""

    def __init__(self, server: ScriptedServer, websocket: WebSocketConnection, act: Serve, resume: dict | None) -> None:
        self.server = server
        self.websocket = websocket
        self.act = act
        self.resume = resume
        self.finals_left = act.finals
        self.has_asked_to_go = False
        self.width = 1 if server.queries[-1].get("encoding") == "mulaw" else 2  # bytes in a sample

    async def run(self) -> None:
        stored = await self._begin()
        for start, end in stored:
            await self._send_final(start, end, follows=start)
        await self._ack()
        while True:
            if self.finals_left <= 0 and not await self._go_on():
                return
            message = await self.websocket.get_message()
            if isinstance(message, bytes):
                await self._hear(message)
                continue
            fields = json.loads(message)
            match fields["type"]:
                case "finalize":
                    await self._finish_all()
                    await self._ack(from_finalize=True, id=fields.get("id"))
                case "configure":
                    self.server.configured |= {name: fields[name] for name in fields.keys() - {"type"}}
                    await self._send("configured", **self.server.configured)
                case "eof" if not self.has_asked_to_go:
                    await self._finish_all()
                    await self._ack()
                    await self.websocket.aclose(1000)
                    return

    async def _begin(self) -> list[tuple[int, int]]:
        server = self.server
        stored = []
        if self.resume is None:
            server.streams += 1
            if server.streams == 2:
                server.began_at = server.begins_again_at
            server.finals.clear()
            self.position = 0
        else:
            self.position = self.resume["from_sample"]
            stored = [final for final in server.finals if final[1] > self.position]
            self.position = max([self.position, *(end for _, end in stored)])
        self.open_at = self.position
        await self._send(
            "ready",
            session_id="call-1",
            client_id="anna",
            stream_id=f"s{server.streams}",
            language="en",
            sample_rate=8000,
            encoding="mulaw",
            epoch=len(server.queries),
            from_sample=self.position,
            resume_token=f"token-{len(server.queries)}" if self.act.tokens else None,
            heartbeat_ms=HEARTBEAT_MS,
            resume_window_ms=30_000,
            max_ahead_ms=5000,
            instance="one",
        )
        return stored

    async def _hear(self, frame: bytes) -> None:
        position, payload = int.from_bytes(frame[4:12], "little"), frame[12:]
        assert frame[:4] == b"SEQ1"
        assert position == self.position
        first_byte = (position + self.server.began_at) * self.width
        assert payload == samples(first_byte, first_byte + len(payload))
        self.position += len(payload) // self.width
        await self._finish_utterances()

    async def _finish_utterances(self) -> None:
        length = self.server.utterance_samples
        while self.finals_left > 0 and self.position // length > self.open_at // length:
            await self._finish((self.open_at // length + 1) * length)

    async def _finish_all(self) -> None:
        await self._finish_utterances()
        await self._finish(self.position)

    async def _finish(self, end: int) -> None:
        start, self.open_at = self.open_at, end
        if start < end:
            self.server.finals.append((start, end))
            await self._send_final(start, end)
            self.finals_left -= 1
            if self.act.acks:
                await self._ack()

    async def _go_on(self) -> bool:
        """What comes after the finals of this connection; whether it is served further."""
        match self.act:
            case GoAway():
                self.finals_left, self.has_asked_to_go = inf, True
                await self._send("goaway", deadline_ms=400, reason="restarting")
                return True
            case CloseWith():
                if self.act.error:
                    await self._send("error", code=self.act.error, message="because")
                await self.websocket.aclose(self.act.code, self.act.reason)
            case HalfOpen():
                pass
            case _:
                await self.websocket._stream.send_eof()  # closing it could take back what was sent before
        return False

    async def _send_final(self, start: int, end: int, **extra: object) -> None:
        await self._send(
            "transcripts",
            session_id="call-1",
            client_id="anna",
            stream_id=f"s{self.server.streams}",
            segment_id=f"s{self.server.streams}-{start}",
            text=f"{start}",
            is_final=True,
            language="en",
            start=start / 8000,
            end=end / 8000,
            start_sample=start,
            end_sample=end,
            **extra,
        )

    async def _ack(self, **extra: object) -> None:
        await self._send("ack", sample=self.open_at, **extra)

    async def _send(self, kind: str, **fields: object) -> None:
        await self.websocket.send_message(json.dumps({"type": kind, "timestamp": 1} | fields))


@asynccontextmanager
async def scripted_server(*plan: Act) -> AsyncIterator[ScriptedServer]:
    script = ScriptedServer(plan)
    async with trio.open_nursery() as nursery:
        start = partial(serve_websocket, script.handle, "127.0.0.1", 0, ssl_context=None)
        server = await nursery.start(partial(start, connect_timeout=inf))
        script.url = f"ws://127.0.0.1:{server.port}"
        yield script
        nursery.cancel_scope.cancel()
