"""A million frames and messages that are almost right: nothing raises, and whatever is answered can be sent."""

import json
from collections import Counter

import pytest

from tests.faults.fuzzer import Fuzzer
from trio_stt.client.native_client import NativeClient, WireError
from trio_stt.dialects.events import (
    Ack,
    Audio,
    ClientEvent,
    Configure,
    Configured,
    End,
    Failure,
    Flush,
    Misuse,
    Ping,
    Pong,
    StreamRequest,
)
from trio_stt.dialects.native import BYTES_PER_SAMPLE, NativeDialect, encode

FRAMES = 1_000_000
FRAMES_A_STREAM = 25
SERVER_MESSAGES = 50_000

CLOSING = {None, 1003, 1007, 1008}


def answer_to(event: ClientEvent) -> str | None:
    """What the server would send because of `event`."""
    if isinstance(event, Misuse):
        assert event.close_code in CLOSING
        return encode(event.failure, timestamp=0)
    if isinstance(event, Ping):
        return encode(Pong(event.id), timestamp=0)
    if isinstance(event, Flush):
        return encode(Ack(0, from_finalize=True, id=event.id), timestamp=0)
    return encode(Configured(event.changes), timestamp=0) if isinstance(event, Configure) else None


def ends(event: ClientEvent) -> bool:
    return isinstance(event, End) or (isinstance(event, Misuse) and event.close_code is not None)


@pytest.mark.parametrize("seed", range(4))
def test_no_frame_or_message_raises_and_every_answer_can_be_sent(seed: int):
    fuzzer = Fuzzer(seed)
    seen: Counter[str] = Counter()
    for _ in range(FRAMES // 4 // FRAMES_A_STREAM):
        request = fuzzer.request()
        dialect = NativeDialect(request)
        width = BYTES_PER_SAMPLE[request.encoding]
        for _ in range(FRAMES_A_STREAM):
            before = dialect.received_samples
            for event in dialect.receive(fuzzer.frame(before)):
                if isinstance(event, Audio):
                    assert event.position == before
                    assert event.count * width == len(event.payload)
                    before += event.count
                    seen["audio"] += 1
                else:
                    answer = answer_to(event)
                    seen["answered" if answer is None else json.loads(answer.encode())["type"]] += 1
                if ends(event):
                    dialect, before = NativeDialect(request), 0
            assert dialect.received_samples == before
    assert min(seen[kind] for kind in ("audio", "answered", "error", "pong", "ack", "configured")) > 1000


def test_no_message_of_a_server_raises_anything_but_a_wire_error():
    fuzzer = Fuzzer(99)
    client = NativeClient(StreamRequest("anna", "call-1"))
    good = encode(Failure("gap", "lost", {"expected": 7}), timestamp=1), encode(Ack(5, True, "x"), timestamp=1)
    for number in range(SERVER_MESSAGES):
        try:
            client.receive(fuzzer.damaged(good[number % 2]) if number % 3 else fuzzer.text())
        except WireError:
            pass
