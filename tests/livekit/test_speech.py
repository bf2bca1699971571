"""The agent speaks in a real room, with Kokoro: translations, and what it is told to say."""

import asyncio
import json

import httpx
import numpy as np
from livekit import rtc

from tests.livekit.agents import send_agent
from tests.livekit.own_process import in_own_process
from tests.livekit.people import Person, person
from tests.livekit.test_captions import heard_by, words_by_websocket
from tests.livekit_tokens import room_token
from trio_stt.bench.speech import SAMPLE_RATE, load_speech
from trio_stt.bench.word_errors import word_errors

ANNOUNCED = "good morning everybody the meeting will begin in ten minutes"
LOUD = 500
"""Of 16 bits, the root mean square of a 50 ms frame in which something is said."""


class Ear:
    """Hears the agent's tracks for a participant, by their names."""

    def __init__(self, one: Person) -> None:
        self.heard: dict[str, list[bytes]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        one.room.on("track_published", lambda publication, _: publication.set_subscribed(True))
        one.room.on("track_subscribed", self._on_track)

    def _on_track(self, track, publication, participant) -> None:
        if participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT:
            self._tasks.append(asyncio.create_task(self._read(track, publication.name)))

    async def _read(self, track: rtc.Track, name: str) -> None:
        frames = self.heard.setdefault(name, [])
        stream = rtc.AudioStream(track, sample_rate=SAMPLE_RATE, num_channels=1, frame_size_ms=50)
        try:
            async for event in stream:
                frames.append(bytes(event.frame.data))
        finally:
            await stream.aclose()

    def loud_s(self, name: str) -> float:
        """For how long something was said there."""
        frames = (np.frombuffer(frame, np.int16).astype(float) for frame in self.heard.get(name, []))
        return sum(0.05 for frame in frames if np.sqrt(np.mean(frame**2)) > LOUD)

    def sound(self, name: str) -> np.ndarray:
        return np.frombuffer(b"".join(self.heard[name]), np.int16)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@in_own_process
async def test_translations_are_heard_where_a_room_wants_that(livekit, stt, agent):
    clip = max(load_speech(), key=lambda clip: clip.seconds)
    async with person(livekit, "spoken", "ann") as ann, person(livekit, "spoken", "bob") as bob:
        ear = Ear(bob)
        assert await asyncio.to_thread(send_agent, agent, "spoken", languages=["pt"], speak=True) == "created"
        await ann.publish()
        await heard_by(agent, 1)
        await ann.say(clip.samples)
        await bob.until(lambda: bob.finals("ann", language="pt"))
        await bob.until(lambda: ear.loud_s("ann-pt") > 2, 120)
        assert list(ear.heard) == ["ann-pt"]
        await ear.close()


@in_own_process
async def test_what_it_is_told_to_say_is_understood(livekit, stt, agent):
    async with person(livekit, "announced", "ann", {"agent_control": "true"}) as ann:
        ear = Ear(ann)
        assert await asyncio.to_thread(send_agent, agent, "announced") == "created"
        await ann.until(lambda: ann.room.remote_participants)
        message = {"text": f"{ANNOUNCED}.", "language": "en", "id": "7"}
        async with asyncio.timeout(120):
            await ann.room.local_participant.publish_data(json.dumps(message), topic="tts_control")
            while ("tts_status", b'{"id": "7", "status": "completed"}') not in ann.messages:
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        heard = await words_by_websocket(stt, 1, ear.sound("captions-en"))
        said = ANNOUNCED.split()
        print(" ".join(heard))
        assert word_errors(said, heard).errors <= len(said) / 4

        before = ear.loud_s("captions-en")
        headers = {"Authorization": f"Bearer {room_token(video={'room': 'announced'})}"}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            body = {"room_name": "announced", "language": "en", "text": "The recording has started."}
            answer = await client.post(f"{agent}/api/tts/speak", json=body, headers=headers)
            assert answer.status_code == 202, answer.text
            body = {**body, "language": "vi"}
            answer = await client.post(f"{agent}/api/tts/speak", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_language")
        await ann.until(lambda: ear.loud_s("captions-en") > before + 0.8, 120)
        assert ann.reads == [], "the agent does not caption itself"
        await ear.close()
