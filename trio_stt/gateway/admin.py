"""``/admin/…``: what an operator can see and do of one instance. Not reachable through a load balancer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog
from attrs import frozen
from quart import Blueprint, Response, jsonify, request

from trio_stt.dialects.events import Close, Failure
from trio_stt.dialects.request import Refusal, primary_subtag, shown
from trio_stt.gateway.addresses import Addresses
from trio_stt.gateway.answers import Answer, answer
from trio_stt.gateway.auth import ANYONE, Authenticator
from trio_stt.gateway.connections import Connections, LiveConnection
from trio_stt.gateway.http import authorized
from trio_stt.gateway.model_refusals import not_loaded, not_unloaded
from trio_stt.operations.logs import LEVELS, set_level
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.model_shelf import ModelShelf
from trio_stt.sessions.session import Session, Sessions

CLOSED_BY_ADMIN = Close(1008, "closed_by_admin", Failure("closed_by_admin", "an administrator has ended this stream"))


@frozen
class Controls:
    """What an operator has hands on. `drain`: begins it, and returns at once."""

    authenticator: Authenticator
    addresses: Addresses
    connections: Connections
    sessions: Sessions
    shelf: ModelShelf
    breakers: Callable[[], Mapping[str, Breaker]]
    drain: Callable[[], None]


def admin_routes(controls: Controls) -> Blueprint:
    """All routes, each behind a service token with ``admin: true``, in every AUTH_MODE."""
    routes = Blueprint("admin", __name__, url_prefix="/admin")
    log = structlog.get_logger()

    @routes.before_request
    async def only_admins() -> Answer | None:
        refusal = _refusal(controls)
        return None if refusal is None else answer(refusal)

    @routes.get("/streams")
    async def streams() -> Response:
        return jsonify(streams=[_stream(connection) for connection in controls.connections])

    @routes.get("/sessions")
    async def sessions() -> Response:
        return jsonify(sessions=[_session(session) for session in controls.sessions])

    @routes.delete("/streams/<stream_id>")
    async def close_stream(stream_id: str) -> Response | Answer:
        connection = controls.connections.find(stream_id)
        if connection is None:
            return answer(_unknown("stream", stream_id))
        log.warning("admin_closed_stream", closed_stream_id=stream_id)
        connection.stop(CLOSED_BY_ADMIN)
        return jsonify(result="closed", streams=1)

    @routes.delete("/sessions/<session_id>")
    async def close_session(session_id: str) -> Response | Answer:
        found = [session for session in controls.sessions if session.session_id == session_id]
        tenant = request.args.get("tenant")
        if tenant is not None:
            found = [session for session in found if session.tenant == tenant]
        if not found:
            return answer(_unknown("session", session_id))
        if len(found) > 1:
            message = f"{len(found)} tenants have a session of this name; say which: ?tenant=…"
            return answer(Refusal(409, "ambiguous", message, "tenant"))
        log.warning("admin_closed_session", closed_session_id=session_id, clients=len(found[0]))
        members = list(found[0])
        for member in members:
            member.stop(CLOSED_BY_ADMIN)
        return jsonify(result="closed", streams=len(members))

    @routes.post("/drain")
    async def drain() -> tuple[Response, int]:
        log.warning("admin_drain")
        controls.drain()
        return jsonify(result="draining"), 202

    @routes.post("/models/<language>/load")
    async def load_model(language: str) -> Response | Answer:
        log.warning("admin_load_model", language=language)
        outcome = await controls.shelf.load(primary_subtag(language))
        refusal = not_loaded(language, outcome)
        return jsonify(result=outcome.value) if refusal is None else answer(refusal)

    @routes.post("/models/<language>/unload")
    async def unload_model(language: str) -> Response | Answer:
        log.warning("admin_unload_model", language=language)
        outcome = await controls.shelf.unload(primary_subtag(language))
        refusal = not_unloaded(language, outcome)
        return jsonify(result=outcome.value) if refusal is None else answer(refusal)

    @routes.post("/breakers/<name>/reset")
    async def reset_breaker(name: str) -> Response | Answer:
        breaker = controls.breakers().get(name)
        if breaker is None:
            return answer(_unknown("breaker", name))
        log.warning("admin_reset_breaker", name=name)
        breaker.reset()
        return jsonify(result="reset", state=breaker.state.value)

    @routes.post("/log-level")
    async def log_level() -> Response | Answer:
        body = await request.get_json(force=True, silent=True)
        level = body.get("level") if isinstance(body, dict) else None
        if level not in LEVELS:
            return answer(Refusal(400, "bad_value", f'expected {{"level": one of {", ".join(LEVELS)}}}', "level"))
        set_level(level)
        log.warning("admin_log_level", least=level)
        return jsonify(result="set", level=level)

    return routes


def _refusal(controls: Controls) -> Refusal | None:
    if controls.addresses.is_proxied(request.remote_addr or "", request.headers.getlist("X-Forwarded-For")):
        return Refusal(403, "not_through_proxies", "administration goes to the instance itself, not through a proxy")
    grant = authorized(controls.authenticator)
    if isinstance(grant, Refusal):
        return grant
    if not (grant.is_service and grant.admin):
        return Refusal(403, "not_an_admin", f"administration needs a token with sub {ANYONE} and admin true")
    return None


def _unknown(what: str, name: str) -> Refusal:
    return Refusal(404, f"unknown_{what}", f"there is no {what} {shown(name)} here")


def _stream(connection: LiveConnection) -> dict[str, object]:
    return {
        "stream_id": connection.stream_id,
        "tenant": connection.request.tenant,
        "session_id": connection.request.session_id,
        "client_id": connection.request.client_id,
        "speak": connection.request.speak,
        "language": connection.request.language,
        "parked": connection.parked,
        "connected_seconds": round(time.monotonic() - connection.opened_at, 3),
    }


def _session(session: Session) -> dict[str, object]:
    return {
        "tenant": session.tenant,
        "session_id": session.session_id,
        "clients": sorted(member.client_id for member in session),
    }
