"""What is asked of the fleet, and what has become of it: two small files between the commands and the conductor."""

from __future__ import annotations

import json
from typing import TypeVar

import attrs
from attrs import frozen

from trio_stt.fleet.folder import FleetError, Folder, replace_text


@frozen
class Goal:
    """What the fleet shall be. `serial` grows with each command, `restarts` with each that asks for a restart.

    `least` instances; up to `most`, as many as are needed: the same number for a fixed fleet. The first listens on
    `base_port`.
    """

    serial: int
    least: int
    most: int
    restarts: int
    base_port: int


@frozen
class Progress:
    """What it is. `reached`: the goal's serial when it was last reached; `problem`: why it cannot be, "" if it can."""

    reached: int = 0
    restarts: int = 0
    instances: int = 0
    routed: tuple[int, ...] = ()
    doing: str = ""
    problem: str = ""


T = TypeVar("T", Goal, Progress)


def read_goal(folder: Folder) -> Goal:
    """Blocks. Raises `FleetError` if there is none."""
    try:
        return Goal(**json.loads(folder.goal.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise FleetError("There is no fleet here: 'scale-deploy.sh start N' makes one.") from error


def write_goal(folder: Folder, goal: Goal) -> None:
    """Blocks."""
    replace_text(folder.goal, json.dumps(attrs.asdict(goal)))


def read_progress(folder: Folder) -> Progress:
    """Blocks. Before anything was written, nothing was reached."""
    try:
        fields = json.loads(folder.progress.read_text())
        return Progress(**{**fields, "routed": tuple(fields["routed"])})
    except (OSError, ValueError, TypeError, KeyError):
        return Progress()


def write_progress(folder: Folder, progress: Progress) -> None:
    """Blocks."""
    replace_text(folder.progress, json.dumps(attrs.asdict(progress)))
