"""The server is killed while people speak in a room, and started again: every word is captioned there, once."""

import asyncio
import signal
from contextlib import ExitStack

import numpy as np

from tests.e2e.conftest import server_process
from tests.livekit.agents import agent_process, send_agent
from tests.livekit.own_process import in_own_process
from tests.livekit.people import person
from tests.livekit.test_captions import all_final, check_order, heard_by, words_by_websocket
from trio_stt.bench.speech import SAMPLE_RATE, load_speech
from trio_stt.bench.word_errors import word_errors
from trio_stt.drill.free_ports import free_ports

AWAY_S = 4
MOST_MORE_ERRORS = 4
"""Of all words, against the same sound by WebSocket and without trouble."""


@in_own_process
async def test_a_server_that_is_killed_costs_no_word(livekit, model):
    clips = sorted(load_speech(), key=lambda clip: -clip.seconds)[:4]
    pause = np.zeros(SAMPLE_RATE, np.int16)
    sound = np.concatenate([part for clip in clips for part in (clip.samples, pause)])
    said = [word for clip in clips for word in clip.words]
    environment = {
        "VOSK_MODEL_PATH": str(model),
        "SERVER_PORT": str(free_ports()),
        "RESUME_SECRET": "a secret that outlives the server, of forty letters",
    }
    with ExitStack() as held:
        stt = held.enter_context(server_process(**environment))
        url = stt.wait_for("ready", 60)["url"].replace("http:", "ws:")
        agent, agent_log = held.enter_context(agent_process(livekit, url))
        async with person(livekit, "kill", "ann") as ann, person(livekit, "kill", "bob", {"language": "pt"}) as bob:
            assert await asyncio.to_thread(send_agent, agent, "kill") == "created"
            await ann.publish()
            await heard_by(agent, 1)
            saying = asyncio.create_task(ann.say(sound))
            await bob.until(lambda: any(len(read.text.split()) >= 6 and not read.is_final for read in bob.reads))
            stt.signal(signal.SIGKILL)
            shown = len(bob.words("ann"))
            await asyncio.sleep(AWAY_S)
            stt = held.enter_context(server_process(**environment))
            await asyncio.to_thread(stt.wait_for, "ready", 60)
            await saying
            alone = word_errors(said, await words_by_websocket(url, 1, sound)).errors
            await bob.until(
                lambda: (
                    word_errors(said, bob.words("ann")).errors <= alone + MOST_MORE_ERRORS
                    and bob.finals("ann", language="pt")
                ),
                90,
            )
            errors = word_errors(said, bob.words("ann")).errors
            print(f"{errors} word errors of {len(said)}, {alone} without trouble; {shown} words were there before")
            await bob.until(lambda: all_final(bob), 60)
            await asyncio.sleep(2)
            assert word_errors(said, bob.words("ann")).errors <= alone + MOST_MORE_ERRORS, "nothing comes twice"
            assert bob.words("ann") == ann.words("ann")
            check_order(bob)
            assert sum('"voice_goes_on"' in line for line in agent_log.log) == 1
