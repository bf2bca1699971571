"""Autobahn's WebSocket cases, run by kosoku against our gateway with the settings we ship."""

import re
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from tests.server.conftest import running_server
from trio_stt.gateway.http_connection import Upgrade
from trio_stt.gateway.socket import Socket

KOSOKU = Path(sys.executable).with_name("kosoku")

# 9.1.3 and on, and 9.2.3 and on: frames over 256 KiB. 9.3 to 9.6: messages of 1 and 4 MiB. 12 and 13: compression.
ECHO_CASES = [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 10)] + [
    "9.1.1",
    "9.1.2",
    "9.2.1",
    "9.2.2",
    "9.7.*",
    "9.8.*",
]
# The other cases wait for an echo of what they sent.
STREAM_CASES = ["2.*", "3.*", "4.*", "5.1", "5.2", *(f"5.{number}" for number in range(9, 19))]


# In these a whole text message comes just before the broken frame. A stream closes 1007 for that message; the case
# wants 1002 for the frame. Either may be first, so they are run again when it was the message.
RACING_CASES = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5"}
RACES = 5


def failed_cases(said: str) -> set[str]:
    """The cases that kosoku reports as failed."""
    return set(re.findall(r"^\s*([\d.]+): behavior=", said, re.MULTILINE))


async def run_cases(url: str, cases: list[str], reports: Path) -> tuple[int, str]:
    """Runs cases; returns kosoku's exit code and its account."""
    chosen = [argument for case in cases for argument in ("--include", case)]
    done = await trio.run_process(
        [KOSOKU, *chosen, "--outdir", reports, url], check=False, capture_stdout=True, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout.decode()


async def passed_cases(url: str, cases: list[str], reports: Path) -> int:
    """How many cases ran, none of them failed; else the test fails with kosoku's account of those that did."""
    code, said = await run_cases(url, cases, reports)
    assert code == 0, said
    return int(said.splitlines()[-1].split()[0])


async def test_an_echo_behind_the_gateway_passes_all_cases_within_our_limits(tmp_path):
    async with running_server() as server:

        async def echo(upgrade: Upgrade, socket: Socket) -> None:
            await socket.accept()
            with suppress(trio.EndOfChannel):
                while True:
                    await socket.send(await socket.receive())

        server.instance.handlers["/echo"] = echo
        assert await passed_cases(f"{server.ws}/echo/", ECHO_CASES, tmp_path) == 263


@asynccontextmanager
async def without_greeting(port: int):
    """The same server for a client that expects to hear nothing first: a proxy that takes out the message `ready`."""

    async def relay(client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(copy, client, server)
            start = b""
            while not (greeting := GREETING.match(start)) and not OTHER_START.match(start):
                if not (more := await server.receive_some()):
                    break
                start += more
            if greeting:
                length = greeting["length"][-2:] if greeting["length"][0] == 126 else greeting["length"]
                end = greeting.end() + int.from_bytes(length, "big")
                while len(start) < end:
                    start += await server.receive_some()
                start = greeting["answer"] + start[end:]
            await client.send_all(start)
            await copy(server, client)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


GREETING = re.compile(rb"(?P<answer>HTTP.*?\r\n\r\n)\x81(?P<length>\x7e..|[^\x7e\x7f])", re.DOTALL)
OTHER_START = re.compile(rb"HTTP.*?\r\n\r\n[^\x81]", re.DOTALL)


async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # either side may be gone first


async def test_the_caption_stream_passes_the_cases_that_expect_no_echo(tmp_path):
    async with running_server() as server, without_greeting(int(server.ws.rpartition(":")[2])) as port:
        url = f"ws://127.0.0.1:{port}/ws/vosk/?client_id=ann&session_id=call"
        _, said = await run_cases(url, STREAM_CASES, tmp_path)
        for _ in range(RACES):
            failed = failed_cases(said)
            assert failed <= RACING_CASES, said
            if failed:
                _, said = await run_cases(url, sorted(failed), tmp_path)
        assert not failed_cases(said), said
        assert len(list(tmp_path.glob("*case_*.json"))) == 40
