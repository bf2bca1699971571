"""`scale-deploy.sh status`: each instance's state, streams, capacity, memory and version, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from trio_stt.fleet.goal import Goal, Progress
from trio_stt.fleet.supervisor import Process, State


def table(
    processes: Sequence[Process], health: Mapping[str, Mapping[str, Any]], progress: Progress, ports: Mapping[str, int]
) -> Table:
    """`health`: what instances answered, and `ports`: where each listens, by the names of their processes."""
    shown = Table(box=None, pad_edge=False)
    for heading in (
        "process",
        "state",
        "new clients",
        "streams",
        "capacity",
        "load",
        "memory",
        "up",
        "port",
        "version",
    ):
        shown.add_column(heading, justify="left" if heading in ("process", "state", "version") else "right")
    for process in sorted(processes, key=lambda each: (each.name not in ports, ports.get(each.name, 0), each.name)):
        answer = health.get(process.name, {})
        capacity = answer.get("capacity", {})
        routed = "yes" if _number(process.name) in progress.routed else "no"
        shown.add_row(
            process.name,
            _state(process, answer, is_instance=process.name in ports),
            routed if process.name in ports else "",
            str(capacity.get("streams", "")),
            str(capacity.get("limit", "")),
            f"{capacity['load']:.0%}" if "load" in capacity else "",
            f"{memory_mb(process.pid):.0f} MB" if process.pid else "",
            duration(process.up_s) if process.up_s else "",
            str(ports.get(process.name, "")),
            str(answer.get("version", "")),
        )
    return shown


def summary(goal: Goal, progress: Progress) -> str:
    """In a line: what the fleet shall be, what it is doing, why it cannot."""
    size = f"{goal.least}" if goal.least == goal.most else f"{goal.least} to {goal.most}, now {progress.instances}"
    said = progress.problem or progress.doing or ("as asked for" if progress.reached == goal.serial else "on the way")
    return f"instances: {size}; {said}"


def memory_mb(pid: int) -> float:
    """The resident memory of a process; 0 if it is not there, or not on Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) / 1024 if sizes else 0.0


def duration(seconds: float) -> str:
    """For people, e.g. "3 h 5 min"."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _state(process: Process, answer: Mapping[str, Any], *, is_instance: bool) -> str:
    # supervisor's "starting" means only that it does not know yet whether the process lasts.
    if answer and process.state in (State.RUNNING, State.STARTING):
        return f"{answer['status']}" if answer.get("ready") else "not ready"
    state = process.state.value.lower()
    return f"{state}, no answer" if is_instance and process.state is State.RUNNING else state


def _number(name: str) -> int:
    return int(name.rpartition("-")[2]) if name.rpartition("-")[2].isdigit() else 0
