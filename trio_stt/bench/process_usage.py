"""What a process takes of the machine, as Linux tells in /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of the process so far, user and system. Raises `OSError` if it is gone.

    Fields 14 and 15 of /proc/PID/stat (proc(5)), in ticks of 10 ms.
    """
    return _cpu_seconds(Path(f"/proc/{pid}/stat"))


def thread_cpu_seconds(pid: int, thread: int) -> float:
    """Processor time of one thread of the process so far; its first has the process's number. Raises `OSError`."""
    return _cpu_seconds(Path(f"/proc/{pid}/task/{thread}/stat"))


def machine_cpu_seconds() -> float:
    """Processor time that all processes have taken so far, with what the hypervisor gave to others (/proc/stat)."""
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(
        int, Path("/proc/stat").read_text("utf-8").split()[1:9]
    )
    return (user + nice + system + irq + softirq + stolen) / _TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Memory of the process that is in RAM now, in MB of 10^6 bytes. Raises `OSError` if it is gone."""
    return _status_mb(pid, "VmRSS")


def peak_resident_mb(pid: int) -> float:
    """The most that `resident_mb` ever was. Raises `OSError` if it is gone."""
    return _status_mb(pid, "VmHWM")


def _cpu_seconds(stat: Path) -> float:
    fields = stat.read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _status_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/{pid}/status has no {field}: the process has ended.")
