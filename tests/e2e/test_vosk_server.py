"""A client of vosk-server cannot tell: the replies are those of bare vosk, frame by frame."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.conftest import server_process
from trio_stt.bench.speech import load_speech
from trio_stt.models.linked_model import linked_model
from trio_stt.recognition.vosk_engine import vosk

EOF = '{"eof" : 1}'
RESET = '{"reset" : 1}'
PHRASES = ["and mister john dashwood had then leisure to consider", "how much there might be prudently in his power"]


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    """A server whose main port speaks the dialect below /vosk-server, and whose network takes vosk's own steps."""
    with server_process(VOSK_MODEL_PATH=str(model), DECODE_STEP_MS="240") as process:
        yield process.wait_for("ready")["url"].replace("http:", "ws:") + "/vosk-server"
        process.signal()
        assert process.ended() == 0


class BareVosk:
    """vosk itself, used as vosk-server uses it."""

    def __init__(self, model: Path) -> None:
        vosk.SetLogLevel(-1)
        with linked_model(model) as linked:
            self._model = vosk.Model(str(linked))
        with linked_model(model, shipped_graph=True) as linked:
            self._phrase_model = vosk.Model(str(linked))

    def replies(self, frames: list[bytes | str], config: dict) -> list[str]:
        rate = float(config.get("sample_rate", 8000))
        if phrases := config.get("phrase_list"):
            recogniser = vosk.KaldiRecognizer(self._phrase_model, rate, json.dumps(phrases))
        else:
            recogniser = vosk.KaldiRecognizer(self._model, rate)
        recogniser.SetWords(bool(config.get("words", True)))
        recogniser.SetMaxAlternatives(config.get("max_alternatives", 0))
        found = []
        for frame in frames:
            if isinstance(frame, str):
                found.append(recogniser.FinalResult())
            elif recogniser.AcceptWaveform(frame):
                found.append(recogniser.Result())
            else:
                found.append(recogniser.PartialResult())
        return found


@pytest.fixture(scope="module")
def bare(model: Path) -> BareVosk:
    return BareVosk(model)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Recordings with pauses, 44 s in all, so that Kaldi finds end points of its own."""
    pause = np.zeros(16000, np.int16)
    parts = [part for recording in load_speech() for part in (recording.samples, pause)]
    samples = np.concatenate(parts)
    return samples[: samples.size // 2 * 2]


def frames_of(samples: np.ndarray, size_bytes: int) -> list[bytes | str]:
    payload = samples.tobytes()
    return [payload[begin : begin + size_bytes] for begin in range(0, len(payload), size_bytes)]


def at_8_khz(samples: np.ndarray) -> np.ndarray:
    return samples.reshape(-1, 2).mean(axis=1).astype(np.int16)


MOST_APART_S = 0.05
"""Kaldi dithers: it adds noise of its own to the sound. Single words move by up to 0.03 s from run to run."""

MOST_OTHERS = 0.05
"""Share of replies that the same noise may give other words: where two are almost equally likely."""


MOST_OTHERS_AT_8_KHZ = 0.4
"""The same where the upper half of the band is missing: a word that differs stands in all partials after it."""


def assert_same(found: list[str], expected: list[str], most_others: float = MOST_OTHERS) -> None:
    """As far as vosk repeats itself, the replies are of the same kinds and say the same words at the same times."""
    assert len(found) == len(expected)
    others = 0
    for reply, bare in zip(map(json.loads, found), map(json.loads, expected), strict=True):
        if reply.keys() != bare.keys():  # the same noise may move the end of an utterance into the next frame
            others += 1
            continue
        if "alternatives" in bare:  # the first is the likeliest; others come and go with their likelihoods
            (reply, *_), (bare, *_) = reply["alternatives"], bare["alternatives"]
            assert reply.keys() == bare.keys()
        if (reply.get("partial"), reply.get("text")) != (bare.get("partial"), bare.get("text")):
            others += 1
            continue
        for word, same in zip(reply.get("result", ()), bare.get("result", ()), strict=True):
            assert word.keys() == same.keys()
            assert word["word"] == same["word"]
            assert [word["start"], word["end"]] == pytest.approx([same["start"], same["end"]], abs=MOST_APART_S)
    assert others <= most_others * len(found)


def answers(address: str, frames: list[bytes | str], config: dict | None, *, wait: bool) -> list[str]:
    """The replies to `frames`, the last of which is eof; `wait`: for each reply before the next frame."""
    with connect(address, max_size=None) as socket:
        if config is not None:
            socket.send(json.dumps({"config": config}))
        replies = []
        for frame in frames:
            socket.send(frame)
            if wait:
                replies.append(str(socket.recv(timeout=20)))
        while len(replies) < len(frames):
            replies.append(str(socket.recv(timeout=20)))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000
    return replies


CONFIGS = {
    "as most clients": {"sample_rate": 16000},
    "without words": {"sample_rate": 16000, "words": False},
    "alternatives": {"sample_rate": 16000.0, "max_alternatives": 3},
}


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "pipelining"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_every_reply_is_that_of_bare_vosk(address, bare, speech, config, wait):
    frames = [*frames_of(speech, 6400), EOF]
    found = answers(address, frames, config, wait=wait)
    expected = bare.replies(frames, config)
    assert_same(found, expected)
    assert sum("text" in json.loads(reply) or "alternatives" in json.loads(reply) for reply in found) >= 5


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "pipelining"])
def test_with_a_list_of_phrases_nothing_else_is_heard(address, bare, speech, wait):
    frames = [*frames_of(speech[: 7 * 16000], 6400), EOF]
    config = {"sample_rate": 16000, "phrase_list": PHRASES}
    found = answers(address, frames, config, wait=wait)
    assert_same(found, bare.replies(frames, config))
    text = json.loads(found[-1])["text"]
    assert "dashwood had then leisure" in text
    assert set(text.split()) <= set(" ".join(PHRASES).split())


def test_replies_are_spelled_as_vosk_spells_them(address, bare, speech):
    frames = [*frames_of(speech[:64000], 6400), EOF]
    config = {"sample_rate": 16000, "words": False}
    assert answers(address, frames, config, wait=True) == bare.replies(frames, config)


def test_a_client_that_configures_nothing_is_heard_at_8_khz(address, bare, speech):
    frames = [*frames_of(at_8_khz(speech), 4000), EOF]
    found = answers(address, frames, None, wait=True)
    assert_same(found, bare.replies(frames, {}), MOST_OTHERS_AT_8_KHZ)
    assert "dashwood" in " ".join(found)


def test_long_frames_of_a_client_that_sends_a_whole_file_are_answered_as_by_bare_vosk(address, bare, speech):
    frames = [*frames_of(speech, 65536), EOF]
    found = answers(address, frames, {"sample_rate": 16000}, wait=False)
    expected = bare.replies(frames, {"sample_rate": 16000})
    assert_same(found, expected)


def test_after_a_reset_times_go_on(address, bare, speech):
    frames = frames_of(speech[: 16000 * 6], 6400)
    frames = [*frames, RESET, *frames, '{"eof": true}']
    found = answers(address, frames, {"sample_rate": 16000}, wait=True)
    expected = bare.replies(frames, {"sample_rate": 16000})
    assert_same(found, expected)
    assert json.loads(found[-1])["result"][0]["start"] >= 6


@pytest.mark.parametrize("phrases", [["<eps>"], ["#0 <s> and", "zzqqxx"], ["\ud800", "\0"], [""]])
def test_phrases_that_end_a_process_of_vosk_end_nothing_here(address, speech, phrases):
    config = {"sample_rate": 16000, "phrase_list": phrases}
    assert len(answers(address, [*frames_of(speech[:32000], 6400), EOF], config, wait=True)) == 11


@pytest.mark.parametrize("rate", [4000, 7999, 11025, 44101, 192_000])
def test_every_rate_that_may_be_asked_for_is_decoded(address, rate):
    noise = np.random.default_rng(1).integers(-2000, 2000, rate, np.int16)
    assert len(answers(address, [*frames_of(noise, rate // 5 * 2), EOF], {"sample_rate": rate}, wait=True)) >= 6


def test_phrases_need_the_graph_as_shipped_and_say_so(model, tmp_path, speech):
    with linked_model(model) as linked:
        for name in ("HCLr.fst", "Gr.fst"):
            (linked / "graph" / name).unlink()
        (linked / "manifest.json").unlink()  # a folder that was not installed by our command: nothing is known of it
        with server_process(VOSK_MODEL_PATH=str(linked)) as process:
            address = process.wait_for("ready")["url"].replace("http:", "ws:") + "/vosk-server"
            with connect(address) as socket:
                socket.send(json.dumps({"config": {"sample_rate": 16000, "phrase_list": PHRASES}}))
                socket.send(frames_of(speech, 6400)[0])
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
            assert "HCLr.fst" in process.wait_for("model_unavailable")["error"]
            # Everybody else goes on.
            assert (
                len(answers(address, [*frames_of(speech[:32000], 6400), EOF], {"sample_rate": 16000}, wait=True)) == 11
            )


TRANSCRIBER = """
import asyncio, sys
from argparse import Namespace
from vosk.transcriber.transcriber import Transcriber

async def main():
    client = Transcriber.__new__(Transcriber)  # making one loads a model, which a client of a server does not need
    client.args = Namespace(server=sys.argv[1], output_type="srt")
    sound = await asyncio.create_subprocess_exec("cat", sys.argv[2], stdout=asyncio.subprocess.PIPE)
    result, _ = await client.recognize_stream_server(sound)
    print(client.format_result(result))

asyncio.run(main())
"""
"""What `vosk-transcriber --server` does, which comes with vosk; its command line knows one address only."""


def test_the_client_that_comes_with_vosk_makes_its_subtitles(address, tmp_path, speech):
    sound = tmp_path / "sound.raw"
    sound.write_bytes(speech[: 8 * 16000].tobytes())
    command = [sys.executable, "-c", TRANSCRIBER, address, str(sound)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "and mister john dashwood had then leisure" in done.stdout
    assert "00:00:00," in done.stdout
