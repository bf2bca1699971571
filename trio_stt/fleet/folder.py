"""The fleet's folder: where its files lie. Only its user may look into it: sockets and a secret are there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from attrs import frozen

from trio_stt.settings import Settings

LONGEST_SOCKET_PATH = 100
"""Bytes of a unix socket's path (``sun_path`` has 108, and supervisor adds the process's number while it binds)."""


MOST_INSTANCES = 64
"""A bound against typing errors: each holds a speech model, some hundred MB."""


class FleetError(Exception):
    """What was asked for cannot be done. The message says why, and what to do."""


@frozen
class Folder:
    """Paths in the folder `root`, which is absolute."""

    root: Path

    @classmethod
    def of(cls, settings: Settings) -> Folder:
        """The one that FLEET_DIR names."""
        return cls(settings.fleet_dir.absolute())

    @property
    def logs(self) -> Path:
        """One log for each process; kept when the fleet is stopped."""
        return self.root / "logs"

    @property
    def programs(self) -> Path:
        """One file of supervisor's for each process, so that one may come or go without the others."""
        return self.root / "programs"

    @property
    def nginx(self) -> Path:
        """Where nginx lives: its prefix."""
        return self.root / "nginx"

    @property
    def upstreams(self) -> Path:
        """The part of nginx's configuration that changes while it runs."""
        return self.nginx / "upstreams.conf"

    @property
    def supervisor_configuration(self) -> Path:
        """What supervisord is started with."""
        return self.root / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        """How supervisord is spoken to."""
        return self.root / "supervisor.sock"

    @property
    def redis_socket(self) -> Path:
        """How the fleet's own Redis is spoken to."""
        return self.root / "redis.sock"

    @property
    def resume_secret(self) -> Path:
        """Holds what all instances sign resume tokens with; kept, so that they outlive the fleet's restart."""
        return self.root / "resume-secret"

    @property
    def cores(self) -> Path:
        """Holds how many cores are each instance's."""
        return self.root / "cores"

    @property
    def goal(self) -> Path:
        """What the fleet shall become."""
        return self.root / "goal.json"

    @property
    def progress(self) -> Path:
        """What has become of it."""
        return self.root / "progress.json"

    def make(self) -> None:
        """Makes what is missing. Raises `FleetError` where that cannot be."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            for each in (self.logs, self.programs, self.nginx):
                each.mkdir(exist_ok=True)
        except OSError as error:
            raise FleetError(
                f"The fleet's folder {self.root} cannot be made ({error.strerror}): set FLEET_DIR to another."
            ) from error
        if len(os.fsencode(self.supervisor_socket)) > LONGEST_SOCKET_PATH:
            raise FleetError(f"{self.root} is too long a path for the sockets in it: set FLEET_DIR to a shorter one.")

    def clear(self) -> None:
        """Takes away all but the logs and the secret."""
        for each in self.root.iterdir() if self.root.is_dir() else ():
            if each not in (self.logs, self.resume_secret):
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)

    def secret(self) -> str:
        """The resume secret, made if there is none. Of several processes that make it at once, one is believed."""
        with contextlib.suppress(FileNotFoundError):
            return self.resume_secret.read_text()
        new = self.root / f"resume-secret.{os.getpid()}"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        with contextlib.suppress(FileExistsError):
            os.link(new, self.resume_secret)
        new.unlink()
        return self.resume_secret.read_text()


def replace_text(file: Path, text: str) -> None:
    """Writes a file such that others read the old text or the new one, never a part."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    new.write_text(text)
    new.replace(file)
