"""People speak in a real room, and read each other's captions there, as words are spoken and in their own language."""

import asyncio
import json
from collections import defaultdict
from contextlib import AsyncExitStack

import numpy as np
from livekit import rtc

from tests.livekit.agents import rooms_of, send_agent
from tests.livekit.own_process import in_own_process
from tests.livekit.people import FRAME, Person, person
from trio_stt.bench.speech import SAMPLE_RATE, load_speech
from trio_stt.bench.word_errors import word_errors
from trio_stt.client.asyncio_connection import open_resuming_stream
from trio_stt.client.resume_events import EndReason
from trio_stt.dialects.events import StreamRequest, Transcript

ROOM = "Team meeting/1"
MOST_MORE_ERRORS = 3
"""Of the words of one speaker, against the same sound without Opus and LiveKit between."""


async def heard_by(agent: str, tracks: int) -> None:
    """Returns when the agent hears so many."""
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(rooms_of, agent))["tracks"] != tracks:
            await asyncio.sleep(0.1)


async def words_by_websocket(stt: str, number: int, samples: np.ndarray) -> list[str]:
    words: list[str] = []
    request = StreamRequest("speaker", f"alone-{number}", framing="seq", partials=False)
    async with open_resuming_stream(stt, request, live=False) as stream:
        await stream.send_audio(samples.tobytes())
        await stream.end()
        async for event in stream:
            if isinstance(event, Transcript) and event.is_final:
                words += event.text.split()
        assert stream.ended is not None
        assert stream.ended.reason is EndReason.FINISHED
    return words


def all_final(reader: Person) -> bool:
    """Whether no segment waits for its final."""
    last = {(read.is_legacy, read.segment_id): read for read in reader.reads}
    return all(read.is_final for read in last.values())


def check_order(reader: Person) -> None:
    """Texts of a segment replace each other until its final, of which there is one; segments do not mix."""
    for is_legacy in (False, True):
        texts = defaultdict(list)
        for read in reader.reads:
            if read.is_legacy == is_legacy:
                texts[read.segment_id].append(read)
        for segment in texts.values():
            assert len({(read.identity, read.language, read.translated) for read in segment}) == 1
            assert [read.is_final for read in segment] == [False] * (len(segment) - 1) + [True], segment
        seen = []
        for read in reader.reads:
            if read.is_legacy == is_legacy and not read.translated:
                key = (read.identity, read.segment_id)
                if key in seen:
                    later = [identity for identity, _ in seen[seen.index(key) + 1 :]]
                    assert read.identity not in later, "a segment went on after the next one began"
                else:
                    seen.append(key)


@in_own_process
async def test_three_people_speak_at_once_and_read_each_other(livekit, stt, agent):
    clips = dict(
        zip(("ann", "bob", "Cleo @ home"), sorted(load_speech(), key=lambda clip: -clip.seconds)[:3], strict=True)
    )
    async with AsyncExitStack() as held:
        people = {
            name: await held.enter_async_context(
                person(livekit, ROOM, name, {"language": "pt"} if name == "bob" else None)
            )
            for name in clips
        }
        assert await asyncio.to_thread(send_agent, agent, ROOM) == "created"
        for each in people.values():
            await each.publish()
        await heard_by(agent, 3)
        await asyncio.gather(*(people[name].say(clip.samples) for name, clip in clips.items()))
        for name, clip in clips.items():
            await people["ann"].until(
                lambda name=name, clip=clip: len(people["ann"].words(name)) >= len(clip.words) // 2
            )
            await people["bob"].until(lambda name=name: people["bob"].finals(name, language="pt"))
        await asyncio.sleep(2)  # what comes once too often would be here by now
        for number, (name, clip) in enumerate(clips.items()):
            alone = word_errors(clip.words, await words_by_websocket(stt, number, clip.samples)).errors
            texts = {tuple(each.words(name)) for each in people.values()}
            assert len(texts) == 1, "everybody reads the same"
            served = word_errors(clip.words, texts.pop()).errors
            print(f"{name}: {served} word errors of {len(clip.words)}; {alone} by WebSocket")
            assert served <= alone + MOST_MORE_ERRORS
            for each in people.values():
                finals = each.finals(name)
                assert {read.track_sid for read in finals} == {people[name].track_sid}
                legacy = [read for read in each.reads if read.is_legacy and read.is_final and read.identity == name]
                assert [read.text for read in legacy] == [read.text for read in finals]
                assert any(not read.is_final and read.identity == name for read in each.reads)
            translated = people["bob"].finals(name, language="pt")
            assert all(read.translated and read.text for read in translated)
            assert {read.segment_id for read in translated} == {
                f"{read.segment_id}-pt" for read in people["bob"].finals(name)
            }
        for name, each in people.items():
            check_order(each)
            assert any(read.translated for read in each.reads) == (name == "bob")
    await heard_by(agent, 0)


@in_own_process
async def test_a_screen_is_heard_apart_from_its_microphone(livekit, stt, agent):
    first, second = sorted(load_speech(), key=lambda clip: -clip.seconds)[:2]
    async with person(livekit, "screen", "ann") as ann, person(livekit, "screen", "bob") as bob:
        assert await asyncio.to_thread(send_agent, agent, "screen") == "created"
        await ann.publish()
        source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=200)
        track = rtc.LocalAudioTrack.create_audio_track("screen", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO)
        screen = await ann.room.local_participant.publish_track(track, options)
        await heard_by(agent, 2)

        async def play() -> None:
            sound = np.concatenate([second.samples, np.zeros(2 * SAMPLE_RATE, np.int16)])
            for piece in np.array_split(sound, np.arange(FRAME, len(sound), FRAME)):
                await source.capture_frame(rtc.AudioFrame(piece.tobytes(), SAMPLE_RATE, 1, len(piece)))

        await asyncio.gather(ann.say(first.samples), play())

        def words_of_track(sid: str) -> list[str]:
            return [word for read in bob.finals("ann") if read.track_sid == sid for word in read.text.split()]

        for sid, clip in ((ann.track_sid, first), (screen.sid, second)):
            await bob.until(
                lambda sid=sid, clip=clip: word_errors(clip.words, words_of_track(sid)).errors <= len(clip.words) / 3
            )
        await source.aclose()


@in_own_process
async def test_who_is_muted_has_said_all_that_was_said(livekit, stt, agent):
    clip = max(load_speech(), key=lambda clip: clip.seconds)
    async with person(livekit, "muted", "ann") as ann:
        assert await asyncio.to_thread(send_agent, agent, "muted") == "created"
        await ann.publish()
        await heard_by(agent, 1)
        saying = asyncio.create_task(ann.say(clip.samples))
        await ann.until(lambda: any(not read.is_final and len(read.text.split()) >= 4 for read in ann.reads))
        await ann.mute(True)
        await ann.until(lambda: len(ann.words("ann")) >= 4, 60)
        await saying
        shown = len(ann.reads)
        await asyncio.sleep(1.5)
        assert len(ann.reads) == shown, "nothing is heard while it is muted"
        await ann.mute(False)
        await ann.say(clip.samples)
        before = len(ann.words("ann"))
        await ann.until(lambda: len(ann.words("ann")) >= before + len(clip.words) // 2)
        await ann.until(lambda: all_final(ann))
        check_order(ann)


@in_own_process
async def test_only_who_is_permitted_controls_the_agent(livekit, stt, agent):
    clip = max(load_speech(), key=lambda clip: clip.seconds)
    permitted = {"agent_control": "true"}
    async with (
        person(livekit, "controlled", "ann", permitted) as ann,
        person(livekit, "controlled", "eve", permitted, canUpdateOwnMetadata=True) as eve,
    ):
        assert await asyncio.to_thread(send_agent, agent, "controlled") == "created"
        await ann.publish()
        await heard_by(agent, 1)

        def answers(who: Person) -> list[dict]:
            return [json.loads(data) for topic, data in who.messages if topic in ("agent_control_ack", "tts_status")]

        async def ask(who: Person, message: dict, topic: str = "agent_control") -> dict:
            count = len(answers(who))
            await who.room.local_participant.publish_data(json.dumps(message), topic=topic)
            await who.until(lambda: len(answers(who)) > count)
            return answers(who)[-1]

        state = await ask(ann, {"type": "status", "id": "1"})
        assert (state["type"], state["id"], state["state"], state["tracks"]) == ("status", "1", "captioning", 1)
        assert (await ask(eve, {"type": "stop"}))["code"] == "not_permitted"
        assert (await ask(ann, {"type": "dance"}))["code"] == "bad_message"
        assert (await ask(ann, {"type": "stop"}))["state"] == "stopped"
        await ann.say(clip.samples)
        await asyncio.sleep(1)
        assert ann.reads == []
        state = await ask(ann, {"type": "start", "languages": ["pt-BR", "xx"]})
        assert (state["state"], state["languages"]) == ("captioning", ["pt-BR", "xx"])
        await ann.say(clip.samples)
        for who in (ann, eve):
            await who.until(lambda who=who: who.finals("ann", language="pt-BR"))
        state = await ask(ann, {"type": "status"})
        assert (state["translated"], state["not_translated"]) == (["pt-BR"], ["xx"])
        said = await ask(ann, {"text": "Xin chào.", "language": "vi", "id": "7"}, "tts_control")
        assert said == {"id": "7", "status": "unsupported_language"}
        assert len(answers(eve)) == 1
