"""Four times as many speakers as a fleet takes, who do not resume: what they are answered."""

from __future__ import annotations

import time
from collections import Counter

import trio
from attrs import frozen

from trio_stt.bench.generator.load import Load, LoadResult
from trio_stt.bench.generator.process import Generators
from trio_stt.bench.speech import Clip
from trio_stt.bench.stream_lag import Dialect
from trio_stt.bench.traffic import Kind, Traffic, framed, goodbye, record_sessions, talkers, target

TIMES = 4

TRAFFIC = Traffic(Kind.CONTINUOUS, 10.0, 100)
"""Sessions of ten seconds without pauses, in frames of 100 ms."""

_AHEAD_S = 0.2
_LAST_WORDS_S = 10.0


@frozen
class CrowdAnswers:
    """What became of the crowd's connections. `refusals`: how many by HTTP status (0: no answer)."""

    connections: int
    refusals: dict[int, int]
    dropped: int
    """Ended by the server, or the network, before their goodbye: instances that die take them along."""


async def crowd(clips: list[Clip], host: str, port: int, limit: int, seconds: float) -> CrowdAnswers:
    """`TIMES` x `limit` speakers for `seconds`; who is refused comes again ten seconds later.

    May be cancelled; then the generating process is ended. Raises `GeneratorError`.
    """
    sessions = record_sessions(clips, TRAFFIC)
    library = [framed(session, TRAFFIC.frame_ms, Dialect.NATIVE) for session in sessions]
    with Generators(library) as generators:
        load = Load(
            host,
            port,
            target("", Dialect.NATIVE),
            goodbye(Dialect.NATIVE),
            talkers(TIMES * limit, library, seed=0),
            time.monotonic() + _AHEAD_S,
            seconds,
            _LAST_WORDS_S,
        )
        result: LoadResult = await trio.to_thread.run_sync(generators.generate, load, abandon_on_cancel=True)
    refusals = Counter(each.status for each in result.connections if not each.accepted)
    return CrowdAnswers(len(result.connections), dict(refusals), sum(each.dropped for each in result.connections))
