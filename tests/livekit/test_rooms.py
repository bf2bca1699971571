"""Into a real room, out of it and back again: when it is empty, when LiveKit goes away, when an agent is killed."""

import asyncio
import signal
import time
from contextlib import asynccontextmanager

import pytest
from livekit import rtc

from agent.room_agent import RoomAgent
from agent.room_connection import RoomNotEnteredError
from agent.settings import AgentSettings
from tests.agent.played_rooms import until
from tests.livekit.agents import agent_process, rooms_of, send_agent
from tests.livekit.livekit_server import livekit_server
from tests.livekit.own_process import in_own_process
from tests.livekit.people import person
from tests.livekit.test_captions import all_final, check_order, heard_by
from tests.livekit_tokens import API_KEY, API_SECRET
from tests.server.redis_server import redis_server
from trio_stt.bench.speech import load_speech
from trio_stt.rooms.wanted import WantedRoom
from trio_stt.settings import Secret

CLIP = "sense_and_sensibility_01_austen_64kb-0870"


def settings_for(livekit: str, stt: str, **changes: object) -> AgentSettings:
    given = {"livekit_url": livekit, "api_key": API_KEY, "api_secret": Secret(API_SECRET), "stt_url": stt}
    return AgentSettings(**{**given, "empty_room_s": 1.0, **changes})


def clip():
    return next(each for each in load_speech() if each.name == CLIP)


@asynccontextmanager
async def own_agent(livekit: str, stt: str, room_name: str):
    """An agent's life in this process, which may be played with; it leaves at the end."""
    agent = RoomAgent(settings_for(livekit, stt), WantedRoom(room_name))
    life = asyncio.create_task(agent.run())
    try:
        yield agent, life
    finally:
        life.cancel()
        await asyncio.wait([life])


def is_there(who) -> bool:
    """Whether an agent is in the room."""
    kinds = [each.kind for each in who.room.remote_participants.values()]
    return rtc.ParticipantKind.PARTICIPANT_KIND_AGENT in kinds


async def says_and_reads(who) -> None:
    """What it says is captioned."""
    before = len(who.words(who.identity))
    await who.say(clip().samples)
    await who.until(lambda: len(who.words(who.identity)) >= before + len(clip().words) // 2)


@in_own_process
async def test_an_agent_leaves_a_room_in_which_nobody_is_left(livekit, stt, agent):
    async with person(livekit, "left", "ann") as ann:
        assert await asyncio.to_thread(send_agent, agent, "left") == "created"
        await ann.until(lambda: is_there(ann))
        await asyncio.sleep(4)  # more than AGENT_EMPTY_ROOM_S
        assert is_there(ann)
    began = time.monotonic()
    while (await asyncio.to_thread(rooms_of, agent))["room_names"]:
        assert time.monotonic() < began + 60
        await asyncio.sleep(0.1)
    async with person(livekit, "left", "ann") as ann:
        await asyncio.sleep(0.5)
        assert not is_there(ann)
        # It is alone, too, where it comes first.
        assert await asyncio.to_thread(send_agent, agent, "nobody") == "created"
        while (await asyncio.to_thread(rooms_of, agent))["room_names"]:
            await asyncio.sleep(0.1)


@in_own_process
async def test_wrong_keys_are_told_plainly_and_no_token_is(livekit, stt):
    wrong = "not the secret of that key, but as long as one"
    with agent_process(livekit, stt, LIVEKIT_API_SECRET=wrong, LOG_LEVEL="DEBUG") as (agent, process):
        assert await asyncio.to_thread(send_agent, agent, "room") == "created"
        line = await asyncio.to_thread(process.wait_for, "room_not_entered")
        assert "LIVEKIT_API_KEY and LIVEKIT_API_SECRET" in line["why"]
        assert line["level"] == "error"
        await until(lambda: "401" in "".join(process.log), 60)  # the SDK says it, too, a little later
        log = "".join(process.log)
        assert "eyJ" not in log
        assert wrong not in log


@in_own_process
async def test_a_livekit_that_is_not_there_is_told_plainly(stt):
    with pytest.raises(RoomNotEnteredError, match="cannot be reached: see LIVEKIT_URL"):
        await RoomAgent(settings_for("ws://127.0.0.1:9", stt), WantedRoom("room")).run()


@in_own_process
async def test_who_is_cancelled_while_it_enters_is_out_when_it_ends(livekit, stt):
    async with person(livekit, "hasty", "ann") as ann:
        came = []
        ann.room.on("participant_connected", lambda one: came.append(one))
        for wait_s in (0.0, 0.01, 0.03, 0.1, 0.3):
            async with own_agent(livekit, stt, "hasty"):
                await asyncio.sleep(wait_s)
            await ann.until(lambda: not is_there(ann), 60)
        assert came


@pytest.mark.parametrize("scenario", ["SIMULATE_SIGNAL_RECONNECT", "SIMULATE_FULL_RECONNECT"])
@in_own_process
async def test_captions_go_on_after_a_reconnection(livekit, stt, scenario):
    async with person(livekit, scenario, "ann") as ann, own_agent(livekit, stt, scenario) as (agent, life):
        await ann.publish()
        await until(lambda: agent.status()["tracks"] == 1, 60)
        await says_and_reads(ann)
        happened = []
        agent._room.on("reconnected", lambda: happened.append(True))
        await agent._room.simulate_scenario(getattr(rtc.SimulateScenarioKind, scenario))
        await until(lambda: happened, 60)
        await until(lambda: agent.status()["tracks"] == 1, 60)
        await says_and_reads(ann)
        assert not life.done()
        await ann.until(lambda: all_final(ann))
        check_order(ann)


@in_own_process
async def test_captions_go_on_after_the_speaker_s_reconnection(livekit, stt):
    async with person(livekit, "moving", "ann") as ann, own_agent(livekit, stt, "moving") as (agent, _):
        await ann.publish()
        await until(lambda: agent.status()["tracks"] == 1, 60)
        await ann.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_FULL_RECONNECT)
        await asyncio.sleep(3)
        await until(lambda: agent.status()["tracks"] == 1, 60)
        await says_and_reads(ann)
        assert agent.status()["drops"] == 0


@in_own_process
async def test_an_agent_returns_when_livekit_was_restarted(stt):
    with livekit_server() as livekit, agent_process(livekit.url, stt) as (agent, _):
        async with person(livekit.url, "restarted", "ann") as ann:
            assert await asyncio.to_thread(send_agent, agent, "restarted") == "created"
            await ann.publish()
            await heard_by(agent, 1)
            await says_and_reads(ann)
        assert (await asyncio.to_thread(rooms_of, agent))["room_names"] == ["restarted"]
        await asyncio.to_thread(livekit.kill)
        await asyncio.sleep(3)
        await asyncio.to_thread(livekit.start)
        async with person(livekit.url, "restarted", "ann") as ann:
            await ann.publish()
            await heard_by(agent, 1)
            await says_and_reads(ann)


@in_own_process
async def test_another_agent_takes_over_from_one_that_is_killed(livekit, stt):
    with (
        redis_server() as redis,
        agent_process(livekit, stt, REDIS_URL=redis.url, INSTANCE="one") as (one, killed),
        agent_process(livekit, stt, REDIS_URL=redis.url, INSTANCE="other") as (other, _),
    ):
        async with person(livekit, "taken over", "ann", {"language": "pt"}) as ann:
            assert await asyncio.to_thread(send_agent, one, "taken over") == "created"
            await ann.publish()
            await heard_by(one, 1)
            await says_and_reads(ann)
            sids = {each.sid for each in ann.room.remote_participants.values()}
            killed.signal(signal.SIGKILL)
            began = time.monotonic()
            async with asyncio.timeout(60):  # it promises 10; a busy machine may take longer
                while not (await asyncio.to_thread(rooms_of, other))["tracks"]:
                    await asyncio.sleep(0.05)
            print(f"heard by another after {time.monotonic() - began:.1f} s")
            assert {each.sid for each in ann.room.remote_participants.values()} != sids
            await says_and_reads(ann)
            await ann.until(lambda: ann.finals("ann", language="pt"))
