"""Several real models in one real server: the English one, under the names of other languages too."""

import os
import shutil
from pathlib import Path

import httpx
import psutil
import pytest
import trio

from tests.e2e.conftest import server_process
from trio_stt.bench.speech import load_speech
from trio_stt.bench.word_errors import total, word_errors
from trio_stt.client.connection import open_stream
from trio_stt.client.websocket import StreamRefusedError
from trio_stt.dialects.events import StreamRequest, Transcript

HELD_BACK_MB = 200
"""What the allocator may hold of a model that was unloaded, and recognisers take."""


def lay(model: Path, models_dir: Path, *languages: str) -> None:
    """Models for `languages` in a folder of models: links to the files of `model`."""
    for language in languages:
        folder = models_dir / ("vosk-model" if language == "en" else f"vosk-model-{language}")
        shutil.copytree(model.resolve(), folder, copy_function=os.symlink)


async def finals(address: str, language: str, *changes: str) -> list[Transcript]:
    """What a speaker of `language` hears of itself who says the same sentence in each language that it changes to."""
    clip = load_speech()[0]
    request = StreamRequest(f"speaker-{language}", f"call-{language}", language=language)
    async with open_stream(address, request, connect_timeout_s=60) as stream:
        await stream.send_audio(clip.samples.tobytes())
        for change in changes:
            await stream.configure(language=change)
            await stream.send_audio(clip.samples.tobytes())
        await stream.end()
        return [event async for event in stream if isinstance(event, Transcript) and event.is_final and event.text]


def assert_heard(finals: list[Transcript], *languages: str) -> None:
    """The sentence once in each language, in this order, and every word of it about right."""
    said = load_speech()[0].words
    for language in languages:
        words = [word for final in finals if final.language == language for word in final.text.split()]
        assert total([word_errors(said, words)]).rate < 0.3
    starts = [final.start_sample for final in finals]
    assert starts == sorted(starts)
    assert list(dict.fromkeys(final.language for final in finals)) == list(languages)


async def test_speakers_of_several_languages_are_heard_at_once_and_one_changes_its_language(
    model: Path, tmp_path: Path
) -> None:
    lay(model, tmp_path, "en", "de", "fr")
    with server_process(MODELS_DIR=str(tmp_path)) as process:
        address = process.wait_for("ready")["url"].replace("http:", "ws:")
        heard: dict[str, list[Transcript]] = {}

        async def speak(language: str, *changes: str) -> None:
            heard[language] = await finals(address, language, *changes)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak, "de-AT")
                nursery.start_soon(speak, "en", "fr", "de")
        assert_heard(heard["de-AT"], "de-AT")
        assert_heard(heard["en"], "en", "fr", "de")
        assert len({final.stream_id for final in heard["en"]}) == 1
        process.signal()
        assert process.ended() == 0


async def test_models_that_nobody_uses_give_their_memory_back_to_those_that_are_asked_for(
    model: Path, tmp_path: Path
) -> None:
    languages = ("de", "fr", "es", "it")
    lay(model, tmp_path, "en", *languages)
    with server_process(MODELS_DIR=str(tmp_path), MODELS_MEMORY_MB="600") as process:
        url = process.wait_for("ready")["url"]
        address = url.replace("http:", "ws:")
        memory = psutil.Process(process.pid).memory_info
        with trio.fail_after(120):
            assert_heard(await finals(address, "de"), "de")
            with_two_mb = memory().rss / 1e6
            for language in (*languages, *languages):
                assert_heard(await finals(address, language), language)
            while memory().rss / 1e6 > with_two_mb + HELD_BACK_MB:
                await trio.sleep(0.5)
        async with httpx.AsyncClient() as client:
            models = (await client.get(f"{url}/health")).json()["details"]["models"]
        assert models["memory_mb"] <= 600
        assert [model["state"] for model in models["models"].values()].count("loaded") == 2


async def test_a_damaged_model_refuses_its_own_speakers_and_nobody_else(model: Path, tmp_path: Path) -> None:
    lay(model, tmp_path, "en", "de")
    graph = tmp_path / "vosk-model-de/graph/HCLG.fst"
    graph.unlink()
    graph.write_bytes(b"not a graph")
    with server_process(MODELS_DIR=str(tmp_path)) as process:
        address = process.wait_for("ready")["url"].replace("http:", "ws:")
        with trio.fail_after(60):
            with pytest.raises(StreamRefusedError) as refused:
                await finals(address, "de")
            assert (refused.value.status, refused.value.code) == (503, "recogniser_unavailable")
            assert "damaged" in process.wait_for("model_load_failed")["error"]
            assert_heard(await finals(address, "en"), "en")
