"""The programs that the fleet needs and does not bring along: nginx, and Redis for calls over several instances."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trio_stt.fleet.folder import FleetError

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin")
"""Where else to look: an ordinary user's PATH often lacks those that end in sbin."""

UNPACKED = Path(".tools/usr/sbin")
"""Where `scripts/setup.sh --fleet` puts nginx for who may not install packages."""


def find_nginx() -> Path:
    """The nginx program. Raises `FleetError`, which says how to install it."""
    found = _find("nginx", UNPACKED)
    if found is None:
        raise FleetError(
            "nginx is missing. From the repository: ./scripts/setup.sh --fleet (needs no root); "
            "Debian and Ubuntu: apt install nginx; Fedora: dnf install nginx."
        )
    return found


def find_redis() -> Path | None:
    """The Redis server program, or None: then calls stay within one instance."""
    return _find("redis-server")


NO_REDIS = (
    "redis-server is missing: clients of one call who come to different instances will not hear each other. "
    "Debian and Ubuntu: apt install redis-server; or set REDIS_URL to a Redis elsewhere."
)

NO_LIVEKIT = "LIVEKIT_URL is not set: there is no LiveKit agent"

NO_AGENT = "the LiveKit agent's packages are missing: ./scripts/setup.sh --agent"


def _find(name: str, *more: Path) -> Path | None:
    places = os.pathsep.join([os.environ.get("PATH", ""), *map(str, more), *SYSTEM_FOLDERS])
    found = shutil.which(name, path=places)
    return Path(found).absolute() if found else None
