"""What each instance of the fleet is told: its name and port, its share of the machine, who is in front of it."""

from __future__ import annotations

import os
import socket

from trio_stt.fleet.folder import MOST_INSTANCES, FleetError, Folder
from trio_stt.fleet.programs import find_redis
from trio_stt.gateway.keys import AccessError, check_access, keys_of
from trio_stt.recognition.core_share import read_share
from trio_stt.settings import Settings


def cores_of_this_machine() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(cores: int, instances: int) -> float:
    """What each instance may use; below 1 where there are more instances than cores."""
    return cores / instances


def told_share(folder: Folder) -> float:
    """The cores that the conductor has written down for each instance. Raises `FleetError` where it has not."""
    share = read_share(folder.cores)
    if share is None:
        raise FleetError("There is no fleet here that was started by scale-deploy.sh: say --of how many.")
    return share.cores


def port_of(settings: Settings, number: int) -> int:
    """The port of an instance."""
    return settings.fleet_base_port + number - 1


def check_size(least: int, most: int) -> None:
    """Raises `FleetError` for what is no size of a fleet."""
    if not 1 <= least <= most <= MOST_INSTANCES:
        raise FleetError(f"A fleet has 1 to {MOST_INSTANCES} instances, and no fewer at most than at least.")


def check(settings: Settings, instances: int) -> None:
    """Raises `FleetError` where these settings make no fleet of that size."""
    if settings.server_port == 0:
        raise FleetError("SERVER_PORT is nginx's port in a fleet, and cannot be 0.")
    ours = range(settings.fleet_base_port, port_of(settings, instances) + 1)
    for name in ("server_port", "vosk_server_port", "agent_port"):
        if getattr(settings, name) in ours:
            raise FleetError(
                f"{name.upper()}={getattr(settings, name)} is also an instance's port ({ours[0]} to {ours[-1]}): "
                "change it or FLEET_BASE_PORT."
            )
    try:
        # Whoever reaches nginx reaches the instances: what holds for a server's address holds for nginx's.
        check_access(settings, keys_of(settings))
    except AccessError as error:
        raise FleetError(str(error)) from error


def instance_environment(
    settings: Settings, folder: Folder, number: int, *, of: int | None = None, drain_at_most_s: float | None = None
) -> dict[str, str]:
    """The variables, beyond those that all have, of one instance. Blocks: may make the secret's file.

    `of`: of a fixed number of instances; None: its share of the cores stands in a file, and may change.
    """
    share = share_of_cores(settings.decode_cores, of) if of else told_share(folder)
    variables = {
        "INSTANCE": f"{socket.gethostname()}-{number}",
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": str(port_of(settings, number)),
        "VOSK_SERVER_PORT": "0",  # nginx listens there
        "DECODE_CORES": str(max(1, int(share))),
        "REDIS_URL": redis_url(settings, folder),
        "RESUME_SECRET": settings.resume_secret or folder.secret(),
    }
    if of is None:
        variables["DECODE_CORES_FILE"] = str(folder.cores)
    if drain_at_most_s is not None:
        variables["DRAIN_TIMEOUT_S"] = f"{min(settings.drain_timeout_s, drain_at_most_s):g}"
    if settings.auth_mode == "required":
        variables["TRUSTED_PROXIES"] = "127.0.0.1"
    else:
        # For this machine alone (`check` sees to it), so that there is no proxy whose word on addresses is needed.
        variables |= {"TRUSTED_PROXIES": "none", "MAX_CONNECTIONS_PER_ADDRESS": "0"}
    return variables


def agent_environment(settings: Settings, folder: Folder, *, drain_at_most_s: float | None = None) -> dict[str, str]:
    """The variables, beyond those that all have, of the fleet's LiveKit agent: nginx is its server."""
    variables = {"INSTANCE": f"{socket.gethostname()}-agent", "REDIS_URL": redis_url(settings, folder)}
    if settings.tls_cert is None:  # else nginx has another name, in its certificate, and STT_URL says it
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server_host, settings.server_host)  # noqa: S104
        variables["STT_URL"] = f"ws://{f'[{host}]' if ':' in host else host}:{settings.server_port}"
    if drain_at_most_s is not None:
        variables["DRAIN_TIMEOUT_S"] = f"{min(settings.drain_timeout_s, drain_at_most_s):g}"
    return variables


def redis_url(settings: Settings, folder: Folder) -> str:
    """The Redis of all instances: the one that is set, else the fleet's own, else none."""
    if settings.redis_url or find_redis() is None:
        return settings.redis_url
    return f"unix://{folder.redis_socket}"
