"""Into a LiveKit room and out of it, with a token of our own; neither is ever broken off half-way.

The SDK's `Room.connect` must not be cancelled: the native library would go on connecting, and nobody would close that.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from livekit import rtc

from agent.settings import AgentSettings
from agent.tokens import room_token
from agent.unbroken import unbroken

DISCONNECT_S: Final = 5.0
"""How long the native library may take to say goodbye."""

CONNECT_S: Final = 5.0
"""How long one attempt to reach the LiveKit server may take; the SDK makes several."""


class RoomNotEnteredError(Exception):
    """The room could not be entered. The message says why and what to do; it holds no token."""


async def enter(room: rtc.Room, settings: AgentSettings, room_name: str) -> None:
    """Connects `room`, subscribed to nothing yet. Raises `RoomNotEnteredError`.

    If cancelled, waits until it is out again, and raises CancelledError then.
    """
    options = rtc.RoomOptions(auto_subscribe=False, connect_timeout=CONNECT_S)
    connecting = asyncio.create_task(room.connect(settings.livekit_url, room_token(settings, room_name), options))
    try:
        await unbroken(connecting)
    except asyncio.CancelledError:
        if not connecting.cancelled() and connecting.exception() is None:
            await leave(room, structlog.get_logger())
        raise
    except rtc.ConnectError as error:
        raise RoomNotEnteredError(_why(error.message, settings.livekit_url)) from None


async def leave(room: rtc.Room, log: structlog.stdlib.BoundLogger) -> None:
    """Disconnects `room`, if it is connected; takes `DISCONNECT_S` at most. If cancelled, it leaves all the same."""
    leaving = asyncio.create_task(room.disconnect())
    try:
        await unbroken(asyncio.wait([leaving], timeout=DISCONNECT_S))
    finally:
        if not leaving.done():
            log.warning("room_not_left_in_time")
        elif (error := leaving.exception()) is not None:
            log.warning("room_not_left", error=type(error).__name__)


def _why(message: str, url: str) -> str:
    """The native library's words, which may hold the token, as ours."""
    text = message.lower()
    if "401" in text or "unauthorized" in text or "invalid token" in text or "invalid api key" in text:
        return (
            f"the LiveKit server at {url} refuses our token: LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not a key of "
            "it, or the clocks differ"
        )
    if "404" in text:
        return f"there is no LiveKit server at {url}, or it has no such room and makes none: see LIVEKIT_URL"
    return f"the LiveKit server at {url} cannot be reached: see LIVEKIT_URL"
