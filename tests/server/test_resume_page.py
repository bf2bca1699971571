"""The programs of docs/resume.md run, and its tables are what the code does."""

import asyncio
import re
from functools import partial
from pathlib import Path

import trio

from tests.node import NODE
from tests.server.scripted_server import Cut, samples, scripted_server
from trio_stt.client import resume_events
from trio_stt.client.reconnection import RESUMABLE_CLOSES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
SAID = [str(start) for start in range(0, 1000, 100)]


def program(kind: str) -> str:
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return block


def caption_of(kind: str):
    names: dict = {}
    exec(program(kind), names)
    return names["caption"]


async def microphone():
    for start in range(0, 2000, 80):
        yield samples(start, start + 80)


async def test_the_trio_program_captions_a_microphone(capsys):
    async with scripted_server(Cut(3)) as server:
        with trio.fail_after(20):
            said = await caption_of("python trio")([server.url], microphone())
    assert said == SAID
    assert "captions are late: closed with 1006\nthe stream is over: finished" in capsys.readouterr().out


async def test_the_asyncio_program_does_the_same():
    async with scripted_server(Cut(3)) as server:
        caption = caption_of("python asyncio")([server.url], microphone())
        assert await trio.to_thread.run_sync(partial(asyncio.run, asyncio.wait_for(caption, 20))) == SAID


async def test_the_javascript_program_does_the_same(tmp_path: Path):
    client = ROOT / "clients" / "javascript" / "trio-stt-client.mjs"
    (tmp_path / client.name).write_bytes(client.read_bytes())
    (tmp_path / "page.mjs").write_text(program("js"), encoding="utf-8")
    async with scripted_server(Cut(3)) as server:
        (tmp_path / "main.mjs").write_text(
            f"""
            import {{ caption }} from "./page.mjs";
            async function* microphone() {{
              for (let start = 0; start < 2000; start += 80) {{
                const bytes = Uint8Array.from({{ length: 80 }}, (_, offset) => (start + offset) % 251);
                yield new Int16Array(bytes.buffer);
              }}
            }}
            console.log((await caption("{server.url}", microphone())).join(" "));
            process.exit(0);
            """
        )
        with trio.fail_after(20):
            done = await trio.run_process([NODE, tmp_path / "main.mjs"], capture_stdout=True, capture_stderr=True)
    assert done.stdout.decode().splitlines() == ["finished", " ".join(SAID)]
    assert done.stderr.decode().splitlines() == ["captions are late: closed with 1006"]


def test_the_closes_that_are_resumed_are_those_of_the_table():
    (cell,) = re.findall(r"^\| no close frame, ([\d, ]+);", PAGE, re.MULTILINE)
    assert {int(code) for code in cell.split(", ")} == RESUMABLE_CLOSES


def test_every_event_of_a_resuming_stream_has_its_row():
    shown = set(re.findall(r"^\| `(\w+)\(.*` \| `\w+` \|", PAGE, re.MULTILINE))
    own = {kind.__name__ for kind in vars(resume_events).values() if hasattr(kind, "__attrs_attrs__")}
    assert shown == {name for name in own if getattr(resume_events, name).__module__ == resume_events.__name__}
