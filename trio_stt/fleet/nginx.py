"""nginx's configuration: the whole, written when it starts, and its upstreams, rewritten while it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import jinja2
import trio

from trio_stt.fleet import nginx_workers
from trio_stt.fleet.folder import FleetError, Folder, replace_text
from trio_stt.settings import Settings

MOST_WORKERS = 4
"""nginx passes frames on with a few per cent of what decoding costs; more workers would only fill up memory."""

CONNECTIONS = 4096
"""Of each worker; a client takes two, its own and the one to its instance."""

RELOAD_WITHIN_S = 5.0
RELOAD_LOOK_EVERY_S = 0.02
"""New workers come first, old ones are told to go 0.1 s later."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("trio_stt.fleet", ""),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,
)


def configuration(settings: Settings, *, cores: int) -> str:
    """nginx.conf for these settings, without the upstreams. Raises `FleetError` for what nginx cannot be told."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise FleetError("TLS_CERT and TLS_KEY belong together: set both, or neither.")
    return _TEMPLATES.get_template("nginx.conf.jinja").render(
        workers=min(cores, MOST_WORKERS),
        connections=CONNECTIONS,
        listen=_address(settings.server_host, settings.server_port),
        vosk_server_listen=settings.vosk_server_port and _address(settings.server_host, settings.vosk_server_port),
        tls_cert=_path(settings.tls_cert, "TLS_CERT"),
        tls_key=_path(settings.tls_key, "TLS_KEY"),
        trusted_proxies=settings.trusted_proxies,
        # Where nobody is asked who he is, all come from this machine.
        max_connections=settings.max_connections_per_address if settings.auth_mode == "required" else 0,
        agent_port=settings.agent_port,
    )


def upstreams(ports: Sequence[int], balancing: str) -> str:
    """upstreams.conf with the instances at these ports, of which there must be one."""
    lines = ["upstream instances {", "    zone instances 64k;"]
    if balancing == "least-conn":
        lines.append("    least_conn;")
    # Never given up by nginx: who is not to be asked any more is not listed any more. With max_fails=1, all instances
    # being full would be answered 502 from the second client on.
    lines += [f"    server 127.0.0.1:{port} max_fails=0;" for port in ports]
    return "\n".join([*lines, "}", ""])


def prepare(settings: Settings, folder: Folder, *, cores: int, ports: Sequence[int]) -> None:
    """Writes the configuration; the upstreams only where there are none. Raises `FleetError`."""
    replace_text(folder.nginx / "nginx.conf", configuration(settings, cores=cores))
    if not folder.upstreams.exists():
        replace_text(folder.upstreams, upstreams(ports, settings.balancing))


def command(program: Path, folder: Folder) -> list[str]:
    """How nginx is called with that configuration."""
    return [str(program), "-p", f"{folder.nginx}/", "-c", "nginx.conf", "-e", "stderr"]


def check(program: Path, folder: Folder) -> None:
    """Has nginx read the configuration. Blocks. Raises `FleetError` with what it says."""
    found = subprocess.run([*command(program, folder), "-q", "-t"], capture_output=True, text=True)
    if found.returncode != 0:
        raise FleetError(f"nginx does not take its configuration: {found.stderr.strip()}")


async def route_to(ports: Sequence[int], balancing: str, program: Path, folder: Folder) -> bool:
    """Has nginx send new connections to these ports; those that exist stay where they are. Returns when it does.

    False if nginx does not run, or has no workers yet: it may have read what stood there before. May be cancelled;
    then nginx may or may not know yet. Old workers are waited for no longer than `RELOAD_WITHIN_S`. Raises OSError.
    """
    before = await trio.to_thread.run_sync(nginx_workers.accepting, folder)
    replace_text(folder.upstreams, upstreams(ports, balancing))
    if not before and nginx_workers.are_shown():
        return False  # before its first workers a master may miss the signal, and they then serve the old list
    reload = [*command(program, folder), "-s", "reload"]
    done = await trio.run_process(reload, check=False, capture_stdout=True, capture_stderr=True)
    if done.returncode != 0:
        return False
    with trio.move_on_after(RELOAD_WITHIN_S):
        while before & await trio.to_thread.run_sync(nginx_workers.accepting, folder):  # noqa: ASYNC110
            await trio.sleep(RELOAD_LOOK_EVERY_S)
    return True


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(file: Path | None, name: str) -> str:
    if file is None:
        return ""
    text = str(file.absolute())
    if not file.is_file():
        raise FleetError(f"{name} names {text}, where there is no file. For trials 'trio-stt cert' makes a pair.")
    if any(character in text for character in '"\\\n${};'):
        raise FleetError(f"{name} names {text}, whose characters nginx would misread: rename it.")
    return text
