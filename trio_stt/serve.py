"""The server: listening sockets, signals, drain, exit code."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import click
import structlog
import trio

from trio_stt.app import Instance
from trio_stt.audio.vad import DetectorError
from trio_stt.gateway.front import Front
from trio_stt.gateway.http_connection import Route
from trio_stt.gateway.keys import AccessError
from trio_stt.gateway.quotas import QuotaFileError
from trio_stt.operations.logs import close_logs, configure_logs, end_process
from trio_stt.operations.memory import limit_heaps, settle_garbage_collector
from trio_stt.recognition.decoders import CallUnderWay
from trio_stt.recognition.engine import EngineError, ModelError
from trio_stt.settings import Settings, SettingsError, load

SEND_BUFFER_BYTES = 64 * 1024
"""Kernel buffer for what a client has not taken. A caption is 0.3 kB; a small buffer shows early who does not read."""

BACKLOG = 100
"""Connections that the kernel holds until they are accepted."""

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)

HUNG_EXIT_CODE = 70
"""A recogniser call did not return (``EX_SOFTWARE`` of BSD's sysexits.h)."""

CUT_SHARE = 0.1
"""Share of the drain's time, at its end, for streams that are cut: for their last finals and close frames."""

LEAST_CUT_S = 0.5
"""The least time for that, beyond the drain's if need be."""

CLOSE_FRAMES_S = 0.3
"""Before the process is ended with threads that hang: for close frames that are still on their way."""


class AddressError(OSError):
    """The address cannot be listened on. The message says what to do."""


START_ERRORS = (AddressError, AccessError, QuotaFileError, ModelError, EngineError, DetectorError)
"""Why a server cannot start. Each message says what to do."""


async def serve(
    settings: Settings,
    *,
    stop: trio.Event,
    hurry: trio.Event,
    make_instance: Callable[[Settings], Instance] = Instance,
    end_process: Callable[[int], None] = end_process,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until `stop` is set or an operator asks for a drain; that takes `drain_timeout_s`, less if `hurry` is set.

    Starts (`task_status`) with the server's URL once speakers are let in. Raises one of `START_ERRORS`. If cancelled,
    connections are cut. When a recogniser call does not return, no thread can be waited for: `end_process` is called
    with `HUNG_EXIT_CODE`.
    """
    log = structlog.get_logger()
    async with AsyncExitStack() as held:
        instance = make_instance(settings)  # which refuses what would leave the server open to everybody
        main = await _listen(held, settings, "server_port")
        vosk_server = await _listen(held, settings, "vosk_server_port") if settings.vosk_server_port else []
        routes: list[tuple[trio.SocketListener, Route]] = [(listener, instance.handler) for listener in main]
        routes += [(listener, instance.handler_of_vosk_server) for listener in vosk_server]
        front = Front(instance.app, on_refusal=instance.metrics.count_refusal)
        drained = trio.Event()
        async with trio.open_nursery() as background:
            async with trio.open_nursery() as serving:
                await serving.start(front.serve, routes, drained)
                await background.start(instance.run)
                url = _url(main[0])
                log.info("ready", url=url, instance=settings.instance)
                task_status.started(url)
                background.start_soon(_watch_for_hang, instance, end_process)
                await _wait_for_either(stop, instance.drain_asked)
                log.info("draining", streams=len(instance.connections), timeout_s=settings.drain_timeout_s)
                hung = await _drain(instance, settings.drain_timeout_s, hurry)
                log.info("stopped", streams_cut=len(instance.connections))
                if hung:
                    await trio.sleep(CLOSE_FRAMES_S)
                    end_process(HUNG_EXIT_CODE)
                drained.set()
            background.cancel_scope.cancel()


async def _listen(held: AsyncExitStack, settings: Settings, port_setting: str) -> list[trio.SocketListener]:
    """Listens until `held` is left; connections inherit a small send buffer and an end to unread data."""
    host, port = settings.server_host, getattr(settings, port_setting)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise AddressError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. "
            f"Is another server running? SERVER_HOST and {port_setting.upper()} choose the address."
        ) from error
    for listener in listeners:
        await held.enter_async_context(listener)
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            timeout_ms = round(settings.tcp_user_timeout_s * 1000)
            listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listeners


async def _wait_for_either(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


def _url(listener: trio.SocketListener) -> str:
    host, port, *_ = listener.socket.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _drain(instance: Instance, timeout_s: float, hurry: trio.Event) -> list[CallUnderWay]:
    """Ends all streams within `timeout_s`, or `LEAST_CUT_S`. Returns the calls that hang, whose streams cannot end."""
    cut_s = timeout_s * CUT_SHARE
    async with trio.open_nursery() as nursery:

        async def wait_for_streams() -> None:
            await instance.drain()
            nursery.cancel_scope.cancel()

        nursery.cancel_scope.deadline = trio.current_time() + timeout_s - cut_s
        nursery.start_soon(wait_for_streams)
        await hurry.wait()
        nursery.cancel_scope.cancel()
    return await instance.cut(max(cut_s, LEAST_CUT_S))


async def _watch_for_hang(instance: Instance, end_process: Callable[[int], None]) -> None:
    hung = await instance.wait_for_hang()
    within_s = instance.settings.drain_timeout_s
    await instance.leave(hung, max(0, within_s - CLOSE_FRAMES_S))
    await trio.sleep(CLOSE_FRAMES_S)
    end_process(HUNG_EXIT_CODE)


async def serve_until_signal(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl-C), then drains; a second signal ends the drain. Raises as `serve`."""
    stop, hurry = trio.Event(), trio.Event()
    for number in ENDING_SIGNALS:
        # What holds when the receiver below is closed again: a late second signal must not spoil the exit code.
        signal.signal(number, signal.SIG_IGN)
    async with trio.open_nursery() as nursery:

        async def watch_signals(task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
                task_status.started()
                async for _ in signals:
                    (hurry if stop.is_set() else stop).set()

        await nursery.start(watch_signals)
        async with trio.open_nursery() as serving:
            await serving.start(partial(serve, settings, stop=stop, hurry=hurry))
            settle_garbage_collector()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serve_in_background(settings: Settings) -> AsyncIterator[str]:
    """Serves while the block runs; yields the server's URL. Raises as `serve`, in an exception group."""
    stop, hurry = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve, settings, stop=stop, hurry=hurry))
        stop.set()


@click.command("serve")
def serve_command() -> None:
    """Run the server until SIGTERM or Ctrl-C. Settings come from the environment and .env."""
    try:
        settings = load()
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    limit_heaps(settings.decode_cores)
    configure_logs(settings.log_level, settings.log_format)
    reasons: list[BaseException] = []
    try:
        trio.run(serve_until_signal, settings)
    except* START_ERRORS as errors:
        reasons = list(_leaves(errors))
    close_logs()
    if reasons:
        for reason in reasons:
            click.echo(f"Error: {reason}", err=True)
        raise SystemExit(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
