"""No log of a real run holds a token, a secret, samples or words, whatever clients do with them."""

import base64
import json
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.conftest import ROOT, server_process
from tests.tokens import KEYS, SECRET, token
from trio_stt.bench.speech import load_speech
from trio_stt.client.connection import open_stream
from trio_stt.client.websocket import StreamClosedError, StreamRefusedError, connect
from trio_stt.dialects.events import StreamRequest, Transcript
from trio_stt.drill.free_ports import free_ports

CANARY = "tweetcanary"
"""Stands for what people say, in every text that a client may send."""

TEXTS = [
    CANARY,
    json.dumps({"type": CANARY}),
    json.dumps({"type": "configure", "language": CANARY}),
    json.dumps({"type": "configure", "target": [CANARY, 7]}),
    json.dumps({"type": "ping", "id": CANARY}),
    json.dumps({"type": "finalize", "id": [CANARY]}),
    json.dumps({"type": "resume", "token": CANARY}),
]
VOSK_TEXTS = [CANARY, *(json.dumps({"config": {name: CANARY}}) for name in ("phrase_list", "model", "sample_rate"))]


def ways_of_showing(shown: str) -> list[str]:
    """Heads of requests that show a token in places where it may be, and where it may not."""
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    path = "/ws/vosk/?client_id=a&session_id=b"
    change = f"POST /admin/log-level HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {shown}\r\nContent-Length: 9\r\n\r\n"
    return [
        f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {shown}\xe9\r\n{upgrade}{key}\r\n",
        f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {shown}\r\n{upgrade}\r\n",
        f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {shown}\r\n\r\n",
        f"GET {path}&token={shown} HTTP/1.1\r\nHost: a\r\n{upgrade}{key}\r\n",
        f"GET /ws/stats HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {shown}\xe9\r\n\r\n",
        f"GET /ws/stats?token={shown} HTTP/1.1\r\nHost: a\r\n\r\n",
        f"GET /{shown}\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        f"{shown}\r\n\r\n",
        f"{change}{shown}",
    ]


def send_raw(port: int, data: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as tcp:
        tcp.sendall(data.encode("latin-1"))
        tcp.shutdown(socket.SHUT_WR)
        while tcp.recv(65536):
            pass


async def talk(url: str, path: str, texts: list[str], shown: str) -> None:
    """Sends each text on a connection of its own and reads until it is answered or closed."""
    for text in texts:
        websocket = await connect(url + path, timeout_s=5, token=shown)
        await websocket.send(text)
        with trio.move_on_after(0.5):
            try:
                while True:
                    await websocket.receive()
            except StreamClosedError:
                pass
        await websocket.aclose()


async def speak(url: str, samples: bytes, shown: str) -> str:
    async with open_stream(url, StreamRequest("ann", "call", framing="seq", words=True), token=shown) as stream:
        await stream.send_audio(samples)
        await stream.end()
        with trio.fail_after(20):
            return " ".join([event.text async for event in stream if isinstance(event, Transcript) and event.is_final])


async def speak_as_to_vosk_server(url: str, samples: bytes, shown: str) -> None:
    websocket = await connect(url + "/vosk-server", timeout_s=5, token=shown)
    await websocket.send('{"config": {"sample_rate": 16000}}')
    for start in range(0, len(samples), 8000):
        await websocket.send(samples[start : start + 8000])
        await websocket.receive()
    await websocket.send('{"eof": 1}')
    await websocket.receive()
    await websocket.aclose()


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_token_no_secret_no_sample_and_no_word_is_in_any_log(model, log_format, tmp_path):
    samples = next(clip for clip in load_speech() if "0880" in clip.name).samples.tobytes()
    good, expired, admin = token(), token(exp=1), token(admin=True)
    environment = {"AUTH_MODE": "required", "AUTH_KEYS": KEYS, "LOG_LEVEL": "DEBUG", "VOSK_MODEL_PATH": str(model)}
    port = free_ports()
    with server_process(**environment, LOG_FORMAT=log_format, SERVER_PORT=str(port)) as process:
        await ready(port)
        url = f"ws://127.0.0.1:{port}"
        heard = await speak(url, samples, good)
        assert "disposed young man" in heard
        await speak_as_to_vosk_server(url, samples, good)
        await talk(url, "/ws/vosk/?client_id=a&session_id=b", TEXTS, good)
        await talk(url, "/vosk-server", VOSK_TEXTS, good)
        with pytest.raises(StreamRefusedError):
            await connect(f"{url}/ws/vosk/?client_id={CANARY}&session_id=b", timeout_s=5, token=expired)
        for shown in (good, expired, admin):
            for request in ways_of_showing(shown):
                await trio.to_thread.run_sync(send_raw, port, request)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {admin}"}) as client:
            for method, path in [("GET", "streams"), ("GET", "sessions"), ("POST", "log-level"), ("POST", "drain")]:
                await client.request(method, f"http://127.0.0.1:{port}/admin/{path}", json={"level": CANARY})
        assert await trio.to_thread.run_sync(process.ended) == 0
    log = "".join(process.log)
    assert log.count("stream_opened") > len(TEXTS)
    assert "refused" in log
    for secret in (good, expired, admin):
        for part in secret.split("."):
            if part != good.split(".")[0]:  # their headers are the same, and say no more than the kid
                assert part not in log
    piece = samples[20_000:20_012]
    for unwanted in (SECRET, CANARY, *(word for word in heard.split() if len(word) > 5)):
        assert unwanted not in log
    for unwanted in (repr(piece)[2:-1], piece.hex(), base64.b64encode(piece).decode(), str(list(piece))[1:-1]):
        assert unwanted not in log


async def ready(port: int) -> None:
    async with httpx.AsyncClient() as client:
        with trio.fail_after(30):
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/health/simple")).is_success:
                        return
                except httpx.HTTPError:
                    pass
                await trio.sleep(0.05)


@pytest.mark.parametrize("wrong", [{"AUTH_KEYS": f"k1:{CANARY}"}, {"ACCESS_TOKEN": f"{CANARY} two"}])
def test_a_wrong_secret_is_not_printed_when_the_server_cannot_start(wrong):
    with server_process(AUTH_MODE="required", **wrong) as process:
        assert process.ended(10) == 2
    assert next(iter(wrong)) in "".join(process.log)
    assert CANARY not in "".join(process.log)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AUTH_MODE": "required"}, "trio-stt token --new-key"),
        ({"AUTH_MODE": "off", "SERVER_HOST": "0.0.0.0"}, "SERVER_HOST=127.0.0.1"),
        ({"AUTH_MODE": "off", "TRUSTED_PROXIES": "127.0.0.1"}, "TRUSTED_PROXIES"),
        ({"AUTH_MODE": "required", "AUTH_KEY_FILES": "k:none.pem"}, "none.pem"),
        ({"TENANT_QUOTAS_FILE": "none.json"}, "none.json"),
    ],
)
def test_a_server_that_is_open_to_all_or_none_does_not_start_and_says_what_to_set(environment, said):
    with server_process(**environment) as process:
        assert process.ended(20) == 1
    assert said in "".join(process.log)
    assert "Traceback" not in "".join(process.log)
    assert '"ready"' not in "".join(process.log)


@pytest.mark.parametrize("mode", ["", "off"])
def test_run_prod_wants_keys_whatever_auth_mode_says(mode):
    program = (ROOT / "scripts" / "run-prod.sh").read_text().replace("scripts/setup.sh --check", "")
    script = Path(ROOT / "scripts").joinpath("run-prod.sh")
    assert script.read_text().startswith("#!/usr/bin/env bash")
    done = subprocess.run(
        ["bash", "-c", program.replace(".venv/bin/python", sys.executable), str(script)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "AUTH_MODE": mode, "SERVER_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "No keys for access tokens: set AUTH_KEYS" in done.stderr
