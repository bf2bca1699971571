"""The table of `scale-deploy.sh status`."""

import io
import os

import pytest
from rich.console import Console

from trio_stt.fleet.goal import Goal, Progress
from trio_stt.fleet.status import duration, memory_mb, summary, table
from trio_stt.fleet.supervisor import Process, State

HEALTH = {
    "status": "degraded",
    "ready": True,
    "version": "1.2.3",
    "capacity": {"streams": 7, "limit": 20, "load": 0.354},
}


def shown(processes: list[Process], health: dict, routed: tuple[int, ...], ports: dict[str, int]) -> list[list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(processes, health, Progress(routed=routed), ports))
    return [line.split() for line in console.export_text().splitlines()]


def test_each_instance_has_its_state_streams_capacity_memory_and_version() -> None:
    processes = [
        Process("nginx", State.RUNNING, 0, 5),
        Process("instance-10", State.BACKOFF, 0, 0),
        Process("instance-2", State.RUNNING, os.getpid(), 4000),
        Process("instance-3", State.RUNNING, 0, 10),
    ]
    ports = {"instance-2": 8002, "instance-3": 8003, "instance-10": 8010}
    health = {"instance-2": HEALTH, "instance-3": {**HEALTH, "ready": False}}
    _, second, third, tenth, nginx = shown(processes, health, (2,), ports)
    memory = f"{memory_mb(os.getpid()):.0f}"
    assert second[:6] == ["instance-2", "degraded", "yes", "7", "20", "35%"]
    assert abs(float(second[6]) - float(memory)) < 20
    assert second[7:] == ["MB", "1", "h", "6", "min", "8002", "1.2.3"]
    assert third[:4] == ["instance-3", "not", "ready", "no"]
    assert tenth == ["instance-10", "backoff", "no", "8010"]
    assert nginx == ["nginx", "running", "5", "s"]


def test_who_answers_is_not_called_starting() -> None:
    ports = {"instance-1": 8001, "instance-2": 8002}
    processes = [Process(name, State.STARTING, 0, 3) for name in ports]
    _, first, second = shown(processes, {"instance-1": HEALTH}, (1,), ports)
    assert first[:3] == ["instance-1", "degraded", "yes"]
    assert second[:3] == ["instance-2", "starting", "no"]


def test_who_runs_and_does_not_answer_is_said_so() -> None:
    rows = shown([Process("instance-1", State.RUNNING, 0, 9)], {}, (), {"instance-1": 8001})
    assert rows[1][1:4] == ["running,", "no", "answer"]


@pytest.mark.parametrize(
    ("goal", "progress", "line"),
    [
        (Goal(3, 2, 2, 0, 8001), Progress(reached=3, instances=2), "instances: 2; as asked for"),
        (Goal(3, 2, 2, 0, 8001), Progress(reached=2), "instances: 2; on the way"),
        (Goal(3, 2, 5, 0, 8001), Progress(reached=3, instances=4), "instances: 2 to 5, now 4; as asked for"),
        (Goal(3, 2, 2, 1, 8001), Progress(doing="restarting instance-1"), "instances: 2; restarting instance-1"),
        (Goal(3, 2, 2, 1, 8001), Progress(problem="it broke", doing="x"), "instances: 2; it broke"),
    ],
)
def test_a_line_says_how_it_stands(goal: Goal, progress: Progress, line: str) -> None:
    assert summary(goal, progress) == line


def test_the_memory_of_nobody_is_nothing() -> None:
    assert memory_mb(2**22 + 1) == 0


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (60, "1 min"), (3599, "59 min"), (7260, "2 h 1 min")])
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
