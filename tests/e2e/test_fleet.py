"""The local fleet, with real servers, nginx, Redis and supervisord: what clients see while it changes."""

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.e2e.local_fleet import ROOT, LocalFleet, visitors
from trio_stt.bench.speech import load_speech
from trio_stt.bench.word_errors import total, word_errors
from trio_stt.client.connection import CaptionStream, StreamClosedError, StreamRefusedError, open_stream
from trio_stt.client.resume_events import Ended, EndReason, Lost, Restarted, Resumed
from trio_stt.client.resuming_connection import open_resuming_stream
from trio_stt.dialects.events import Ready, StreamRequest, Transcript
from trio_stt.drill.free_ports import free_ports
from trio_stt.fleet.certificate import cert
from trio_stt.fleet.environment import told_share
from trio_stt.token_command import token_command

CLIP = next(clip for clip in load_speech() if "0880" in clip.name)
"""Somebody says something about a young man who is ill-disposed, or is not."""


@pytest.fixture(scope="module")
def fleet(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """A fleet of two, shared by the tests of this module; each leaves it with two."""
    fleet = LocalFleet(tmp_path_factory.mktemp("fleet"), model)
    try:
        said = fleet.do("start", "2")
        assert f"serving on http://127.0.0.1:{fleet.port}" in said
        yield fleet
    finally:
        fleet.run("stop")
        fleet.wait_until_gone()


async def run(fleet: LocalFleet, *arguments: str) -> str:
    return await trio.to_thread.run_sync(fleet.do, *arguments)


async def hear(url: str, client: str = "ann", **query: object) -> tuple[str, str]:
    """What was final of the clip, and which instance heard it; comes again if a busy machine refuses, as clients do."""
    for _ in range(5):
        try:
            return await _hear_once(url, client, **query)
        except StreamRefusedError as refused:
            if refused.status != 503:
                raise
            await trio.sleep(1)
    return await _hear_once(url, client, **query)


async def _hear_once(url: str, client: str, **query: object) -> tuple[str, str]:
    async with open_stream(url, StreamRequest(client, "call", framing="seq", **query)) as stream:
        await stream.send_audio(CLIP.samples.tobytes())
        await stream.end()
        heard, instance = "", ""
        with trio.fail_after(30):
            async for event in stream:
                if isinstance(event, Ready):
                    instance = event.instance
                if isinstance(event, Transcript) and event.is_final:
                    heard += event.text
    return heard, instance


async def until_closed(stream: CaptionStream, *, when_heard: Callable[[], None]) -> tuple[str, int]:
    """What was final when the server closed the stream, and the code of that."""
    heard, final = "", ""
    with trio.fail_after(60):
        try:
            async for event in stream:
                if isinstance(event, Transcript):
                    if not heard:
                        when_heard()
                    heard = event.text
                    final += event.text if event.is_final else ""
        except StreamClosedError as closed:
            return final, closed.close.code
    return final, 1000


async def test_a_client_gets_its_captions_through_nginx_from_one_of_the_instances(fleet: LocalFleet) -> None:
    heard = {await hear(fleet.url, f"c{number}") for number in range(4)}
    assert all("young man" in text for text, _ in heard)
    assert len({instance for _, instance in heard}) == 2


async def test_calls_reach_over_the_instances_by_the_fleets_own_redis(fleet: LocalFleet) -> None:
    listening = [StreamRequest(f"l{number}", "shared", speak=False) for number in range(2)]
    async with open_stream(fleet.url, listening[0]) as one, open_stream(fleet.url, listening[1]) as other:
        instances, heard = set(), []

        async def listen(stream: object) -> None:
            async for event in stream:  # type: ignore[attr-defined]
                if isinstance(event, Ready):
                    instances.add(event.instance)
                if isinstance(event, Transcript) and event.is_final:
                    heard.append(event.text)
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, one)
            nursery.start_soon(listen, other)
            with trio.fail_after(10):
                while len(instances) < 2:
                    await trio.sleep(0.02)
            async with open_stream(fleet.url, StreamRequest("ann", "shared", framing="seq")) as speaker:
                await speaker.send_audio(CLIP.samples.tobytes())
                await speaker.end()
                with trio.fail_after(30):
                    async for _ in speaker:
                        pass
            nursery.cancel_scope.deadline = trio.current_time() + 10
    assert len(heard) == 2
    assert heard[0] == heard[1]


async def test_growing_and_shrinking_turns_nobody_away_and_shares_the_cores_anew(fleet: LocalFleet) -> None:
    async with visitors(fleet.url) as seen:
        said = await run(fleet, "scale", "3")
        assert "starting instance-3" in said
        assert len(fleet.routed()) == 3
        share_of_three = told_share(fleet.folder)
        await trio.sleep(1)
        of_three = set(seen.instances)
        said = await run(fleet, "scale", "2")
        assert "draining instance-3" in said
        await trio.sleep(0.5)
    assert seen.refused == []
    assert seen.came > 10
    assert len(of_three) == 3
    assert len(fleet.routed()) == 2
    assert told_share(fleet.folder) == pytest.approx(share_of_three * 3 / 2, abs=0.001)


async def test_a_rolling_restart_ends_streams_with_their_last_words_and_turns_nobody_away(fleet: LocalFleet) -> None:
    before = {each.pid for each in fleet.supervisor.processes() if each.name.startswith("instance")}
    ended: list[tuple[str, int]] = []

    async def speak(client: str) -> None:
        async with open_stream(fleet.url, StreamRequest(client, "call", framing="seq")) as stream:
            await stream.send_audio(CLIP.samples.tobytes())
            ended.append(await until_closed(stream, when_heard=lambda: speaking.add(client)))

    speaking: set[str] = set()
    async with visitors(fleet.url) as seen, trio.open_nursery() as nursery:
        for client in ("ann", "bob"):
            nursery.start_soon(speak, client)
        with trio.fail_after(20):
            while len(speaking) < 2:
                await trio.sleep(0.02)
        said = await run(fleet, "restart")
        nursery.cancel_scope.deadline = trio.current_time() + 20
    assert said.index("restarting instance-1") < said.index("restarting instance-2")
    after = {each.pid for each in fleet.supervisor.processes() if each.name.startswith("instance")}
    assert not before & after
    assert [code for _, code in ended] == [1012, 1012]
    assert all("young man" in heard for heard, _ in ended)
    assert seen.refused == []


@pytest.mark.parametrize("trouble", ["restart", "kill"])
async def test_a_client_that_resumes_loses_no_word_while_the_instances_are_replaced(
    fleet: LocalFleet, trouble: str
) -> None:
    await fleet.until_steady()
    clips = [clip for clip in load_speech()[:6] for _ in range(2)]
    events: list[object] = []
    request = StreamRequest("ann", f"resume-{trouble}", partials=False)
    with trio.fail_after(120):
        async with open_resuming_stream(fleet.url, request) as stream, trio.open_nursery() as nursery:

            async def speak() -> None:
                for clip in clips:
                    for begin in range(0, len(clip.samples), 1600):
                        await stream.send_audio(clip.samples[begin : begin + 1600].tobytes())
                        await trio.sleep(0.1)
                await stream.end()

            async def make_trouble() -> None:
                await trio.sleep(3)
                if trouble == "restart":
                    await run(fleet, "restart")
                else:
                    for number in (1, 2):
                        os.kill(fleet.process(f"instance-{number}").pid, signal.SIGKILL)
                        await trio.sleep(1)
                        await fleet.until_steady()

            nursery.start_soon(speak)
            nursery.start_soon(make_trouble)
            events = [event async for event in stream]
    assert isinstance(events[-1], Ended)
    assert events[-1].reason is EndReason.FINISHED
    assert not [event for event in events if isinstance(event, Lost | Restarted)]
    assert [event for event in events if isinstance(event, Resumed)]
    finals = [event for event in events if isinstance(event, Transcript)]
    assert all(one.end_sample <= other.start_sample for one, other in pairwise(finals))
    heard = " ".join(final.text for final in finals).split()
    said = [word for clip in clips for word in clip.words]
    assert total([word_errors(said, heard)]).rate < 0.2


async def test_when_an_instance_is_killed_others_take_its_clients_and_it_comes_back(fleet: LocalFleet) -> None:
    await fleet.until_steady()
    victim = fleet.process("instance-1").pid
    async with visitors(fleet.url) as seen:
        await trio.sleep(0.5)
        os.kill(victim, signal.SIGKILL)
        await fleet.until_routed(1)
        assert fleet.routed() == [fleet.base_port + 1]
        assert "young man" in (await hear(fleet.url))[0]
        await fleet.until_routed(2)
        await trio.sleep(0.5)
    # Those who were on it at that very moment have lost their socket; nobody who came was refused.
    assert [each for each in seen.refused if "StreamRefused" in each or "Unreachable" in each] == []
    assert len(seen.refused) <= 1
    assert fleet.process("instance-1").pid != victim


async def test_a_frozen_instance_gets_nobody_until_it_thaws(fleet: LocalFleet) -> None:
    frozen = fleet.process("instance-2").pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        await fleet.until_routed(1)
        await trio.sleep(0.3)
        async with visitors(fleet.url) as seen:
            await trio.sleep(1)
        assert seen.refused == []
        assert "running, no answer" in await run(fleet, "status")
    finally:
        os.kill(frozen, signal.SIGCONT)
    await fleet.until_routed(2)


@pytest.mark.parametrize("name", ["nginx", "conductor", "redis"])
async def test_what_stands_beside_the_instances_comes_back_when_it_is_killed(fleet: LocalFleet, name: str) -> None:
    await fleet.until_steady()
    victim = fleet.process(name).pid
    os.kill(victim, signal.SIGKILL)
    with trio.fail_after(30):
        while fleet.process(name).pid in (victim, 0):
            await trio.sleep(0.05)
    await fleet.until_steady()
    assert "young man" in (await hear(fleet.url))[0]
    if name == "conductor":
        await run(fleet, "restart")


async def test_sockets_outlive_an_nginx_that_is_killed(fleet: LocalFleet) -> None:
    await fleet.until_steady()
    victim = fleet.process("nginx").pid
    async with open_stream(fleet.url, StreamRequest("ann", "call", framing="seq")) as stream:
        await stream.send_audio(CLIP.samples.tobytes())
        os.kill(victim, signal.SIGKILL)
        with trio.fail_after(30):
            while fleet.process("nginx").pid in (victim, 0):
                await trio.sleep(0.05)
        await fleet.until_steady()
        await stream.end()
        heard, code = await until_closed(stream, when_heard=lambda: None)
    assert code == 1000
    assert "young man" in heard


async def test_status_shows_each_instance(fleet: LocalFleet) -> None:
    await fleet.until_steady()
    async with open_stream(fleet.url, StreamRequest("ann", "call")) as stream:
        await anext(stream)
        shown = (await run(fleet, "status")).splitlines()
    heading, *rows = [line.split() for line in shown]
    assert heading[:5] == ["process", "state", "new", "clients", "streams"]
    assert [row[0] for row in rows[:5]] == ["instance-1", "instance-2", "conductor", "nginx", "redis"]
    assert [row[1] for row in rows[:2]] == ["healthy", "healthy"]
    assert sorted(row[3] for row in rows[:2]) == ["0", "1"]
    assert all(int(row[row.index("MB") - 1]) > 100 for row in rows[:2])
    assert shown[-1] == "instances: 2; as asked for"


def test_no_secret_stands_in_a_file_that_is_not_its_users_alone(fleet: LocalFleet) -> None:
    secret = fleet.folder.resume_secret.read_text()
    assert stat.S_IMODE(fleet.folder.root.stat().st_mode) == 0o700
    holding = [
        each for each in fleet.folder.root.rglob("*") if each.is_file() and secret in each.read_text(errors="replace")
    ]
    assert holding == [fleet.folder.resume_secret]


@pytest.mark.parametrize("command", [("instance", "1"), ("nginx",), ("probes",)])
def test_a_procfiles_line_is_refused_where_a_fleet_runs(fleet: LocalFleet, command: tuple[str, ...]) -> None:
    refused = fleet.run(*command, "--of", "2")
    assert refused.returncode == 1
    assert "scale-deploy.sh runs a fleet" in refused.stderr


def test_other_commands_than_start_need_no_settings_but_the_folder(fleet: LocalFleet) -> None:
    """Nor do they mind wrong ones."""
    others = {"AUTH_MODE": "required", "AUTH_KEYS": "", "FLEET_BASE_PORT": "9001", "SERVER_PORT": "0"}
    shown = fleet.run("status", **others)
    assert f"{fleet.base_port + 1}" in shown.stdout
    assert "no answer" not in shown.stdout
    assert fleet.run("scale", "2", **others).returncode == 0


def test_a_second_start_is_refused_and_changes_nothing(fleet: LocalFleet) -> None:
    again = fleet.run("start", "3")
    assert again.returncode == 1
    assert "runs already" in again.stderr
    assert len(fleet.routed()) == 2


def test_logs_are_shown_by_process(fleet: LocalFleet) -> None:
    assert '"event": "ready"' in fleet.do("logs", "instance-1", "-n", "1000")
    assert "instance-2.log" in fleet.do("logs")
    assert "There is no log nobody" in fleet.run("logs", "nobody").stderr


def test_stopping_leaves_neither_process_nor_lock_nor_port(model: Path, tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "f", model)
    for command in ("status", "restart", "stop"):
        refused = fleet.run(command)
        assert refused.returncode == 1
        assert "does not run" in refused.stderr
    fleet.do("start", "1")
    assert "stopped" in fleet.do("stop")
    fleet.wait_until_gone(within_s=2)
    assert sorted(each.name for each in fleet.folder.root.iterdir()) == ["logs", "resume-secret"]
    for port in (fleet.port, fleet.base_port):
        socket.create_server(("127.0.0.1", port)).close()


def test_with_tokens_tls_and_vosk_servers_port(model: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(cert, ["--folder", str(tmp_path)])
    pair = dict(line.split("=", 1) for line in made.output.splitlines())
    keys = {"AUTH_MODE": "required", "AUTH_KEYS": f"k1:{'x' * 32}", "VOSK_SERVER_PORT": str(free_ports(1))}
    fleet = LocalFleet(tmp_path / "f", model, **keys, **pair, MAX_CONNECTIONS_PER_ADDRESS="2")
    token = CliRunner(env=keys).invoke(token_command, ["--tenant", "acme"]).output.strip()
    trusting = ssl.create_default_context(cafile=pair["TLS_CERT"])
    bearer = {"Authorization": f"Bearer {token}"}
    call = f"wss://localhost:{fleet.port}/ws/vosk/?session_id=s&client_id=c"
    own_port = f"wss://localhost:{keys['VOSK_SERVER_PORT']}/"
    try:
        assert "https://127.0.0.1" in fleet.do("start", "1")
        with connect(call, ssl=trusting, additional_headers=bearer) as first:
            assert json.loads(first.recv(10))["type"] == "ready"
            with connect(own_port, ssl=trusting, additional_headers=bearer) as old:
                old.send('{"config": {"sample_rate": 16000}}')
                with pytest.raises(InvalidStatus) as crowded:
                    connect(call, ssl=trusting, additional_headers=bearer)
                old.send('{"eof": 1}')
                assert "text" in json.loads(old.recv(10))
        assert crowded.value.response.status_code == 429
        with pytest.raises(InvalidStatus) as unknown:
            connect(call, ssl=trusting)
        assert unknown.value.response.status_code == 401
    finally:
        fleet.run("stop")
        fleet.wait_until_gone()


def test_a_killed_supervisor_takes_everything_with_it_and_the_next_start_works(model: Path, tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "f", model)
    try:
        fleet.do("start", "1")
        os.kill(int((fleet.folder.root / "supervisord.pid").read_text()), signal.SIGKILL)
        fleet.wait_until_gone()
        fleet.do("start", "1")
    finally:
        fleet.run("stop")
        fleet.wait_until_gone()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"AUTH_MODE": "required", "AUTH_KEYS": ""}, "AUTH_KEYS"),
        ({"SERVER_HOST": "0.0.0.0"}, "AUTH_MODE=off is for this machine alone"),
        ({"TLS_CERT": "cert.pem"}, "TLS_CERT and TLS_KEY belong together"),
    ],
)
def test_what_cannot_be_started_is_said_and_nothing_is_left(
    model: Path, tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    fleet = LocalFleet(tmp_path / "f", model, **environment)
    refused = fleet.run("start", "1")
    assert refused.returncode == 1
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert fleet.left_behind() == []


def test_instances_that_cannot_start_are_given_up_with_their_reason(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "f", tmp_path)
    refused = fleet.run("start", "1")
    assert refused.returncode == 1
    assert "instance-1 does not run" in refused.stderr
    assert "trio-stt models install en" in refused.stderr
    fleet.wait_until_gone(within_s=2)


async def test_a_fleet_that_may_grows_when_it_is_full(model: Path, tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "f", model, MAX_CONCURRENT_CLIENTS="1")
    try:
        await run(fleet, "start", "1", "--most", "2")
        assert "instances: 1 to 2, now 1; as asked for" in await run(fleet, "status")
        async with open_stream(fleet.url, StreamRequest("ann", "call")) as stream:
            await anext(stream)
            await fleet.until_routed(2)
            assert "young man" in (await hear(fleet.url, "bob"))[0]
    finally:
        await trio.to_thread.run_sync(fleet.run, "stop")
        fleet.wait_until_gone()


def test_a_port_that_is_taken_is_named(model: Path, tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "f", model)
    with socket.create_server(("127.0.0.1", fleet.base_port)):
        refused = fleet.run("start", "2")
    assert refused.returncode == 1
    assert f"127.0.0.1:{fleet.base_port} cannot be listened on" in refused.stderr
    assert fleet.left_behind() == []


def test_honcho_serves_restarts_what_dies_and_ends_with_last_words(model: Path, tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / "f", model)
    honcho = subprocess.Popen(
        [Path(sys.executable).with_name("honcho"), "start"],
        cwd=ROOT,
        env=fleet.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        trio.run(_use_and_end, fleet, honcho)
        honcho.wait(10)
    finally:
        honcho.terminate()
        honcho.wait(20)
        fleet.wait_until_gone()


async def _use_and_end(fleet: LocalFleet, honcho: subprocess.Popen[bytes]) -> None:
    await _until_answering(fleet, 2)
    assert "young man" in (await hear(fleet.url))[0]
    (victim,) = _listening_on(fleet.base_port)
    os.kill(victim, signal.SIGKILL)
    await fleet.until_routed(1)
    assert "young man" in (await hear(fleet.url))[0]
    await fleet.until_routed(2)
    async with open_stream(fleet.url, StreamRequest("ann", "call", framing="seq")) as stream:
        await stream.send_audio(CLIP.samples.tobytes())
        heard, code = await until_closed(stream, when_heard=honcho.terminate)
    assert code == 1012
    assert "young man" in heard


async def _until_answering(fleet: LocalFleet, count: int) -> None:
    with trio.fail_after(60):
        while sum(bool(_listening_on(fleet.base_port + number)) for number in range(count)) < count:
            await trio.sleep(0.1)
        await trio.to_thread.run_sync(_wait_for_health, fleet)


def _wait_for_health(fleet: LocalFleet) -> None:
    import httpx

    until = time.monotonic() + 60
    ports = (fleet.base_port, fleet.base_port + 1, fleet.port)
    while True:
        try:
            answers = [httpx.get(f"http://127.0.0.1:{port}/health/simple", trust_env=False) for port in ports]
            if all(answer.status_code == 200 for answer in answers):
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < until
        time.sleep(0.1)


def _listening_on(port: int) -> list[int]:
    """Processes that serve with that port in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"SERVER_PORT={port}".encode() in variables and b"serve" in command:
            found.append(int(entry.name))
    return found
