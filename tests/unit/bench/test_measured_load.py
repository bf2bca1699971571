"""One load on one server, with a generator that only says what it saw."""

import os
from array import array

import numpy as np
import pytest

from trio_stt.bench.generator.load import Connection, LoadResult, Talker
from trio_stt.bench.measured_load import LoadBench
from trio_stt.bench.measured_server import MeasuredServer
from trio_stt.bench.speech import Clip
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import framed

CLIP = Clip("clip", np.zeros(1600, dtype=np.int16), ("word",))
SERVER = MeasuredServer("server", "ws://127.0.0.1:1/there", Dialect.NATIVE)


class SeenBefore:
    """Generators that were answered with these statuses."""

    pids = (os.getpid(),)

    def __init__(self, *statuses):
        self._statuses = statuses

    def generate(self, load):
        seen = [Connection(number, 0, 0, load.begins_at, status=status) for number, status in enumerate(self._statuses)]
        return LoadResult(tuple(seen), array("d"), load.begins_at + load.seconds, 0.0, 0)


async def put(*statuses):
    library = [framed(CLIP, 100, Dialect.NATIVE)]
    bench = LoadBench(SeenBefore(*statuses), [CLIP], library, 0.0, settle_s=0.0, measured_s=0.01)
    return await bench.put(SERVER, [Talker((0,))] * len(statuses))


async def test_a_load_of_which_some_are_refused_is_a_measurement():
    measured = await put(101, 503, 0)
    assert measured.refused == 2


async def test_a_load_of_which_all_are_refused_is_an_error_that_says_how():
    with pytest.raises(OSError, match=r"ws://127.0.0.1:1/there.*2 × HTTP 400, 1 × no answer.*address"):
        await put(400, 0, 400)
