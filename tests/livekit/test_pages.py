"""docs/agent.md: its pages as they stand there, in real browsers; what one says is read in both."""

import json
import re
import subprocess
import wave
from pathlib import Path

from tests.chromium import Page, browser, served
from tests.livekit.agents import send_agent
from tests.livekit_tokens import person_token
from tests.node import NODE
from trio_stt.bench.speech import SAMPLE_RATE, load_speech

PACKAGES = Path(__file__).parent / "pages"
DOCS = (Path(__file__).resolve().parents[2] / "docs/agent.md").read_text(encoding="utf-8")
ROOM = "pages"

REACT = """
import { LiveKitRoom } from "@livekit/components-react";
import { createRoot } from "react-dom/client";

createRoot(document.querySelector("#captions")).render(
  <LiveKitRoom serverUrl={url} token={token} connect={true}><Captions /></LiveKitRoom>
);
"""
SPEAK = """
window.speak = () => room.localParticipant.setMicrophoneEnabled(true);
"""


def snippet(language: str, beginning: str) -> str:
    (found,) = re.findall(rf"^```{language}\n({re.escape(beginning)}.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    return found


def make_page(folder: Path, name: str, script: str, **values: str) -> None:
    """A page with an element for captions and the script, to which the values are known."""
    given = "".join(f"const {key} = {json.dumps(value)};\n" for key, value in values.items())
    bundle = [NODE, PACKAGES / "node_modules/esbuild/bin/esbuild", f"--outfile={folder / name}.js", "--bundle"]
    done = subprocess.run(
        [*bundle, "--format=esm", "--jsx=automatic", "--loader=jsx"],
        input=given + script,
        text=True,
        capture_output=True,
        cwd=PACKAGES,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    page = f'<!doctype html><div id="captions"></div><script type="module" src="{name}.js"></script>'
    (folder / f"{name}.html").write_text(page)


def lines(page: Page) -> list[str]:
    return [line for line in str(page.evaluate("document.body.innerText")).splitlines() if line]


def test_what_a_browser_s_user_says_is_captioned_in_every_browser_and_in_its_language(livekit, stt, agent, tmp_path):
    clip = max(load_speech(), key=lambda clip: clip.seconds)
    said = bytes(4 * SAMPLE_RATE) + clip.samples.tobytes() + bytes(4 * SAMPLE_RATE)
    with wave.open(str(recording := tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(said)
    pages = tmp_path / "pages"
    pages.mkdir()
    ann, bob = (person_token(ROOM, name, canUpdateOwnMetadata=True) for name in ("ann", "bob"))
    make_page(pages, "plain", snippet("js", "import { Room }") + SPEAK, url=livekit, token=ann)
    make_page(pages, "react", snippet("jsx", "import { useTranscriptions }") + REACT, url=livekit, token=bob)
    (tmp_path / "ann").mkdir()
    (tmp_path / "bob").mkdir()
    with (
        served(pages) as site,
        browser(tmp_path / "ann", recording) as speaker,
        browser(tmp_path / "bob") as reader,
    ):
        reader.open(f"{site}/react.html")
        speaker.open(f"{site}/plain.html")
        assert send_agent(agent, ROOM) == "created"
        speaker.until("window.speak")
        speaker.evaluate("speak()")
        some = " ".join(clip.words[2:5])
        speaker.until(f"/^ann: .*{some}/m.test(document.body.innerText)")
        speaker.until("document.querySelector('.final.translated')")
        reader.until(f"/^ann .*{some}/m.test(document.body.innerText)")
        assert not any(line.startswith("bob") for page in (speaker, reader) for line in lines(page))
