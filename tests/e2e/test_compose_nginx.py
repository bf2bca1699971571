"""nginx of docker-compose.yml: what it lets through, and that it follows the servers that come and go."""

import datetime
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.e2e.compose_nginx import CONFIGURATION, NGINX, running_nginx, written_for_this_machine
from tests.e2e.conftest import ServerProcess, server_process
from tests.e2e.name_server import NameServer, name_server
from tests.tokens import KEYS, token
from trio_stt.bench.speech import load_speech
from trio_stt.client.connection import StreamRefusedError, open_stream
from trio_stt.dialects.events import Ready, StreamRequest, Transcript
from trio_stt.drill.free_ports import free_ports

ONE, OTHER = "127.0.0.2", "127.0.0.3"


def write_certificate(folder: Path) -> None:
    """A certificate of its own and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_nginx_takes_the_configuration_also_with_tls(tmp_path):
    file = written_for_this_machine(tmp_path)
    subprocess.run([NGINX, "-t", "-p", tmp_path, "-c", file], check=True)

    (tmp_path / "tls").mkdir()
    tls = CONFIGURATION.with_name("tls.conf").read_text().replace("/etc/nginx/", f"{tmp_path}/")
    (tmp_path / "tls" / "tls.conf").write_text(tls)
    write_certificate(tmp_path / "tls")
    subprocess.run([NGINX, "-t", "-p", tmp_path, "-c", file], check=True)


def test_gixy_finds_nothing():
    gixy = Path(sys.executable).with_name("gixy")
    found = subprocess.run([gixy, "-f", "json", CONFIGURATION], capture_output=True, text=True)
    assert json.loads(found.stdout) == []
    assert found.returncode == 0


# ── what goes through, shown by a server that answers with what it was asked ─────────────────────────────────────


class Mirror(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "headers": {name.lower(): text for name, text in self.headers.items()}})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def mirror() -> Iterator[int]:
    """A mirror at `ONE`; its port."""
    server = ThreadingHTTPServer((ONE, 0), Mirror)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of nginx in front of a mirror, and nginx's log."""
    folder, front = tmp_path_factory.mktemp("nginx"), free_ports()
    with name_server() as names, mirror() as servers:
        names.addresses = [ONE]
        ports = {"servers": servers, "agents": servers, "names": names.port}
        with running_nginx(folder, front=front, alive=free_ports(), **ports):
            yield f"http://127.0.0.1:{front}", folder / "log"


def asked(url: str, path: str, **headers: str) -> httpx.Response:
    """The answer, once nginx knows its server: it asks for it every second."""
    give_up_at = time.monotonic() + 20
    while True:
        answer = httpx.get(url + path, headers=headers)
        if answer.status_code != 503 or time.monotonic() > give_up_at:
            return answer


@pytest.mark.parametrize(
    "path",
    [
        "/ws/vosk/",
        "/ws/stats",
        "/vosk-server",
        "/vosk-server/",
        "/health",
        "/health/simple",
        "/agent/join",
        "/agent/cancel",
        "/agent/webhook",
        "/api/tts/speak",
    ],
)
def test_public_paths_go_through(mirrored, path):
    url, _ = mirrored
    assert asked(url, path).json()["path"] == path


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/agent/",
        "/agent/x",
        "/rooms",
        "/api/tts/",
        "/metrics",
        "/admin/streams",
        "/ws/../admin/drain",
        "/ws/%2e%2e/metrics",
        "//metrics",
        "/health/x",
    ],
)
def test_everything_else_stays_inside(mirrored, path):
    url, _ = mirrored
    _, _, address = url.rpartition("/")
    connection = http.client.HTTPConnection(address)
    connection.request("GET", path)  # as it stands, dots and all
    answer = connection.getresponse()
    assert answer.status == 404
    assert json.loads(answer.read())["error"]["code"] == "not_found"
    connection.close()


def test_what_a_client_says_of_itself_is_not_believed(mirrored):
    url, _ = mirrored
    forged = {"X-Forwarded-For": "10.9.8.7", "Forwarded": "for=10.9.8.7", "X-Forwarded-Proto": "https"}
    headers = asked(url, "/health", **forged, **{"X-Forwarded-Host": "evil.example"}).json()["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert "forwarded" not in headers
    assert "x-forwarded-host" not in headers


def test_compression_is_not_offered_to_the_server(mirrored):
    url, _ = mirrored
    headers = asked(url, "/ws/vosk/", **{"Sec-WebSocket-Extensions": "permessage-deflate"}).json()["headers"]
    assert "sec-websocket-extensions" not in headers


def test_the_log_names_no_call_and_nobody(mirrored):
    url, log = mirrored
    asked(url, "/ws/vosk/?session_id=secret-call&client_id=ann", Authorization="Bearer secret-token")
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line["path"] == "/ws/vosk/" for line in lines)
    assert not re.search(r"secret|ann\b", log.read_text())


def test_who_waits_for_a_server_that_is_gone_gets_another_though_the_servers_change_meanwhile(tmp_path):
    """nginx gives up a request when the list of servers changes while it waits for one of them."""
    front = free_ports()
    with (
        name_server() as names,
        mirror() as servers,
        unanswering(OTHER, servers),
        running_nginx(tmp_path, front=front, alive=free_ports(), servers=servers, names=names.port, connect="4s"),
        ThreadPoolExecutor() as clients,
    ):
        names.addresses = [ONE, OTHER]
        asked(f"http://127.0.0.1:{front}", "/health")
        answers = [clients.submit(httpx.get, f"http://127.0.0.1:{front}/health?{each}", timeout=20) for each in "ab"]
        names.addresses = [ONE]
        assert [answer.result().json().get("path") for answer in answers] == ["/health?a", "/health?b"]
    # One of the two did wait, in vain, and began again (nginx marks that by a colon).
    assert re.search(rf'"server":"{OTHER}:\d+ : {ONE}:\d+"', (tmp_path / "log").read_text())


@contextmanager
def unanswering(address: str, port: int) -> Iterator[None]:
    """An address where connections get no answer at all, as of a container that is gone: its queue is full."""
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server((address, port), backlog=0))
        listener.setblocking(False)
        while True:
            filling = held.enter_context(socket.socket())
            filling.settimeout(0.5)
            try:
                filling.connect((address, port))
            except TimeoutError:
                break
        yield


# ── real servers that come and go ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def balanced(tmp_path) -> Iterator[tuple[str, int, NameServer]]:
    """The address of nginx, the port of its servers, and its name server, which knows none yet."""
    front, servers = free_ports(), free_ports(address=ONE)
    with (
        name_server() as names,
        running_nginx(tmp_path, front=front, alive=free_ports(), servers=servers, names=names.port),
    ):
        yield f"ws://127.0.0.1:{front}", servers, names


def test_there_need_be_no_agent(tmp_path):
    front = free_ports()
    with (
        name_server() as names,
        mirror() as servers,
        running_nginx(
            tmp_path, front=front, alive=free_ports(), servers=servers, agents=free_ports(address=ONE), names=names.port
        ),
    ):
        url = f"http://127.0.0.1:{front}"
        for known in ([], [ONE]):  # nobody has that name; nobody listens there
            names.addresses = known
            answer = httpx.get(f"{url}/api/tts/speak")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert asked(url, "/health").status_code == 200


def instance(model: Path, address: str, port: int, **settings: str):
    return server_process(
        VOSK_MODEL_PATH=str(model),
        SERVER_HOST=address,
        SERVER_PORT=str(port),
        INSTANCE=address,
        AUTH_MODE="required",
        AUTH_KEYS=KEYS,
        TRUSTED_PROXIES="127.0.0.1",
        DECODE_CORES="1",
        **settings,
    )


async def served_by(url: str, client: str = "*") -> str:
    """Which instance takes a speaker."""
    async with open_stream(url, StreamRequest(client, "call"), token=token()) as stream:
        async for event in stream:
            if isinstance(event, Ready):
                return event.instance
    raise AssertionError("no ready")


async def until_served_by(url: str, wanted: set[str]) -> None:
    """Returns when speakers that come one after the other have met just these instances."""
    with trio.fail_after(30):
        while True:
            met = set()
            for number in range(6):
                try:
                    met.add(await served_by(url, f"speaker-{number}"))
                except StreamRefusedError as refused:
                    met.add(f"HTTP {refused.status}")
            if met == wanted:
                return


def killed(process: ServerProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.ended()


async def test_servers_that_come_and_go_are_followed_without_a_reload(model, balanced):
    url, port, names = balanced
    with instance(model, ONE, port) as first, instance(model, OTHER, port) as second:
        first.wait_for("ready")
        second.wait_for("ready")
        await until_served_by(url, {"HTTP 503"})  # nobody is known yet
        names.addresses = [ONE]
        await until_served_by(url, {ONE})
        names.addresses = [ONE, OTHER]
        await until_served_by(url, {ONE, OTHER})

        names.addresses = [OTHER]
        await until_served_by(url, {OTHER})
        assert await words_heard(url) == {"and mister john dashwood had then leisure to consider"}


async def words_heard(url: str) -> set[str]:
    clip = next(clip for clip in load_speech() if "0870" in clip.name)
    heard = ""
    async with open_stream(url, StreamRequest("ann", "call"), token=token()) as stream:
        await stream.send_audio(clip.samples.tobytes())
        await stream.end()
        async for event in stream:
            if isinstance(event, Transcript) and event.is_final:
                heard += f"{event.text} "
    return {" ".join(heard.split()[:9])}


async def test_nobody_notices_an_instance_that_was_killed_and_is_still_named(model, balanced):
    url, port, names = balanced
    names.addresses = [ONE, OTHER]
    with instance(model, ONE, port) as first, instance(model, OTHER, port) as second:
        first.wait_for("ready")
        second.wait_for("ready")
        await until_served_by(url, {ONE, OTHER})
        killed(first)
        assert {await served_by(url, f"speaker-{number}") for number in range(8)} == {OTHER}

        killed(second)
        with pytest.raises(StreamRefusedError) as refused:
            await served_by(url)
        assert refused.value.status == 503
        async with httpx.AsyncClient() as client:
            answer = await client.get(url.replace("ws:", "http:") + "/health")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "2"
        assert answer.json()["error"]["code"] == "unavailable"


async def test_who_finds_one_instance_full_gets_the_other_and_who_finds_all_full_their_own_answer(model, balanced):
    url, port, names = balanced
    names.addresses = [ONE, OTHER]
    with (
        instance(model, ONE, port, MAX_CONCURRENT_CLIENTS="1") as first,
        instance(model, OTHER, port, MAX_CONCURRENT_CLIENTS="1") as second,
    ):
        first.wait_for("ready")
        second.wait_for("ready")
        await until_served_by(url, {ONE, OTHER})
        async with (
            open_stream(url, StreamRequest("ann", "call"), token=token()),
            open_stream(url, StreamRequest("bob", "call"), token=token()),
        ):
            with pytest.raises(StreamRefusedError) as refused:
                async with open_stream(url, StreamRequest("cat", "call"), token=token()):
                    pass
    assert refused.value.status == 503
    assert refused.value.code == "full"
