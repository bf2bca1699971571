"""One instance's health and statistics tell of all that share its Redis, also when that hangs."""

import httpx
import pytest
import trio

from tests.server.conftest import running_server
from tests.server.redis_server import redis_server
from trio_stt.gateway.admission import Readiness


@pytest.fixture
def redis():
    with redis_server() as running:
        yield running


async def fleet_of(server) -> dict:
    """What a server says of all, within the time that whoever asks for health has."""
    async with httpx.AsyncClient(base_url=server.http) as client:
        with trio.fail_after(2):
            return (await client.get("/health")).json()["details"]["fleet"]


async def fleet_when(server, condition) -> dict:
    with trio.fail_after(15):
        while not condition(fleet := await fleet_of(server)):
            await trio.sleep(0.05)
    return fleet


async def test_each_tells_of_all_and_of_nobody_whom_they_serve(redis):
    async with (
        running_server(redis_url=redis.url, instance="one") as one,
        running_server(redis_url=redis.url, instance="two") as two,
        two.speaker("confidential-ann", "confidential-call"),
    ):
        fleet = await fleet_when(one, lambda fleet: fleet["streams"] == 1)
        assert fleet["status"] == "healthy"
        assert [(each["instance"], each["streams"]) for each in fleet["instances"]] == [("one", 0), ("two", 1)]
        assert (fleet["count"], fleet["ready"]) == (2, 2)
        assert fleet["limit"] == sum(each["limit"] for each in fleet["instances"]) > 0
        assert all(each["memory_mb"] > 10 for each in fleet["instances"])
        async with httpx.AsyncClient(base_url=one.http) as client:
            statistics = (await client.get("/ws/stats")).json()["fleet"]
        assert [each["instance"] for each in statistics["instances"]] == ["one", "two"]
        assert "confidential" not in f"{fleet} {statistics} {redis.command('HGETALL', 'trio-stt:instances')}"
        two.instance.admission.readiness = Readiness.DRAINING
        fleet = await fleet_when(one, lambda fleet: fleet["ready"] == 1)
        assert fleet["instances"][1]["readiness"] == "draining"
        assert fleet["status"] == "healthy"


async def test_health_is_quick_and_says_what_it_knew_when_redis_hangs(redis):
    async with (
        running_server(redis_url=redis.url, instance="one") as one,
        running_server(redis_url=redis.url, instance="two"),
    ):
        await fleet_when(one, lambda fleet: fleet["count"] == 2)
        redis.freeze()
        try:
            fleet = await fleet_when(one, lambda fleet: fleet["status"] == "degraded")
            assert fleet["count"] == 2
            assert "away" in fleet["message"]
        finally:
            redis.thaw()
        await fleet_when(one, lambda fleet: fleet["status"] == "healthy" and fleet["count"] == 2)
        redis.stop()
        fleet = await fleet_when(one, lambda fleet: fleet["status"] == "degraded")
        assert (fleet["count"], fleet["known_at"] > 0) == (2, True)
