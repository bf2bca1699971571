"""The JavaScript client, run by Node, against the same server that cuts, freezes, refuses and sends away."""

import json
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from tests.node import NODE
from tests.server.scripted_server import (
    CloseWith,
    Cut,
    GoAway,
    HalfOpen,
    NeverAnswer,
    NeverReady,
    Refuse,
    RefuseResume,
    Serve,
    scripted_server,
)
from tests.server.simulated_javascript import JavascriptClient, node
from tests.unit.client.simulation import Simulation, run_at_random

SCRIPT = Path(__file__).with_name("speak.mjs")
SAMPLES = 2000
LONG = 4000
"""Utterances of this length where there are many samples."""
ALL = [(start, start + 100) for start in range(0, SAMPLES, 100)]

Event = dict[str, Any]


async def spoken(servers: str | list[str], count: int = SAMPLES, **options: Any) -> list[Event]:
    """The events of a stream that speaks `count` samples."""
    arguments = [json.dumps(argument) for argument in (servers, count, options)]
    with trio.fail_after(60):
        done = await trio.run_process([NODE, SCRIPT, *arguments], capture_stdout=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def spans(events: list[Event]) -> list[tuple[int, int]]:
    return [(event["start_sample"], event["end_sample"]) for event in events if event["type"] == "transcripts"]


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events if event["type"] not in ("transcripts", "ack")]


async def test_without_trouble_a_stream_is_like_any_other():
    async with scripted_server() as server:
        events = await spoken(server.url, finalize="f")
    assert spans(events) == ALL
    assert kinds(events) == ["ready", "ended"]
    assert [event["id"] for event in events if event.get("from_finalize")] == ["f"]
    assert events[-1]["reason"] == "finished"


@pytest.mark.parametrize(
    "trouble", [Cut(3), Cut(3, acks=False), HalfOpen(3), GoAway(3), CloseWith(3, code=1012)], ids=repr
)
async def test_no_word_is_lost_or_doubled(trouble: Serve):
    async with scripted_server(trouble) as server:
        events = await spoken(server.url)
    assert spans(events) == ALL
    assert kinds(events) == ["ready", "interrupted", "resumed", "ended"]
    assert {"resume": "true", "history": "200", "framing": "seq"}.items() <= server.queries[1].items()
    (resume,) = server.resumes
    assert resume["token"] == "token-1"
    assert resume["accepted"] >= 300
    assert resume["from_sample"] == (resume["accepted"] if trouble.acks else 0)


async def test_many_troubles_one_after_the_other():
    plan = [Refuse(503), Cut(1, acks=False), HalfOpen(2), NeverAnswer(), NeverReady(), GoAway(1), Refuse(429), Cut(0)]
    async with scripted_server(*plan) as server:
        events = await spoken(server.url)
    assert spans(events) == ALL
    assert not {"lost", "restarted"} & set(kinds(events))
    assert server.plan == []


@pytest.mark.parametrize("seed", range(4))
async def test_troubles_in_any_order(seed: int):
    random = Random(seed)
    acts = [Cut, GoAway, CloseWith, Refuse]
    plan = [
        Refuse(503) if act is Refuse else act(random.randint(0, 4), acks=random.random() < 0.5)
        for act in random.choices(acts, [4, 1, 2, 1], k=10)
    ]
    async with scripted_server(*plan) as server:
        events = await spoken(server.url)
    assert spans(events) == ALL
    assert not {"lost", "restarted"} & set(kinds(events))


async def test_several_servers_are_tried_in_turn():
    async with scripted_server(Cut(2)) as one, scripted_server() as other:
        other.streams, other.finals = 1, one.finals
        events = await spoken(["ws://127.0.0.1:9", one.url, other.url])
    assert spans(events) == ALL
    assert (len(one.queries), len(other.queries)) == (1, 1)


@pytest.mark.parametrize("plan", [[Cut(3, tokens=False)], [Cut(3), RefuseResume()]], ids=repr)
async def test_a_stream_that_cannot_be_resumed_is_followed_by_a_new_one(plan: list):
    async with scripted_server(*plan) as server:
        server.begins_again_at = 300
        events = await spoken(server.url)
    assert spans(events) == ALL
    (restarted,) = [event for event in events if event["type"] == "restarted"]
    assert restarted["at_sample"] == 300
    assert ("resume_unavailable" in kinds(events)) is (len(plan) == 1)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (CloseWith(1, code=4001), "replaced"),
        (CloseWith(1, code=1008, error="quota_used_up"), "closed"),
        (CloseWith(1, code=1008, error="token_expired"), "unauthorised"),
        (CloseWith(1, code=1000, reason="Max duration reached"), "finished"),
    ],
    ids=repr,
)
async def test_what_another_try_cannot_mend_ends_the_stream(trouble: CloseWith, reason: str):
    async with scripted_server(trouble) as server:
        events = await spoken(server.url)
    assert events[-1]["reason"] == reason
    assert events[-2]["type"] == "lost"
    assert events[-2]["from_sample"] == 100
    assert len(server.queries) == 1


async def test_a_token_goes_as_a_subprotocol_and_is_fetched_for_each_connection():
    plan = [Cut(1), CloseWith(2, code=1008, error="token_expired")]
    async with scripted_server(*plan) as server:
        events = await spoken(server.url, tokens=True)
    assert spans(events) == ALL
    assert server.subprotocols == [("bearer", f"bearer-{number}") for number in (1, 2, 3)]


async def test_a_configured_value_is_part_of_the_next_query():
    async with scripted_server(Cut(3)) as server:
        events = await spoken(server.url, configure={"partials": False})
    assert "configured" in kinds(events)
    assert server.queries[1]["partials"] == "false"


async def test_a_file_waits_for_room_and_loses_nothing():
    count = 8000 * 150
    async with scripted_server(HalfOpen(3), Cut(100)) as server:
        server.utterance_samples = LONG
        events = await spoken(server.url, count, live=False, piece=count, pauseMs=0)
    assert spans(events) == [(start, start + LONG) for start in range(0, count, LONG)]
    assert "lost" not in kinds(events)


async def test_a_microphone_without_a_server_says_what_it_lost():
    count = 8000 * 130
    async with scripted_server(*[Refuse(503)] * 4) as server:
        server.began_at = 8000 * 10
        server.utterance_samples = LONG
        events = await spoken(server.url, count, piece=count, pauseMs=0)
    (lost,) = [event for event in events if event["type"] == "lost"]
    assert (lost["from_sample"], lost["to_sample"]) == (0, 8000 * 10)
    assert spans(events)[0][0] == lost["to_sample"]
    assert spans(events)[-1][1] == count


async def test_what_the_browser_itself_refuses_ends_the_stream():
    events = await spoken("ws://127.0.0.1:9", 0, token="not a token")
    assert [event["type"] for event in events] == ["ended"]
    assert events[-1]["reason"] == "refused"


async def test_a_stream_that_finds_no_server_ends_when_patience_does():
    events = await spoken("ws://127.0.0.1:9", 100, patienceSeconds=0.3)
    assert [event["type"] for event in events] == ["interrupted", "lost", "ended"]
    assert events[-1]["reason"] == "unreachable"


def test_the_promise_of_resume_holds_against_the_model_of_the_servers():
    with node(NODE) as process:
        for seed in range(40):
            client = partial(JavascriptClient, process)
            simulation = Simulation(seed, client, live=seed % 2 == 0, with_bus=seed % 4 < 2)
            run_at_random(simulation, 300)
