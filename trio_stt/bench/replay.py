"""Makes a server's recogniser calls again, in the same order, on one thread and with nothing else around them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from attrs import frozen

from trio_stt.recognition.call_recorder import Operation, RecordedCall
from trio_stt.recognition.engine import Engine, Recogniser


@frozen
class Replay:
    """The calls made, the audio they were given, their processor time now, and that in the server when recorded."""

    calls: int
    audio_s: float
    cpu_s: float
    recorded_cpu_s: float


def replay(calls: Iterable[RecordedCall], engine: Engine, sample_rate: int) -> Replay:
    """Makes `calls` on `engine`; counts this thread's processor time within them. Raises `EngineError`. Blocks."""
    recognisers: dict[int, Recogniser] = {}
    count, samples, cpu_ns, recorded_cpu_ns = 0, 0, 0, 0
    for call in calls:
        began_ns = time.thread_time_ns()
        _make(call, recognisers, engine)
        cpu_ns += time.thread_time_ns() - began_ns
        recorded_cpu_ns += call.cpu_ns
        samples += len(call.samples)
        count += 1
    return Replay(count, samples / sample_rate, cpu_ns / 1e9, recorded_cpu_ns / 1e9)


def _make(call: RecordedCall, recognisers: dict[int, Recogniser], engine: Engine) -> None:
    match call.operation:
        case Operation.OPEN:
            recognisers[call.recogniser] = engine.open()
        case Operation.ACCEPT:
            recognisers[call.recogniser].accept(call.samples)
        case Operation.PARTIAL:
            recognisers[call.recogniser].partial()
        case Operation.FINISH:
            recognisers[call.recogniser].finish()
        case Operation.FORGET:
            recognisers[call.recogniser].forget()
        case Operation.CLOSE:
            engine.close(recognisers.pop(call.recogniser))
