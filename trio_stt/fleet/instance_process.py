"""The process of one instance, until it is the server.

Instances start again while others caption: little is imported for it, and the server gets its allocator here, so that
it need not begin twice (`trio_stt.operations.allocator`).
"""

from __future__ import annotations

import os
import sys

from trio_stt.fleet.environment import instance_environment
from trio_stt.fleet.folder import FleetError, Folder
from trio_stt.fleet.parent import end_with_parent
from trio_stt.operations import allocator
from trio_stt.settings import Settings


def become_instance(
    settings: Settings, number: int, *, of: int | None = None, drain_at_most_s: float | None = None
) -> None:
    """Becomes the server. Raises OSError and `FleetError`."""
    folder = Folder.of(settings)
    folder.make()
    if of is not None:
        check_alone(folder)
    variables = {**os.environ, **instance_environment(settings, folder, number, of=of, drain_at_most_s=drain_at_most_s)}
    if settings.jemalloc:
        variables = allocator.preloaded(variables)
    end_with_parent()
    os.execve(sys.executable, [sys.executable, "-m", "trio_stt", "serve"], variables)


def check_alone(folder: Folder) -> None:
    """Raises `FleetError` where a fixed number of instances would meet a fleet of another kind."""
    from trio_stt.fleet.supervisor import Supervisor

    if Supervisor(folder).runs:
        raise FleetError(f"scale-deploy.sh runs a fleet in {folder.root}: stop it first, or set FLEET_DIR to another.")
