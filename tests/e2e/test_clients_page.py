"""docs/clients.md: its programs, page and commands as they stand there, against the real server with the real model."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect

from tests.chromium import browser, served
from tests.e2e.conftest import ServerProcess, server_process
from tests.node import NODE
from tests.tokens import KEYS, token
from tests.unit.fakes import HANG
from trio_stt.bench.speech import SAMPLE_RATE, load_speech
from trio_stt.drill.free_ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
PYTHON = sys.executable
CURL = ROOT / ".cache/curl/usr"
"""Where set-up puts curl for who may not install packages."""
WAIT_S = 60

DASHWOOD = "mister john dashwood had then leisure to consider how much"
"""What the model hears in the first recording beyond doubt."""
TRANSLATED = "E o S[a-zé]+ John dashwood tinha"
"""How its translation into Portuguese begins."""
YOUNG_MAN = "young man"
"""How the second ends; in the middle the model errs."""


class Server:
    """A server's address, and what its clients' environment holds."""

    def __init__(self, process: ServerProcess, **environment: str) -> None:
        self.process = process
        self.address = process.wait_for("ready")["url"].removeprefix("http://")
        self.environment = environment

    def connect(self, client_id: str, more: str = ""):
        headers = {"Authorization": f"Bearer {given}"} if (given := self.environment.get("ACCESS_TOKEN")) else {}
        url = f"ws://{self.address}/ws/vosk/?session_id=demo&client_id={client_id}{more}"
        return connect(url, additional_headers=headers)


class Program:
    """One of the page's programs as a process: what it says, as it says it, and how it ended."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str) -> None:
        """Until it has said, in one line, what fits the pattern."""
        while not re.search(pattern, self.said):
            try:
                self.said += self._lines.get(timeout=WAIT_S)
            except queue.Empty:
                pytest.fail(f"it did not say {pattern!r}: {self.said}")

    def ended(self) -> int:
        """Its exit code, when it has ended."""
        code = self._process.wait(WAIT_S)
        self._reader.join()
        while not self._lines.empty():
            self.said += self._lines.get()
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)


class Programs:
    """All of the page's programs, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []

    def start(self, name: str, server: Server, *arguments: object) -> Program:
        file = self._folder / name
        file.write_text(BLOCKS[name].replace("127.0.0.1:8000", server.address))
        command = [PYTHON if file.suffix == ".py" else NODE, str(file), *map(str, arguments)]
        self._running.append(Program(command, server.environment))
        return self._running[-1]

    def close(self) -> None:
        for program in self._running:
            program.close()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    all_of_them = Programs(tmp_path)
    try:
        yield all_of_them
    finally:
        all_of_them.close()


@pytest.fixture(scope="module", params=["with tokens", "without"])
def server(request: pytest.FixtureRequest, model: Path) -> Iterator[Server]:
    settings = {"AUTH_MODE": "required", "AUTH_KEYS": KEYS} if request.param == "with tokens" else {}
    with server_process(VOSK_MODEL_PATH=str(model), **settings) as process:
        yield Server(process, **({"ACCESS_TOKEN": token(session="demo")} if settings else {}))
        process.signal()
        assert process.ended() == 0


def sound_of(*numbers: int) -> bytes:
    """Recordings with a second of silence after each."""
    clips = load_speech()
    return b"".join(clips[number].samples.tobytes() + bytes(2 * SAMPLE_RATE) for number in numbers)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A WAV file of the two recordings."""
    return wav_file(tmp_path / "talk.wav", sound_of(0, 1))


@pytest.fixture
def short_talk(tmp_path: Path) -> Path:
    """A WAV file of the second."""
    return wav_file(tmp_path / "short_talk.wav", sound_of(1))


def wav_file(path: Path, samples: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(samples)
    return path


# ── speaking and listening ───────────────────────────────────────────────────────────────────────────────────────


def test_the_python_speaker_prints_the_words_and_ends_by_itself(server, programs, short_talk):
    speaker = programs.start("speak.py", server, short_talk)
    assert speaker.ended() == 0, speaker.said
    assert re.fullmatch(f"ann: he was .*{YOUNG_MAN}\n", speaker.said), speaker.said


def test_the_python_speaker_may_be_faster_than_it_is_decoded(server, programs, talk):
    speaker = programs.start("speak.py", server, talk, 1000)
    assert speaker.ended() == 0, speaker.said
    assert re.fullmatch(f"ann: .*{DASHWOOD}.*\nann: .*{YOUNG_MAN}\n", speaker.said), speaker.said


@pytest.mark.parametrize("kind", ["wav", "raw"])
def test_the_node_speaker_prints_the_words_and_ends_by_itself(server, programs, talk, tmp_path, kind):
    raw = tmp_path / "talk.raw"
    raw.write_bytes(sound_of(0, 1))
    speaker = programs.start("speak.mjs", server, talk if kind == "wav" else raw, 4)
    assert speaker.ended() == 0, speaker.said
    assert DASHWOOD in speaker.said
    assert f"{YOUNG_MAN}\n" in speaker.said


def test_listeners_show_captions_with_their_translations_also_to_who_joins_late(server, programs, talk):
    with server.connect("eva", "&speak=false&partials=false&presence=true") as eva:
        listeners = [programs.start("listen.py", server), programs.start("listen.mjs", server)]
        expected = {"bia", "screen"}
        while expected:
            message = json.loads(eva.recv(timeout=WAIT_S))
            if message["type"] == "presence":
                expected.discard(message["client_id"])
        speaker = programs.start("speak.mjs", server, talk, 4)
        for listener in listeners:
            listener.wait_for(f"otto: .*{DASHWOOD}")
            listener.wait_for(rf"otto \[pt\]: {TRANSLATED} .*   \(.*{DASHWOOD}")
            listener.wait_for(rf"otto \[pt\]: .*   \(.*{YOUNG_MAN}\)")
        assert speaker.ended() == 0
        listeners[0].close()
        late = programs.start("listen.py", server, "pt-BR")
        late.wait_for(rf"otto \[pt-BR\]: {TRANSLATED} .*   \(.*{DASHWOOD}")


# ── going on after losses ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1012), (signal.SIGKILL, 1006)])
def test_the_robust_speaker_loses_no_word_when_the_server_is_restarted(model, programs, tmp_path, number, code):
    settings = {"VOSK_MODEL_PATH": str(model), "SERVER_PORT": str(free_ports())}
    with server_process(**settings) as first:
        server = Server(first)
        with server.connect("eva", "&speak=false") as eva:
            speaker = programs.start("robust.py", server, wav_file(tmp_path / "talk.wav", sound_of(1, 0)))
            speaker.wait_for(YOUNG_MAN)
            while "dashwood" not in json.loads(eva.recv(timeout=WAIT_S)).get("text", ""):
                pass
            first.signal(number)
            first.ended()
    with server_process(**settings) as second:
        second.wait_for("ready")
        assert speaker.ended() == 0, speaker.said
    assert f"closed: {code}" in speaker.said
    assert speaker.said.count(YOUNG_MAN) == 1
    assert speaker.said.count("dashwood") == 1
    if number == signal.SIGKILL:  # nothing of the utterance had been acknowledged
        assert re.search(f"{DASHWOOD}.*to do for them", speaker.said), speaker.said
    else:  # it was ended at the close and goes on in another
        assert re.search(r"(?s)dashwood.*closed: 1012.*to do for them", speaker.said), speaker.said


def test_the_robust_speaker_leaves_a_server_that_is_silent(model, programs, short_talk):
    with server_process(VOSK_MODEL_PATH=str(model)) as process:
        speaker = programs.start("robust.py", Server(process), short_talk)
        process.wait_for("stream_opened")
        process.signal(signal.SIGSTOP)
        speaker.wait_for("lost: TimeoutError")
        process.signal(signal.SIGCONT)
        assert speaker.ended() == 0
    assert YOUNG_MAN in speaker.said


def test_the_robust_speaker_waits_as_long_as_a_full_server_says(model, programs, short_talk):
    with server_process(VOSK_MODEL_PATH=str(model), MAX_CONCURRENT_CLIENTS="1") as process:
        server = Server(process)
        with server.connect("otto") as otto:
            otto.recv()
            speaker = programs.start("robust.py", server, short_talk)
            speaker.wait_for("refused: HTTP 503")
        assert speaker.ended() == 0
    assert YOUNG_MAN in speaker.said


def test_the_robust_speaker_leaves_the_place_to_a_newer_connection_and_a_wrong_token_alone(model, programs, talk):
    with server_process(VOSK_MODEL_PATH=str(model), AUTH_MODE="required", AUTH_KEYS=KEYS) as process:
        server = Server(process, ACCESS_TOKEN=token(session="demo"))
        speaker = programs.start("robust.py", server, talk)
        process.wait_for("stream_opened")
        with server.connect("ann"):
            assert speaker.ended() == 1
        assert "closed: 4001" in speaker.said
        server.environment = {"ACCESS_TOKEN": token(session="another")}
        refused = programs.start("robust.py", server, talk)
        assert refused.ended() == 1
        assert "wrong_session" in refused.said


def test_the_robust_speaker_moves_when_it_is_told_to_go_away(model, programs, tmp_path):
    port = str(free_ports())
    hanging = {"VAD_ENGINE": "energy", "DECODE_COST": "0.01", "DECODE_CORES": "2", "DECODE_HANG_S": "1"}
    sound = np.frombuffer(sound_of(1, 1), np.int16) // 2
    assert sound.max() < HANG
    with server_process(("tests.e2e.hanging_server",), **hanging, SERVER_PORT=port) as first:
        server = Server(first)
        speaker = programs.start("robust.py", server, wav_file(tmp_path / "talk.wav", sound.tobytes()))
        first.wait_for("stream_opened")
        with server.connect("otto", "&framing=raw") as otto:
            otto.send(HANG.to_bytes(2, "little") * SAMPLE_RATE)
            assert first.ended() == 70
    with server_process(VOSK_MODEL_PATH=str(model), SERVER_PORT=port):
        assert speaker.ended() == 0, speaker.said
    assert "closed: 1000" in speaker.said
    assert YOUNG_MAN in speaker.said


# ── a browser's page ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_browser_page_shows_what_its_microphone_hears(server, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "microphone.html").write_text(BLOCKS["microphone.html"].replace("127.0.0.1:8000", server.address))
    secret = f"&token={given}" if (given := server.environment.get("ACCESS_TOKEN")) else ""
    with (
        served(pages) as site,
        browser(tmp_path, wav_file(tmp_path / "said.wav", sound_of(1) + bytes(2 * SAMPLE_RATE))) as page,
    ):
        page.open(f"{site}/microphone.html#client=ann{secret}")
        page.evaluate("document.querySelector('button').click()")
        page.until(f"/^ann: he was .*{YOUNG_MAN}$/m.test(document.body.innerText)")
        page.until(r"/^ann \[pt\]: ./m.test(document.body.innerText)")
        page.until("document.querySelector('button').innerText === 'Stop'")
        page.evaluate("document.querySelector('button').click()")
        page.until("document.querySelector('button').innerText === 'Talk'")
        assert "closed:" not in str(page.evaluate("document.body.innerText"))


def script_of_the_page() -> str:
    (script,) = re.findall(r"<script type=\"module\">\n(.*)</script>", BLOCKS["microphone.html"], re.DOTALL)
    return script


def test_the_browser_page_sends_the_microphone_s_own_rate_where_the_browser_does_not_convert(server, tmp_path):
    """Node plays Firefox: page, microphone and audio thread are stand-ins, script and WebSocket are real."""
    rate = 3 * SAMPLE_RATE
    (tmp_path / "page.mjs").write_text(script_of_the_page().replace("127.0.0.1:8000", server.address))
    clip = load_speech()[1].samples
    (tmp_path / "microphone.raw").write_bytes(np.repeat(clip, rate // SAMPLE_RATE).tobytes() + bytes(2 * rate))
    where = [str(tmp_path / "page.mjs"), str(tmp_path / "microphone.raw"), str(rate)]
    done = subprocess.run(
        [NODE, str(Path(__file__).parent / "browser_stand_in.mjs"), *where],
        env={**os.environ, **server.environment},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert any(line.startswith("ann: he was") and line.endswith(YOUNG_MAN) for line in shown)
    assert any(line.startswith("ann [pt]: ") for line in shown)
    assert shown[-1] == "Talk", "the button, when all is over"


# ── curl ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def answers(name: str, server: Server, model: Path) -> list[tuple[str, str]]:
    """What each command of a block is said to answer, and what it does answer; run as one script."""
    parts = re.findall(r"((?:^[^#\n].*\n)+)((?:^#.*\n)+)", BLOCKS[name], re.MULTILINE)
    assert "".join(command + answer for command, answer in parts) == BLOCKS[name]
    script = "printf '\\f'\n".join(command for command, _ in parts)
    script = script.replace("127.0.0.1:8000", server.address).replace("vosk:vosk-model", f"vosk:{model.name}")
    path = [str(Path(sys.executable).parent), os.environ["PATH"], str(CURL / "bin")]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={
            **os.environ,
            **server.environment,
            "AUTH_KEYS": KEYS,
            "PATH": os.pathsep.join(path),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, CURL.glob("lib/*-linux-gnu*"))),
        },
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    said = [re.sub("^# ?", "", answer, flags=re.MULTILINE) for _, answer in parts]
    return list(zip(said, done.stdout.split("\f"), strict=True))


def assert_has_shape(found, shown, where: str = "answer") -> None:
    """Every field that is shown is there and of the same type; outcomes are the same ones."""
    if isinstance(shown, dict):
        assert shown.keys() <= found.keys(), where
        for name, value in shown.items():
            assert_has_shape(found[name], value, f"{where}.{name}")
            if name in {"code", "parameter", "result"}:
                assert found[name] == value, where
    elif isinstance(shown, list):
        for value in shown:
            assert_has_shape(found[0], value, f"{where}[0]")
    elif isinstance(shown, int | float) and not isinstance(shown, bool):
        assert isinstance(found, int | float), where
    else:
        assert type(found) is type(shown), where


def body_of(answer: str):
    return json.loads(answer[answer.index("{") :])


@contextmanager
def server_with_ann(model: Path) -> Iterator[Server]:
    """Of a stream that has ended its statistics tell, of one that is open too."""
    with server_process(VOSK_MODEL_PATH=str(model), AUTH_MODE="required", AUTH_KEYS=KEYS) as process:
        server = Server(process, ACCESS_TOKEN=token())
        with server.connect("eva") as eva:
            eva.send('{"type": "eof"}')
            assert json.loads(list(eva)[-1])["type"] == "ack"
        with server.connect("ann") as ann:
            ann.recv()
            yield server
        assert process.ended() == 0


def test_curl_is_answered_as_shown(model):
    with server_with_ann(model) as server:
        *healths, (shown, found) = answers("open.sh", server, model)
        assert shown == found
        for name in ("service.sh", "refused.sh", "operator.sh"):
            healths += answers(name, server, model)
        for shown, found in healths:
            assert_has_shape(body_of(found), json.loads(shown))
    assert len(healths) == 13
