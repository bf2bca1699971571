"""The HTTP routes: health, statistics, metrics; and what an HTTP client is told that meant the WebSocket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from attrs import frozen
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from trio_stt import __version__
from trio_stt.dialects.request import Refusal
from trio_stt.gateway.admission import Admission
from trio_stt.gateway.answers import Answer, answer, answer_errors_alike
from trio_stt.gateway.auth import ANYONE, EVERYTHING, Authenticator, Grant, token_of
from trio_stt.gateway.connections import Connections
from trio_stt.operations.health import Health, Status, worst
from trio_stt.operations.metrics import Metrics
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.capacity import Capacity
from trio_stt.recognition.decoders import Decoders
from trio_stt.recognition.degradation import Degradation

MAX_BODY_BYTES = 64 * 1024
"""Largest body of a plain HTTP request; ours have a hundred bytes."""


@frozen
class Surroundings:
    """What the routes tell about."""

    instance: str
    health: Health
    admission: Admission
    connections: Connections
    metrics: Metrics
    breakers: Callable[[], Iterable[Breaker]]
    decoders: Decoders
    capacity: Capacity
    degradation: Degradation
    describe_service: Callable[[str | None], dict[str, object]]
    fleet: Callable[[], dict[str, object]]
    authenticator: Authenticator
    asks_for_tokens: bool


def add_routes(app: QuartTrio, around: Surroundings) -> None:
    """Adds every plain HTTP route and the JSON error bodies to `app`."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.before_request
    async def take_all() -> None:
        # What is answered before all of it has come costs the client its connection, and perhaps the answer.
        await request.get_data()

    @app.get("/health")
    async def health() -> tuple[Response, int]:
        return _health(around)

    @app.get("/health/simple")
    async def simple_health() -> tuple[Response, int]:
        serving = around.admission.ready and worst(around.health.parts()) is not Status.UNHEALTHY
        status = Status.HEALTHY if serving else Status.UNHEALTHY
        return jsonify(status=str(status), timestamp=time.time()), 200 if serving else 503

    @app.get("/ws/stats")
    async def statistics() -> Response | Answer:
        grant = authorized(around.authenticator) if around.asks_for_tokens else EVERYTHING
        if isinstance(grant, Refusal):
            return answer(grant)
        if not grant.is_service or grant.sessions is not None:
            return answer(
                Refusal(403, "not_a_service", f"statistics need a token with sub {ANYONE} and session {ANYONE}")
            )
        everybody = grant.admin or not around.asks_for_tokens
        return jsonify(_statistics(around, None if everybody else grant.tenant))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(around.metrics.expose(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/ws/vosk/")
    async def not_a_websocket() -> tuple[Response, int, dict[str, str]]:
        body = {"error": {"code": "upgrade_required", "message": "connect with a WebSocket client", "parameter": None}}
        return jsonify(body), 426, {"Upgrade": "websocket"}

    answer_errors_alike(app)


def authorized(authenticator: Authenticator) -> Grant | Refusal:
    """What the token of the present request allows."""
    token = token_of(request.headers.getlist("Authorization"))
    return token if isinstance(token, Refusal) else authenticator.verify(token)


def _health(around: Surroundings) -> tuple[Response, int]:
    parts = around.health.parts()
    status = worst(parts)
    body = {
        "status": str(status),
        "ready": around.admission.ready,
        "timestamp": time.time(),
        "uptime_seconds": round(around.health.uptime_s, 3),
        "version": __version__,
        "instance": around.instance,
        "capacity": {
            "streams": around.admission.speakers,
            "limit": around.admission.speakers_limit,
            "parked": around.admission.parked,
            "load": round(around.capacity.load, 3),
            "level": around.degradation.level.name,
        },
        "details": {
            name: {"status": str(part.status), "message": part.message, **part.figures} for name, part in parts.items()
        },
    }
    return jsonify(body), 503 if status is Status.UNHEALTHY else 200


def _statistics(around: Surroundings, tenant: str | None) -> dict[str, object]:
    """Of one tenant, where it is about clients; None: of all."""
    workers = around.decoders.statistics()
    return {
        "websocket_stats": around.connections.statistics(tenant),
        "frequent_disconnect_codes": around.connections.frequent_codes(tenant),
        "active_clients_info": [
            {
                "stream_id": connection.stream_id,
                "client_id": connection.request.client_id,
                "session_id": connection.request.session_id,
                "speak": connection.request.speak,
                "language": connection.request.language,
                "parked": connection.parked,
                "connected_seconds": round(time.monotonic() - connection.opened_at, 3),
            }
            for connection in around.connections.of(tenant)
        ],
        "circuit_breaker_status": {breaker.name: _breaker(breaker) for breaker in around.breakers()},
        "service_info": around.describe_service(tenant),
        "workers": {
            "threads": workers.threads,
            "busy": workers.busy,
            "waiting": workers.waiting,
            "calls": workers.calls,
            "oldest_call_seconds": round(workers.oldest_call_s, 3),
        },
        "fleet": around.fleet(),
    }


def _breaker(breaker: Breaker) -> dict[str, object]:
    seen = breaker.statistics()
    return {
        "state": seen.state.value,
        "recent_calls": seen.calls,
        "recent_failures": seen.failures,
        "opened": seen.opened,
        "retry_after_seconds": round(seen.retry_after_s, 3),
    }
