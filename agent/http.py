"""What the agent answers: its health and metrics, servers that open and close rooms, and who has it speak there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx
import structlog
from attrs import field, frozen
from quart import Quart, Response, jsonify, request
from werkzeug.routing import BaseConverter

from agent.metrics import AgentMetrics
from agent.pool import Pool, RoomWorker
from trio_stt import __version__
from trio_stt.dialects.request import Refusal, read_language
from trio_stt.gateway.answers import Answer, answer, answer_errors_alike, whole_body
from trio_stt.operations.logs import without_message
from trio_stt.rooms.access import RoomAccess
from trio_stt.rooms.dispatch import RETRY_AFTER_S, other_settings
from trio_stt.rooms.leases import AwayError, Leases
from trio_stt.rooms.passes import ALL_ROOMS, Passes
from trio_stt.rooms.wanted import MOST_BODY_BYTES, read_fields, read_room_name, read_wanted

MOST_TEXT_CHARACTERS: Final = 2000
"""Of one thing to say: some minutes of speech."""

MOST_VOICE_CHARACTERS: Final = 64

MOST_WAITING: Final = 16
"""Things to say in one room that are not said yet; one more gets 503."""

FORWARD_WITHIN_S: Final = 3.0

_FORWARDED: Final = "X-Agent-Forwarded"


@frozen
class Spoken:
    """What is to be said in a room. `voice` None: the language's own."""

    id: str
    room_name: str
    text: str = field(repr=False)
    language: str = ""
    voice: str | None = None


Speak = Callable[[RoomWorker, Spoken], "Awaitable[None] | Refusal"]
"""Has something said in the room of a life: what ends when it was said, or why it cannot be."""


@frozen
class AgentParts:
    """What the routes need. `passes` None: servers are believed without one (AUTH_MODE=off, on loopback)."""

    pool: Pool
    leases: Leases
    access: RoomAccess
    passes: Passes | None
    speak: Speak | None
    metrics: AgentMetrics


def agent_app(parts: AgentParts) -> Quart:
    """The app, for hypercorn on asyncio."""
    app = Quart("agent")
    app.config["MAX_CONTENT_LENGTH"] = 8 * MOST_BODY_BYTES
    app.url_map.merge_slashes = False  # a room's name may have two
    app.url_map.converters["room"] = _RoomConverter
    answer_errors_alike(app)
    began = time.monotonic()
    speaking = _Speaking(parts.metrics)

    @app.before_request
    async def take_all() -> None:
        # What is answered before all of it has come costs the client its connection, and perhaps the answer.
        await request.get_data()

    @app.get("/health")
    async def health() -> tuple[Response, int]:
        pool = parts.pool
        record = pool.record
        status = "healthy" if pool.connected_to_others else "degraded"
        body = {
            "status": status,
            "ready": not pool.draining and not pool.full,
            "timestamp": time.time(),
            "uptime_seconds": round(time.monotonic() - began, 3),
            "version": __version__,
            "agent": pool.agent_id,
            "capacity": {
                "rooms": record.rooms,
                "most_rooms": record.most_rooms,
                "tracks": record.tracks,
                "most_tracks": record.most_tracks,
            },
        }
        return jsonify(body), 200

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(parts.metrics.expose(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/rooms")
    async def rooms() -> Answer:
        refusal = _not_a_server(parts, ALL_ROOMS)
        if refusal is not None:
            return answer(refusal)
        record = parts.pool.record
        counts = {name: getattr(record, name) for name in ("rooms", "most_rooms", "tracks", "most_tracks")}
        return jsonify(agent_id=record.agent_id, url=record.url, **counts, room_names=list(parts.pool)), 200, {}

    @app.post("/rooms")
    async def open_room() -> Answer:
        # Web pages can send anything but this without asking first.
        if request.mimetype != "application/json":
            return answer(Refusal(400, "bad_json", "the body must be application/json"))
        wanted = read_wanted(await whole_body())
        if isinstance(wanted, Refusal):
            return answer(wanted)
        refusal = _not_a_server(parts, wanted.room_name)
        if refusal is not None:
            return answer(refusal)
        opened = await parts.pool.open(wanted)
        if opened.result in ("full", "draining"):
            message = f"agent {parts.pool.agent_id} is {opened.result}"
            return answer(Refusal(503, opened.result, message, retry_after_s=RETRY_AFTER_S))
        if opened.result == "other_settings":
            body = {**other_settings(str(opened.agent_id)).body(), "agent": opened.agent_id}
            return jsonify(body), 409, {}
        return jsonify(result=opened.result, agent=opened.agent_id), 201 if opened.result == "created" else 200, {}

    @app.delete("/rooms/<room:room_name>")
    async def close_room(room_name: str) -> Answer:
        refusal = _not_a_server(parts, room_name)
        if refusal is not None:
            return answer(refusal)
        closed = await parts.pool.close(room_name)
        return jsonify(result="cancelled" if closed else "absent", agent=parts.pool.agent_id), 200, {}

    @app.post("/api/tts/speak")
    async def speak() -> Answer:
        headers, body = request.headers.getlist("Authorization"), await whole_body()
        forwarded = _FORWARDED in request.headers
        by_agent = forwarded and parts.passes is not None
        grant = None if by_agent else parts.access.grant(headers)
        if isinstance(grant, Refusal):
            return answer(grant)
        wanted = read_fields(body, _SPOKEN, ("room_name", "text", "language"))
        if isinstance(wanted, Refusal):
            return answer(wanted)
        spoken = Spoken(secrets.token_hex(8), **wanted)
        refusal = _not_a_server(parts, spoken.room_name) if grant is None else grant.refusal(spoken.room_name)
        if refusal is not None:
            return answer(refusal)
        worker = parts.pool.worker(spoken.room_name)
        if worker is None:
            return answer(_NOT_HERE) if forwarded else await _forward(parts, spoken.room_name, body, headers)
        if parts.speak is None:
            return answer(Refusal(404, "not_available", "this agent has no voice: speech is not installed or not set"))
        refusal = speaking.begin(parts.speak, worker, spoken)
        return answer(refusal) if refusal else (jsonify(id=spoken.id), 202, {})

    return app


class _RoomConverter(BaseConverter):
    """The rest of a path, whatever it is."""

    regex = ".+"
    part_isolating = False


class _Speaking:
    """What is being said, or waits for that."""

    def __init__(self, metrics: AgentMetrics) -> None:
        self._metrics = metrics
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._log = structlog.get_logger()

    def begin(self, speak: Speak, worker: RoomWorker, spoken: Spoken) -> Refusal | None:
        """Has it said, without waiting for that; or says why not."""
        if list(self._tasks.values()).count(spoken.room_name) >= MOST_WAITING:
            message = f"{MOST_WAITING} texts wait to be spoken in this room; try again in {RETRY_AFTER_S} s"
            return Refusal(503, "too_much_to_say", message, retry_after_s=RETRY_AFTER_S)
        said = speak(worker, spoken)
        if isinstance(said, Refusal):
            return said
        task = asyncio.create_task(self._speak(said))
        self._tasks[task] = spoken.room_name
        task.add_done_callback(self._tasks.pop)
        return None

    async def _speak(self, said: Awaitable[None]) -> None:
        try:
            await said
            self._metrics.spoken.labels("said").inc()
        except Exception as error:  # noqa: BLE001  (a boundary: what was to be said is not, the rest goes on)
            self._metrics.spoken.labels("failed").inc()
            self._log.warning("speech_failed", error=without_message(error))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MOST_TEXT_CHARACTERS:
        raise ValueError(f"a text of 1 to {MOST_TEXT_CHARACTERS} characters")
    return value


def _voice(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_VOICE_CHARACTERS or not value.isprintable():
        raise ValueError(f"a voice's name of 1 to {MOST_VOICE_CHARACTERS} printable characters")
    return value


_SPOKEN: Final[dict[str, Callable[[object], object]]] = {
    "room_name": read_room_name,
    "text": _text,
    "language": read_language,
    "voice": _voice,
}


def _not_a_server(parts: AgentParts, room_name: str) -> Refusal | None:
    if parts.passes is not None:
        return parts.passes.refusal(request.headers.getlist("Authorization"), room_name)
    return _FROM_A_PAGE if request.headers.getlist("Origin") else None


_FROM_A_PAGE: Final = Refusal(403, "origin_not_allowed", "web pages open no rooms")

_NOT_HERE: Final = Refusal(404, "no_agent_in_room", "no agent is in this room", "room_name")

_GOING: Final = Refusal(
    503,
    "no_agent_there",
    f"the agent in this room does not answer, and another will be there; try again in {RETRY_AFTER_S} s",
    retry_after_s=RETRY_AFTER_S,
)

_UNKNOWN: Final = Refusal(
    503,
    "agents_unknown",
    f"which agent is in this room cannot be found out now; try again in {RETRY_AFTER_S} s",
    retry_after_s=RETRY_AFTER_S,
)


async def _forward(parts: AgentParts, room_name: str, body: bytes, shown: Sequence[str]) -> Answer:
    """Asks the agent that is in the room: with a pass, or where none is asked for with what was `shown` here."""
    try:
        url = (await parts.leases.look(room_name)).url
    except AwayError:
        return answer(_UNKNOWN)
    if not url or url == parts.pool.record.url:
        return answer(_NOT_HERE)
    headers = {"Authorization": shown[0]} if parts.passes is None else parts.passes.headers(room_name)
    headers |= {_FORWARDED: "1", "Content-Type": "application/json"}
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=FORWARD_WITHIN_S) as client:
            said = await client.post(f"{url}/api/tts/speak", content=body, headers=headers)
        fields = said.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        structlog.get_logger().warning("agent_unreachable", url=url, error=type(error).__name__)
        return answer(_GOING)
    kept = {name: said.headers[name] for name in ("Retry-After",) if name in said.headers}
    return jsonify(fields), said.status_code, kept
