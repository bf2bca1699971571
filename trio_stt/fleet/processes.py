"""The fleet's processes from within: each is a command that prepares its surroundings and becomes what it is for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import trio

from trio_stt.fleet import nginx
from trio_stt.fleet.autoscale import Use
from trio_stt.fleet.conductor import Conductor
from trio_stt.fleet.environment import (
    agent_environment,
    cores_of_this_machine,
    port_of,
    share_of_cores,
)
from trio_stt.fleet.folder import Folder, replace_text
from trio_stt.fleet.goal import read_goal, read_progress, write_progress
from trio_stt.fleet.health import ask_all, use_of
from trio_stt.fleet.instance_process import check_alone
from trio_stt.fleet.instances import SupervisedInstances
from trio_stt.fleet.nginx_workers import end_orphans
from trio_stt.fleet.parent import end_with_parent
from trio_stt.fleet.probe import answers
from trio_stt.fleet.programs import NO_AGENT, NO_LIVEKIT, NO_REDIS, find_nginx, find_redis
from trio_stt.fleet.routing import Routing
from trio_stt.fleet.supervisor import Supervisor
from trio_stt.recognition.core_share import CoreShare
from trio_stt.settings import Settings

Say = Callable[[str], None]


def become_nginx(settings: Settings, *, of: int | None = None) -> None:
    """Becomes nginx, in front of all instances until somebody knows better. Raises OSError and `FleetError`.

    `of`: of a fixed number of instances; None: of so many as scale-deploy asked for.
    """
    folder = Folder.of(settings)
    folder.make()
    if of is not None:
        check_alone(folder)
    instances = of or read_goal(folder).least
    ports = [port_of(settings, number) for number in range(1, instances + 1)]
    program = find_nginx()
    end_orphans(folder)
    nginx.prepare(settings, folder, cores=cores_of_this_machine(), ports=ports)
    end_with_parent()
    os.execv(program, nginx.command(program, folder))


def become_redis(settings: Settings, say: Say) -> None:
    """Becomes Redis, on a socket in the fleet's folder, without persistence; where there is none, waits for a signal.

    Raises OSError and `FleetError`.
    """
    folder = Folder.of(settings)
    folder.make()
    program = find_redis()
    end_with_parent()
    if settings.redis_url or program is None:
        _wait_for_signal(say, "REDIS_URL is set: that Redis is used" if settings.redis_url else NO_REDIS)
        return
    os.execv(program, redis_command(program, folder))


def become_agent(settings: Settings, say: Say, *, drain_at_most_s: float | None = None) -> None:
    """Becomes the LiveKit agent; where there is no LiveKit for it, says so and waits for a signal.

    Raises OSError and `FleetError`.
    """
    folder = Folder.of(settings)
    folder.make()
    end_with_parent()
    missing = NO_LIVEKIT if not settings.livekit_url else None if find_spec("livekit") else NO_AGENT
    if missing is not None:
        _wait_for_signal(say, missing)
        return
    more = agent_environment(settings, folder, drain_at_most_s=drain_at_most_s)
    os.execve(sys.executable, [sys.executable, "-m", "agent"], {**os.environ, **more})


def _wait_for_signal(say: Say, why: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # first: it may come at once
    say(why)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def redis_command(program: Path, folder: Folder) -> list[str]:
    """How Redis is called: on a socket that its user alone may open, and what it holds lasts minutes anyway."""
    socket = ["--port", "0", "--unixsocket", str(folder.redis_socket), "--unixsocketperm", "700"]
    return [str(program), *socket, "--save", "", "--appendonly", "no", "--dir", str(folder.root), "--daemonize", "no"]


def run_conductor(settings: Settings, say: Say) -> None:
    """Brings the fleet to its goal, and probes it, until SIGTERM or SIGINT. Raises `FleetError`."""
    folder = Folder.of(settings)
    conductor = Conductor(
        SupervisedInstances(Supervisor(folder), settings.drain_timeout_s),
        _routing(settings, folder, say),
        read_goal=partial(read_goal, folder),
        report=partial(write_progress, folder),
        tell_share=partial(_tell_share, settings, folder),
        ask_use=partial(_ask_use, settings),
        say=say,
        before=read_progress(folder),
    )
    end_with_parent()
    trio.run(_until_signal, conductor.run)


def run_probes(settings: Settings, instances: int, say: Say) -> None:
    """Probes a fixed number of instances and has nginx leave out who does not answer, until SIGTERM or SIGINT.

    Raises `FleetError`.
    """
    folder = Folder.of(settings)
    check_alone(folder)
    routing = _routing(settings, folder, say)

    async def probe() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(routing.run)
            for number in range(1, instances + 1):
                routing.add(number)

    end_with_parent()
    trio.run(_until_signal, probe)


def _routing(settings: Settings, folder: Folder, say: Say) -> Routing:
    program = find_nginx()

    async def route_to(numbers: Sequence[int]) -> bool:
        ports = [port_of(settings, number) for number in numbers]
        try:
            return await nginx.route_to(ports, settings.balancing, program, folder)
        except OSError as error:
            say(f"nginx cannot be told of a change: {error}")
            return False

    async def ask(number: int) -> bool:
        return await answers(port_of(settings, number))

    return Routing(ask, route_to)


def _tell_share(settings: Settings, folder: Folder, now: int, lasting: int) -> None:
    shares = (share_of_cores(settings.decode_cores, instances) for instances in (now, lasting))
    replace_text(folder.cores, str(CoreShare(*shares)))


async def _ask_use(settings: Settings, numbers: Collection[int]) -> list[Use]:
    return [use_of(each) for each in (await ask_all(port_of(settings, number) for number in numbers)).values()]


async def _until_signal(run: Callable[[], object]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)  # type: ignore[arg-type]  # async functions all
            async for _ in signals:
                nursery.cancel_scope.cancel()
