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
    """Generators whose loads were answered with these statuses, one load after the other."""

    pids = (os.getpid(),)

    def __init__(self, *loads):
        self._loads = list(loads)

    def generate(self, load):
        statuses = self._loads.pop(0)
        seen = [Connection(number, 0, 0, load.begins_at, status=status) for number, status in enumerate(statuses)]
        return LoadResult(tuple(seen), array("d"), load.begins_at + load.seconds, 0.0, 0)


async def put(*loads):
    """What the last of the loads is measured to be."""
    library = [framed(CLIP, 100, Dialect.NATIVE)]
    bench = LoadBench(SeenBefore(*loads), [CLIP], library, 0.0, settle_s=0.0, measured_s=0.01)
    return [await bench.put(SERVER, [Talker((0,))] * len(statuses)) for statuses in loads][-1]


async def test_a_load_of_which_some_are_refused_is_a_measurement():
    measured = await put([101, 503, 0])
    assert measured.refused == 2


async def test_a_load_of_which_all_are_refused_is_an_error_that_says_how():
    with pytest.raises(OSError, match=r"ws://127.0.0.1:1/there.*2 × HTTP 400, 1 × no answer.*address"):
        await put([400, 0, 400])


async def test_a_load_of_which_all_are_refused_is_a_measurement_of_a_server_that_has_let_others_in():
    measured = await put([101], [503, 503])
    assert measured.refused == 2
