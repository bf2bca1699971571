"""What is asked of the agent for one room."""

from __future__ import annotations

from attrs import frozen


@frozen
class RoomRequest:
    """A room to caption. `languages`: translations that everybody in it gets; `speak`: they are spoken, too."""

    room_name: str
    languages: tuple[str, ...] = ()
    speak: bool = False
