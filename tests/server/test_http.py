"""Health, statistics, metrics and wrong paths."""

import httpx
import pytest
import trio

from tests.server.conftest import finals_of, running_server
from tests.unit.fakes import sound


@pytest.fixture
async def client(server):
    async with httpx.AsyncClient(base_url=server.http) as client:
        yield client


async def test_health_has_every_promised_field(client):
    health = (await client.get("/health")).json()
    assert health["status"] in ("healthy", "degraded")
    assert health["ready"] is True
    assert {"timestamp", "uptime_seconds", "version", "instance", "capacity", "details"} <= health.keys()
    capacity = health["capacity"]
    assert capacity.pop("limit") > 0
    assert capacity == {"streams": 0, "parked": 0, "load": 0.0, "level": "full"}
    assert all({"status", "message"} <= part.keys() for part in health["details"].values())


async def test_simple_health_says_one_word(client):
    answer = await client.get("/health/simple")
    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "timestamp"}


async def test_health_is_degraded_when_memory_is_short():
    async with running_server(health_memory_degraded=0) as server, httpx.AsyncClient(base_url=server.http) as client:
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert (await client.get("/health/simple")).status_code == 200


async def test_health_is_unhealthy_when_memory_is_out():
    async with running_server(health_memory_unhealthy=0) as server, httpx.AsyncClient(base_url=server.http) as client:
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/health/simple")).json()["status"] == "unhealthy"


async def test_statistics_tell_who_is_connected_and_how_connections_ended(server, client):
    async with server.speaker("ann") as ann:
        (info,) = (await client.get("/ws/stats")).json()["active_clients_info"]
        assert (info["client_id"], info["session_id"], info["speak"]) == ("ann", "call", True)
        await ann.end()
        async for _ in ann:
            pass
    stats = (await client.get("/ws/stats")).json()
    assert stats.keys() == {
        "websocket_stats",
        "frequent_disconnect_codes",
        "active_clients_info",
        "circuit_breaker_status",
        "service_info",
        "workers",
        "fleet",
    }
    assert stats["websocket_stats"]["disconnect_codes"] == {"1000": 1}
    assert stats["frequent_disconnect_codes"] == [{"code": 1000, "count": 1}]
    assert stats["active_clients_info"] == []
    assert stats["circuit_breaker_status"]["vosk:vosk-model"]["state"] == "closed"


async def test_metrics_count_audio_and_captions(server, client):
    async with server.speaker() as ann:
        await ann.send_audio(sound(2).tobytes())
        await ann.finalize()
        await finals_of(ann, 1)
    with trio.fail_after(5):
        while list(server.instance.connections):  # its end is counted when the server knows of it
            await trio.sleep(0.01)
    text = (await client.get("/metrics")).text
    assert "trio_stt_audio_seconds_total 2.0" in text
    assert 'trio_stt_captions_total{kind="final"} 1.0' in text
    assert "trio_stt_speech_seconds_total 2.0" in text
    assert 'trio_stt_closes_total{code="' in text


async def test_a_plain_request_to_the_websocket_is_told_to_upgrade(client):
    answer = await client.get("/ws/vosk/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("POST", "/health", 405)])
async def test_wrong_requests_get_the_same_error_body(client, method, path, status):
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"code", "message", "parameter"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/health", 200), ("POST", "/nowhere", 404), ("GET", "/admin/streams", 401)]
)
async def test_a_body_that_comes_late_and_is_not_wanted_does_no_harm(server, method, path, status):
    host, _, port = server.http.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        for _ in range(2):
            await stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n".encode())
            await trio.sleep(0.05)
            await stream.send_all(b"0123456789")
            answer = b""
            with trio.fail_after(5):
                while not answer.endswith(b"}\n"):
                    answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_a_body_that_is_too_large_is_refused_and_the_connection_closed(server):
    host, _, port = server.http.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"POST /health HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999\r\n\r\n".encode())
        answer = b""
        with trio.fail_after(5):
            while data := await stream.receive_some():
                answer += data
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"error"' in answer
