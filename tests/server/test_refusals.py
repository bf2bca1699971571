"""Who is not let in is told so by HTTP, before the WebSocket is accepted."""

import httpx
import pytest
import trio

from tests.server.conftest import running_server
from trio_stt.client.websocket import StreamRefusedError, connect


async def refusal(server, query: str) -> StreamRefusedError:
    with pytest.raises(StreamRefusedError) as refused:
        async with server.raw(query):
            pass
    return refused.value


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("session_id=c", "client_id"),
        ("client_id=a", "session_id"),
        ("client_id=a%20b&session_id=c", "client_id"),
        ("client_id=a&session_id=c&sample_rate=4000", "sample_rate"),
        ("client_id=a&session_id=c&sample_rate=many", "sample_rate"),
        ("client_id=a&session_id=c&encoding=mp3", "encoding"),
        ("client_id=a&session_id=c&framing=odd", "framing"),
        ("client_id=a&session_id=c&history=201", "history"),
        ("client_id=a&session_id=c&speak=maybe", "speak"),
        ("client_id=a&session_id=c&resume=true&framing=raw", "resume"),
        ("client_id=a&session_id=c&translation=true", "translation"),
        ("client_id=a&session_id=c&language=auto", "language"),
    ],
)
async def test_a_wrong_query_is_answered_by_400_naming_the_parameter(server, query, parameter):
    refused = await refusal(server, query)
    assert (refused.status, refused.parameter) == (400, parameter)
    assert len(refused.message) > 10


async def test_a_language_without_a_model_names_the_command_that_installs_it(server):
    refused = await refusal(server, "client_id=a&session_id=c&language=vi-VN")
    assert (refused.status, refused.code) == (400, "language_unavailable")
    assert "trio-stt models install vi" in refused.message


async def test_a_listener_may_read_any_language(server):
    async with server.raw("client_id=a&session_id=c&language=vi&speak=false"):
        pass


async def test_a_speaker_too_many_gets_503_and_when_to_come_back():
    async with running_server(max_concurrent_clients=1) as server, server.speaker("ann"):
        refused = await refusal(server, "client_id=bob&session_id=c")
        assert (refused.status, refused.code, refused.retry_after_s) == (503, "full", 2)
        async with server.speaker("eve", speak=False):
            pass
        async with server.speaker("ann"):  # in the place of its older connection
            pass
    assert server.instance.admission.speakers == 0


async def test_a_full_session_refuses_one_more():
    async with running_server(session_max_clients=1) as server, server.speaker("ann", "call"):
        assert (await refusal(server, "client_id=bob&session_id=call")).code == "session_full"


async def test_an_open_breaker_refuses_speakers_and_shows_in_health(server):
    server.instance.breakers["en"].trip()
    refused = await refusal(server, "client_id=bob&session_id=call")
    assert (refused.status, refused.code) == (503, "recogniser_unavailable")
    assert refused.retry_after_s >= 5
    async with httpx.AsyncClient(base_url=server.http) as client:
        assert (await client.get("/health/simple")).status_code == 503
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json()["details"]["recogniser"]["status"] == "unhealthy"
    server.instance.breakers["en"].reset()
    async with server.speaker():
        pass


async def test_a_listener_does_not_come_back_as_a_speaker_past_the_limit():
    async with (
        running_server(max_concurrent_clients=1) as server,
        server.speaker("ann"),
        server.speaker("bob", speak=False),
    ):
        assert (await refusal(server, "client_id=bob&session_id=call")).code == "full"


async def test_clients_that_come_all_at_once_do_not_overfill_a_session():
    async with running_server(session_max_clients=2) as server:
        outcomes = []

        async def knock(number: int) -> None:
            try:
                async with server.raw(f"client_id=c{number}&session_id=call"):
                    outcomes.append("in")
                    await trio.sleep(0.5)
            except StreamRefusedError as refused:
                outcomes.append(refused.code)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(knock, number)
    assert sorted(outcomes) == ["in"] * 2 + ["session_full"] * 10


async def test_refusals_are_counted(server):
    await refusal(server, "client_id=a")
    async with httpx.AsyncClient(base_url=server.http) as client:
        assert 'trio_stt_refusals_total{status="400"} 1.0' in (await client.get("/metrics")).text


async def test_the_path_works_without_its_last_slash(server):
    socket = await connect(f"{server.ws}/ws/vosk?client_id=a&session_id=c", timeout_s=5)
    await socket.aclose()
