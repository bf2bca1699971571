"""The members of one call, in a process of their own: ``python -m trio_stt.bench.call_members``.

Its input is `Members` in JSON.

Says ``ready`` when all are connected; then the speakers speak in real time, for as long as was asked. At the end it
says in JSON how long after each final its translation came to the first listener.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio
from attrs import asdict, define, field, frozen

from trio_stt.bench.speech import SAMPLE_RATE, Clip, load_speech, trimmed
from trio_stt.bench.spoken_sessions import conversation_session
from trio_stt.client.connection import CaptionStream, open_stream
from trio_stt.client.websocket import StreamClosedError
from trio_stt.dialects.events import StreamRequest, Transcript, Translation

SESSION = "bench-call"
SPEECH_SHARE = 0.38
FRAME_S = 0.1
LAST_S = 5.0
"""After the last sample; longer than a translation may take."""


@frozen
class Members:
    """What a call is made of. `language`: what the first listener reads; empty: nothing is translated."""

    url: str
    speakers: int
    listeners: int
    language: str
    seconds: float
    speech: str | None = None
    seed: int = 0


@define
class Heard:
    """What came to the first listener, by segment, and when."""

    finals: dict[str, float] = field(factory=dict)
    translations: dict[str, float] = field(factory=dict)

    def report(self) -> dict[str, object]:
        """The delays in seconds, and how many finals have no translation."""
        delays = [at - self.finals[segment] for segment, at in self.translations.items() if segment in self.finals]
        return {"finals": len(self.finals), "delays_s": delays, "untranslated": len(self.finals) - len(delays)}


async def hold(members: Members) -> Heard:
    """Holds the call. Raises what opening a stream raises. May be cancelled."""
    heard = Heard()
    folder = None if members.speech is None else Path(members.speech)
    clips = [trimmed(clip) for clip in load_speech(folder)]
    async with trio.open_nursery() as nursery:
        for number in range(members.listeners):
            first = {"translation": True, "read_language": members.language} if members.language and not number else {}
            await nursery.start(_listen, members.url, number, first, None if number else heard)
        say_ready()
        async with trio.open_nursery() as speaking:
            for number in range(members.speakers):
                dice = random.Random((members.seed << 16) + number)
                said = conversation_session(clips, members.seconds, SPEECH_SHARE, dice)
                speaking.start_soon(_speak, members.url, number, said)
        await trio.sleep(LAST_S)
        nursery.cancel_scope.cancel()
    return heard


def say_ready() -> None:
    """Tells the parent process that all are connected."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def _listen(
    url: str,
    number: int,
    asked: Mapping[str, object],
    heard: Heard | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    request = StreamRequest(f"listener-{number}", SESSION, speak=False, **asked)  # type: ignore[arg-type]
    async with open_stream(url, request) as stream:
        task_status.started()
        try:
            async for event in stream:
                if heard is None:
                    continue
                if isinstance(event, Transcript) and event.is_final and event.text:
                    heard.finals[event.segment_id] = trio.current_time()
                elif isinstance(event, Translation) and event.is_final:
                    heard.translations[event.segment_id] = trio.current_time()
        except StreamClosedError:
            pass


async def _speak(url: str, number: int, said: Clip) -> None:
    request = StreamRequest(f"speaker-{number}", SESSION, transcript=False)
    async with open_stream(url, request) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(_read, stream)
        step = round(FRAME_S * SAMPLE_RATE)
        began = trio.current_time()
        for at in range(0, len(said.samples), step):
            await trio.sleep_until(began + at / SAMPLE_RATE)
            await stream.send_audio(said.samples[at : at + step].tobytes())
        await stream.end()


async def _read(stream: CaptionStream) -> None:
    async for _ in stream:
        pass


def command(members: Members) -> tuple[Sequence[str], bytes]:
    """How that call is started as a process: its arguments and its input."""
    return [sys.executable, "-m", "trio_stt.bench.call_members"], json.dumps(asdict(members)).encode()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(trio.run(hold, Members(**json.load(sys.stdin))).report()) + "\n")
