"""Refusals as plain HTTP answers, on Trio and on asyncio alike."""

from __future__ import annotations

from typing import Any

from quart import Quart, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from trio_stt.dialects.request import Refusal

Answer = tuple[Response, int, dict[str, str]]


def answer(refusal: Refusal) -> Answer:
    """The plain HTTP answer for it."""
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return jsonify(refusal.body()), refusal.status, headers


async def whole_body() -> bytes:
    """The body of the present request. May be cancelled."""
    body: Any = await request.get_data()
    return bytes(body)


def answer_errors_alike(app: Quart) -> None:
    """From now on `app` answers 404, 405, 413 and the like with the same body."""

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> tuple[Response, int]:
        code = error.name.lower().replace(" ", "_")
        return jsonify(error={"code": code, "message": error.description, "parameter": None}), error.code or 500
