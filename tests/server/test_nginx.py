"""The fleet's nginx: a real one takes its configuration and does with clients what docs/fleet.md says."""

import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import trio
from click.testing import CliRunner

from tests.server.nginx_server import Played, nginx_before, played, settings_for
from trio_stt.drill.free_ports import free_ports
from trio_stt.fleet import nginx
from trio_stt.fleet.certificate import cert
from trio_stt.fleet.folder import FleetError, Folder
from trio_stt.fleet.programs import find_nginx

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "x" * 22,
}
"""What asks for a WebSocket."""


def get(port: int, path: str, **more: object) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10, **more)  # type: ignore[arg-type]


def tls_pair(folder: Path) -> dict[str, str]:
    assert CliRunner().invoke(cert, ["--folder", str(folder)]).exit_code == 0
    return {"TLS_CERT": str(folder / "cert.pem"), "TLS_KEY": str(folder / "key.pem")}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"AUTH_MODE": "off"},
        {"BALANCING": "round-robin", "MAX_CONNECTIONS_PER_ADDRESS": "0"},
        {"VOSK_SERVER_PORT": "2700", "TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8", "SERVER_HOST": "::1"},
        {"TLS": "yes", "VOSK_SERVER_PORT": "2700"},
    ],
    ids=["plain", "off", "round-robin", "all", "tls"],
)
def test_nginx_and_gixy_take_the_configuration(values: dict[str, str], tmp_path: Path) -> None:
    settings = settings_for(**(tls_pair(tmp_path) if values.pop("TLS", "") else {}), **values)
    folder = Folder(tmp_path / "fleet")
    folder.make()
    nginx.prepare(settings, folder, cores=2, ports=[8001, 8002])
    nginx.check(find_nginx(), folder)
    # Strict-Transport-Security would hold for all other services of the host, too, and is for its owner to decide.
    gixy = [str(Path(sys.executable).with_name("gixy")), "--skips", "hsts_header", str(folder.nginx / "nginx.conf")]
    found = subprocess.run(gixy, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("balancing", ["least-conn", "round-robin"])
def test_the_balancing_is_the_one_that_was_chosen(balancing: str) -> None:
    assert ("least_conn;" in nginx.upstreams([8001], balancing)) == (balancing == "least-conn")


def test_what_nginx_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="TLS_CERT and TLS_KEY"):
        nginx.configuration(settings_for(TLS_CERT=__file__), cores=1)
    with pytest.raises(FleetError, match=r"TLS_KEY names .* no file"):
        nginx.configuration(settings_for(TLS_CERT=__file__, TLS_KEY=str(tmp_path / "none.pem")), cores=1)
    odd = tmp_path / 'a";b.pem'
    odd.touch()
    with pytest.raises(FleetError, match="rename it"):
        nginx.configuration(settings_for(TLS_CERT=str(odd), TLS_KEY=str(odd)), cores=1)


def test_a_certificate_that_is_none_is_said_before_anything_is_started(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nothing")
    settings = settings_for(TLS_CERT=str(tmp_path / "cert.pem"), TLS_KEY=str(tmp_path / "key.pem"))
    folder = Folder(tmp_path / "fleet")
    folder.make()
    nginx.prepare(settings, folder, cores=1, ports=[8001])
    with pytest.raises(FleetError, match=r"nginx does not take its configuration: .*cert\.pem"):
        nginx.check(find_nginx(), folder)


async def test_only_the_routes_for_clients_are_passed_on_and_by_their_own_path(tmp_path: Path) -> None:
    instance, agent = Played(200), Played(200)
    async with played(instance, agent) as (port, agent_port):
        settings = settings_for(AGENT_PORT=str(agent_port))
        with nginx_before([port], settings, tmp_path):

            def ask() -> dict[str, int]:
                hidden = ("/metrics", "/admin/streams", "/admin/../metrics", "//metrics", "/%6detrics", "/", "/ws")
                hidden += ("/agent/", "/agent/metrics", "/rooms", "/rooms/a", "/api/tts/", "/api/tts/speak/../metrics")
                shown = (
                    "/health",
                    "/health/simple",
                    "/ws/stats",
                    "/ws/vosk?a=1",
                    "//ws/vosk/?b=%2F",
                    "/vosk-server/",
                    "/agent/join",
                    "/agent/cancel",
                    "/agent/webhook",
                )
                agents = ("/api/tts/speak",)
                return {path: get(settings.server_port, path).status_code for path in hidden + shown + agents}

            answers = await trio.to_thread.run_sync(ask)
    assert [path for path, status in answers.items() if status == 404] == list(answers)[:13]
    assert [target for target, _ in instance.got] == [
        "/health",
        "/health/simple",
        "/ws/stats",
        "/ws/vosk/?a=1",
        "/ws/vosk/?b=%2F",
        "/vosk-server",
        "/agent/join",
        "/agent/cancel",
        "/agent/webhook",
    ]
    assert [target for target, _ in agent.got] == ["/api/tts/speak"]


async def test_what_a_client_says_of_its_way_is_overwritten_and_nothing_is_compressed(tmp_path: Path) -> None:
    instance = Played(200)
    async with played(instance) as ports:
        settings = settings_for()
        with nginx_before(ports, settings, tmp_path):
            lies = {
                "X-Forwarded-For": "6.6.6.6",
                "X-Real-IP": "6.6.6.6",
                "X-Forwarded-Proto": "https",
                "Forwarded": "x",
            }
            more = {"Sec-WebSocket-Extensions": "permessage-deflate", "Authorization": "Bearer t", "Origin": "http://o"}
            headers = {**lies, **more, **UPGRADE, "Sec-WebSocket-Protocol": "bearer, t"}
            await trio.to_thread.run_sync(lambda: get(settings.server_port, "/ws/vosk/", headers=headers))
    ((_, got),) = instance.got
    assert got["x-forwarded-for"] == got["x-real-ip"] == "127.0.0.1"
    assert got["x-forwarded-proto"] == "http"
    assert not got.keys() & {"forwarded", "sec-websocket-extensions"}
    assert (got["upgrade"], got["connection"]) == ("websocket", "upgrade")
    assert (got["authorization"], got["sec-websocket-protocol"], got["origin"]) == ("Bearer t", "bearer, t", "http://o")


async def test_behind_a_proxy_that_is_trusted_its_word_counts(tmp_path: Path) -> None:
    instance = Played(200)
    async with played(instance) as ports:
        settings = settings_for(TRUSTED_PROXIES="127.0.0.1")
        with nginx_before(ports, settings, tmp_path):
            headers = {"X-Forwarded-For": "6.6.6.6, 7.7.7.7, 127.0.0.1"}
            await trio.to_thread.run_sync(lambda: get(settings.server_port, "/health", headers=headers))
    assert instance.got[0][1]["x-forwarded-for"] == "7.7.7.7"


async def test_who_is_refused_by_full_instances_gets_the_last_ones_answer_every_time(tmp_path: Path) -> None:
    full = [Played(503, {"Retry-After": "7"}) for _ in range(2)]
    async with played(*full) as ports:
        settings = settings_for()
        with nginx_before(ports, settings, tmp_path):
            for _ in range(5):
                answer = await trio.to_thread.run_sync(lambda: get(settings.server_port, "/ws/vosk/", headers=UPGRADE))
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert len(full[0].got) == len(full[1].got) == 5


@pytest.mark.parametrize("status", [502, 503])
async def test_one_that_refuses_is_hidden_by_one_that_does_not(tmp_path: Path, status: int) -> None:
    refusing, serving = Played(status), Played(200)
    async with played(refusing, serving) as ports:
        settings = settings_for()
        with nginx_before(ports, settings, tmp_path):
            for _ in range(6):
                answer = await trio.to_thread.run_sync(lambda: get(settings.server_port, "/ws/vosk/", headers=UPGRADE))
                assert answer.text == f"instance {serving.port}"
    assert refusing.got


async def test_dead_ones_are_skipped_and_if_all_are_the_answer_is_503_with_retry_after(tmp_path: Path) -> None:
    serving = Played(200)
    async with played(serving) as (port,):
        settings = settings_for()
        with nginx_before([free_ports(), port, free_ports()], settings, tmp_path / "one"):
            for _ in range(6):
                answer = await trio.to_thread.run_sync(lambda: get(settings.server_port, "/ws/vosk/"))
                assert answer.status_code == 200
    settings = settings_for()
    with nginx_before([free_ports(), free_ports()], settings, tmp_path / "none"):
        for path in ("/ws/vosk/", "/health", "/agent/join", "/api/tts/speak"):
            answer = await trio.to_thread.run_sync(get, settings.server_port, path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json()["error"]["code"] == "unavailable"


def _open(port: int) -> tuple[socket.socket, str]:
    """A socket to /ws/vosk/ and the status that it was answered with."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    lines = ["GET /ws/vosk/ HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in UPGRADE.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection, connection.recv(65536).split()[1].decode()


async def test_an_address_has_so_many_sockets_and_one_more_gets_429_until_one_is_closed(tmp_path: Path) -> None:
    async with played(Played(101)) as ports:
        settings = settings_for(MAX_CONNECTIONS_PER_ADDRESS="3")
        with nginx_before(ports, settings, tmp_path):

            def crowd() -> list[str]:
                sockets, statuses = zip(*(_open(settings.server_port) for _ in range(4)), strict=True)
                sockets[0].close()
                until = time.monotonic() + 10
                while (again := _open(settings.server_port))[1] != "101":
                    assert time.monotonic() < until
                    again[0].close()
                for each in (*sockets, again[0]):
                    each.close()
                return list(statuses)

            assert await trio.to_thread.run_sync(crowd) == ["101", "101", "101", "429"]
            refused = await trio.to_thread.run_sync(get, settings.server_port, "/nginx/status")
            assert "Active connections" in refused.text


async def test_open_sockets_live_through_reloads_and_new_ones_go_to_the_new_instances(tmp_path: Path) -> None:
    old, new = Played(101), Played(101)
    async with played(old, new) as (old_port, new_port):
        settings = settings_for()
        with nginx_before([old_port], settings, tmp_path) as folder:
            first, _ = await trio.to_thread.run_sync(_open, settings.server_port)
            for port in (new_port, old_port, new_port):
                assert await nginx.route_to([port], settings.balancing, find_nginx(), folder)
            with trio.fail_after(10):
                while not new.got:
                    second, status = await trio.to_thread.run_sync(_open, settings.server_port)
                    assert status == "101"
                    second.close()

            def echo() -> bytes:
                first.sendall(b"still here")
                return first.recv(100)

            assert await trio.to_thread.run_sync(echo) == b"still here"
            first.close()


async def test_tls_is_served_with_the_pair_that_was_set(tmp_path: Path) -> None:
    instance = Played(200)
    async with played(instance) as ports:
        settings = settings_for(**tls_pair(tmp_path))
        with nginx_before(ports, settings, tmp_path / "fleet"):
            url = f"https://localhost:{settings.server_port}/health"

            def ask() -> int:
                trusting = ssl.create_default_context(cafile=settings.tls_cert)
                return httpx.get(url, verify=trusting, trust_env=False).status_code

            assert await trio.to_thread.run_sync(ask) == 200
    assert instance.got[0][1]["x-forwarded-proto"] == "https"


async def test_on_vosk_servers_port_every_path_is_vosk_servers(tmp_path: Path) -> None:
    instance = Played(200)
    async with played(instance) as ports:
        settings = settings_for(VOSK_SERVER_PORT=str(free_ports()))
        with nginx_before(ports, settings, tmp_path):
            for path in ("/", "/any/path?model=de", "/admin/streams", "/metrics"):
                await trio.to_thread.run_sync(get, settings.vosk_server_port, path)
    assert [target for target, _ in instance.got] == [
        "/vosk-server",
        "/vosk-server?model=de",
        "/vosk-server",
        "/vosk-server",
    ]


async def test_when_a_reload_is_said_to_be_done_nobody_is_sent_to_the_old_instances_any_more(tmp_path: Path) -> None:
    old, new = Played(101), Played(101)
    async with played(old, new) as (old_port, _):
        settings = settings_for()
        with nginx_before([old_port], settings, tmp_path) as folder:
            for _ in range(5):
                for instance in (new, old):
                    assert await nginx.route_to([instance.port], settings.balancing, find_nginx(), folder)
                    instance.got.clear()
                    for _ in range(5):
                        connection, status = await trio.to_thread.run_sync(_open, settings.server_port)
                        connection.close()
                        assert status == "101"
                    assert len(instance.got) == 5


async def test_an_nginx_that_has_no_workers_yet_sends_nobody_to_the_old_instances_either(tmp_path: Path) -> None:
    old, new = Played(101), Played(101)
    async with played(old, new) as (old_port, new_port):
        for number in range(5):
            settings, folder = settings_for(), Folder(tmp_path / str(number))
            folder.make()
            nginx.prepare(settings, folder, cores=1, ports=[old_port])
            with subprocess.Popen(nginx.command(find_nginx(), folder)) as process:  # noqa: ASYNC220  (forks at once)
                try:
                    with trio.fail_after(10):
                        while not await nginx.route_to([new_port], settings.balancing, find_nginx(), folder):
                            await trio.sleep(0.001)
                    connection, status = await trio.to_thread.run_sync(_open, settings.server_port)
                    connection.close()
                    assert status == "101"
                finally:
                    process.terminate()
    assert (len(old.got), len(new.got)) == (0, 5)


async def test_an_nginx_that_does_not_run_is_to_be_told_again(tmp_path: Path) -> None:
    settings = settings_for()
    folder = Folder(tmp_path)
    folder.make()
    nginx.prepare(settings, folder, cores=1, ports=[8001])
    assert not await nginx.route_to([8002], settings.balancing, find_nginx(), folder)
    assert "127.0.0.1:8002" in folder.upstreams.read_text()
