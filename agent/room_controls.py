"""Answers the messages by which participants control the agent: docs/agent.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from livekit import rtc

from agent.control import (
    CONTROL,
    CONTROL_ANSWER,
    SPEECH,
    SPEECH_ANSWER,
    AskStatus,
    ControlError,
    Say,
    Start,
    Stop,
    may_control,
    read_message,
)
from agent.room_post import RoomPost


class Controlled(Protocol):
    """What is controlled: `agent.room_agent.RoomAgent`."""

    def start(self, languages: tuple[str, ...] | None, speak: bool | None) -> None:
        """Captions what is said from now on; None: as before."""
        ...

    def stop(self) -> None:
        """Captions nothing from now on."""
        ...

    def say(self, text: str, language: str, voice: str | None, done: Callable[[str], None]) -> None:
        """Speaks `text` into the room; `done` is told how it went."""
        ...

    def state(self) -> Mapping[str, object]:
        """What is going on, as participants are told it."""
        ...


class RoomControls:
    """Takes data packets. `controllers`: identities that are permitted whatever their attributes are."""

    def __init__(self, controlled: Controlled, post: RoomPost, controllers: tuple[str, ...]) -> None:
        self._controlled = controlled
        self._post = post
        self._controllers = controllers

    def take(self, packet: rtc.DataPacket) -> None:
        """A data packet came. One of another topic, or of nobody in the room, is none of ours."""
        sender = packet.participant
        if packet.topic not in (CONTROL, SPEECH) or sender is None:
            return
        topic = CONTROL_ANSWER if packet.topic == CONTROL else SPEECH_ANSWER
        if not may_control(
            sender.identity, sender.attributes, sender.permissions.can_update_metadata, self._controllers
        ):
            self._fail(topic, sender.identity, "not_permitted", "your token does not permit you to control the agent")
            return
        try:
            message = read_message(packet.topic, packet.data)
        except ControlError as error:
            self._fail(topic, sender.identity, "bad_message", str(error))
            return
        match message:
            case Start(languages=languages, speak=speak):
                self._controlled.start(languages, speak)
            case Stop():
                self._controlled.stop()
            case AskStatus():
                pass
            case Say(id=id, text=text, language=language, voice=voice):
                to = sender.identity
                self._controlled.say(
                    text, language, voice, lambda status: self._post.answer(topic, {"id": id, "status": status}, to)
                )
                return
        self._post.answer(topic, {"type": "status", "id": message.id, **self._controlled.state()}, sender.identity)

    def _fail(self, topic: str, to: str, code: str, message: str) -> None:
        self._post.answer(topic, {"type": "error", "code": code, "message": message}, to)
