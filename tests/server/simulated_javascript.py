"""The JavaScript client in a Node process, with the face of `ResumingClient` that the simulation knows."""

import base64
import json
import subprocess
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from trio_stt.client.native_client import NativeClient
from trio_stt.client.resume_events import Ended, EndReason, Lost, Restarted, ResumingEvent
from trio_stt.client.resuming_client import Attempt
from trio_stt.dialects.events import Ack, Close, Ready, StreamRequest

SCRIPT = Path(__file__).with_name("simulated.mjs")


class JavascriptClient:
    """Belongs to one simulation; several, one after the other, share the process."""

    stream_begins_at = 0  # there is room for everything, so nothing is dropped before the first `ready`
    room_samples = 1_000_000

    def __init__(
        self,
        process: subprocess.Popen[str],
        servers: list[str],
        request: StreamRequest,
        *,
        random: Random,
        now: float,
        live: bool,
    ) -> None:
        self._process = process
        self._wire = NativeClient(request)
        self._attempts: deque[Attempt] = deque()
        self._wanted: set[int] = set()
        self._unsent: defaultdict[int, deque[str | bytes]] = defaultdict(deque)
        self._events: deque[ResumingEvent] = deque()
        self.acked = 0
        self.ended: Ended | None = None
        query = {"client_id": request.client_id, "session_id": request.session_id, "language": "en"}
        query |= {"encoding": request.encoding, "sample_rate": request.sample_rate}
        self._do("start", seed=random.randint(1, 2**31 - 2), live=live, request=query)

    def _do(self, command: str, **arguments: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command} | arguments) + "\n")
        self._process.stdin.flush()
        done = json.loads(self._process.stdout.readline())
        for number, url in done["opened"]:
            self._attempts.append(Attempt(number, url, False))
            self._wanted.add(number)
        for number, message in done["sent"]:
            self._unsent[number].append(message if message.startswith("{") else base64.b64decode(message))
        self._wanted -= set(done["closed"])
        for event in done["events"]:
            self._tell(event)

    def _tell(self, fields: dict[str, Any]) -> None:
        match fields["type"]:
            case "lost":
                self._events.append(Lost(fields["from_sample"], fields["to_sample"]))
            case "restarted":
                ready = self._wire.receive(json.dumps(fields["ready"]))
                assert isinstance(ready, Ready)
                self._events.append(Restarted(ready, fields["stall_s"], fields["at_sample"]))
            case "ended":
                self.ended = Ended(EndReason(fields["reason"]))
                self._events.append(self.ended)
            case "interrupted" | "resumed" | "resume_unavailable":
                pass
            case _:
                event = self._wire.receive(json.dumps(fields))
                assert event is not None
                if isinstance(event, Ack):
                    self.acked = max(self.acked, event.sample)
                self._events.append(event)

    def add(self, samples: bytes) -> None:
        self._do("add", samples=base64.b64encode(samples).decode())

    def finalize(self, id: str) -> None:
        self._do("finalize", id=id)

    def configure(self, **changes: object) -> None:
        self._do("configure", changes=changes)

    def end(self) -> None:
        self._do("end")

    def tick(self, now: float) -> None:
        self._do("time", now=now)

    def next_attempt(self, now: float) -> Attempt | None:
        return self._attempts.popleft() if self._attempts else None

    def is_wanted(self, number: int) -> bool:
        return number in self._wanted

    def opened(self, number: int, now: float) -> None:
        self._do("open", number=number)

    def failed(self, number: int, now: float) -> None:
        self.closed(number, now, Close(1006))

    def closed(self, number: int, now: float, close: Close) -> None:
        self._wanted.discard(number)
        self._do("close", number=number, code=close.code)

    def received(self, number: int, now: float, message: str) -> None:
        self._do("message", number=number, data=message)

    def next_message(self, number: int) -> str | bytes | None:
        return self._unsent[number].popleft() if self._unsent[number] else None

    def next_event(self) -> ResumingEvent | None:
        return self._events.popleft() if self._events else None


@contextmanager
def node(program: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that runs the clients."""
    with subprocess.Popen([program, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()
