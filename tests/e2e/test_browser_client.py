"""docs/resume.md: its JavaScript, as it stands there, in a real browser whose server is killed."""

import re
import signal
from pathlib import Path

from tests.chromium import browser, served
from tests.e2e.conftest import server_process
from trio_stt.bench.speech import SAMPLE_RATE, load_speech
from trio_stt.bench.word_errors import word_errors
from trio_stt.drill.free_ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients/javascript/trio-stt-client.mjs"
SCRIPT = """
const warn = console.warn;
console.warn = (text) => { document.body.append(text); warn(text); };
async function* microphone() {
  const samples = new Int16Array(await (await fetch("said.raw")).arrayBuffer());
  const began = performance.now();
  for (let at = 0; at < samples.length; at += 1600) {
    await new Promise((go) => setTimeout(go, began + at / 16 - performance.now()));
    yield samples.subarray(at, at + 1600);
  }
}
const said = caption(SERVERS, microphone());
window.said = () => said;
"""


def test_what_is_said_in_a_browser_is_captioned_whole_though_its_server_is_killed(model, tmp_path):
    clips = load_speech()[:3]
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / CLIENT.name).write_bytes(CLIENT.read_bytes())
    (pages / "said.raw").write_bytes(b"".join(clip.samples.tobytes() + bytes(2 * SAMPLE_RATE) for clip in clips))
    (example,) = re.findall(r"^```js\n(.*?openStream.*?)^```", (ROOT / "docs/resume.md").read_text(), re.M | re.S)
    port = free_ports()
    script = example + SCRIPT.replace("SERVERS", f'["ws://127.0.0.1:{port}"]')
    (pages / "page.html").write_text(f'<!doctype html><body><script type="module">{script}</script>')
    settings = {"VOSK_MODEL_PATH": str(model), "SERVER_PORT": str(port), "RESUME_SECRET": "x" * 32}
    with served(pages) as site, browser(tmp_path) as page:
        with server_process(**settings) as first:
            first.wait_for("ready")
            page.open(f"{site}/page.html")
            first.wait_for("stream_opened")
            page.evaluate("new Promise((go) => setTimeout(go, 2500))")
            first.signal(signal.SIGKILL)
            first.ended()
        with server_process(**settings) as second:
            second.wait_for("ready")
            finals = page.evaluate("said()")
            assert "captions are late" in str(page.evaluate("document.body.innerText"))
    assert isinstance(finals, list)
    spoken = [word for clip in clips for word in clip.words]
    errors = word_errors(spoken, " ".join(finals).split()).errors
    assert errors <= len(spoken) // 6, finals
