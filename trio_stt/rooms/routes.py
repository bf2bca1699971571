"""``/agent/…`` of the server: the LiveKit agent is sent into rooms, and out of them again."""

from __future__ import annotations

import structlog
from attrs import frozen
from quart import Blueprint, jsonify, request

from trio_stt.dialects.request import Refusal
from trio_stt.gateway.answers import Answer, answer, whole_body
from trio_stt.gateway.auth import unauthorized
from trio_stt.rooms.access import RoomAccess
from trio_stt.rooms.dispatch import Dispatcher, Placed
from trio_stt.rooms.livekit_tokens import LiveKitTokens
from trio_stt.rooms.wanted import WantedRoom, read_cancelled, read_wanted
from trio_stt.rooms.webhooks import RoomBegan, RoomFinished, read_webhook


@frozen
class RoomParts:
    """What the routes need. `webhooks` None: LiveKit's are not taken."""

    access: RoomAccess
    dispatcher: Dispatcher
    webhooks: LiveKitTokens | None


def room_routes(parts: RoomParts) -> Blueprint:
    """All routes, each behind a token, in every AUTH_MODE."""
    routes = Blueprint("rooms", __name__, url_prefix="/agent")
    log = structlog.get_logger()

    @routes.post("/join")
    async def join() -> Answer:
        grant = parts.access.grant(request.headers.getlist("Authorization"))
        if isinstance(grant, Refusal):
            return answer(grant)
        wanted = read_wanted(await whole_body())
        if isinstance(wanted, Refusal):
            return answer(wanted)
        refusal = grant.refusal(wanted.room_name)
        return answer(refusal) if refusal else _tell(wanted.room_name, await parts.dispatcher.join(wanted))

    @routes.post("/cancel")
    async def cancel() -> Answer:
        grant = parts.access.grant(request.headers.getlist("Authorization"))
        if isinstance(grant, Refusal):
            return answer(grant)
        room_name = read_cancelled(await whole_body())
        if isinstance(room_name, Refusal):
            return answer(room_name)
        refusal = grant.refusal(room_name)
        return answer(refusal) if refusal else _tell(room_name, await parts.dispatcher.cancel(room_name))

    @routes.post("/webhook")
    async def webhook() -> Answer:
        if parts.webhooks is None:
            return answer(Refusal(404, "not_available", "webhooks are not taken here: AGENT_AUTO_JOIN is not set"))
        tokens, body = request.headers.getlist("Authorization"), await whole_body()
        refusal = _NO_SIGNATURE if len(tokens) != 1 else parts.webhooks.webhook_refusal(tokens[0], body)
        if refusal is not None:
            return answer(refusal)
        match read_webhook(body):
            case RoomBegan(room_name):
                outcome = await parts.dispatcher.join(WantedRoom(room_name))
            case RoomFinished(room_name):
                outcome = await parts.dispatcher.cancel(room_name)
            case _:
                return jsonify(result="ignored"), 200, {}
        if isinstance(outcome, Refusal) and outcome.status == 409:
            return jsonify(result="exists"), 200, {}  # somebody has said more exactly what is wanted there
        if isinstance(outcome, Refusal):
            log.warning("webhook_not_done", room_name=room_name, code=outcome.code)
        return _tell(room_name, outcome)

    return routes


_NO_SIGNATURE = unauthorized("missing_token", "LiveKit's signature is needed: one header Authorization with its token")


def _tell(room_name: str, outcome: Placed | Refusal) -> Answer:
    if isinstance(outcome, Refusal):
        return answer(outcome)
    return jsonify(result=outcome.result, room_name=room_name, agent=outcome.agent), 200, {}
