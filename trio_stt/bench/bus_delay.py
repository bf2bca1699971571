"""How long a caption takes from one instance to another over the bus."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import trio

from trio_stt.bench.figures import Figure, percentiles
from trio_stt.dialects.events import Transcript
from trio_stt.sessions.bus import BusEvent, Call, Outcome, StoredFinal
from trio_stt.sessions.redis_bus import RedisBus

AT_MOST_MS = 10.0
"""95 of 100 captions are on the other instance within so long."""

CONNECT_TIMEOUT_S = 5.0
LAST_S = 2.0

TTL_S = 60.0


class BusUnreachableError(Exception):
    """There is no Redis at that URL, or it is lost meanwhile."""


async def measure_bus(url: str, captions: int, every_s: float) -> list[Figure]:
    """Publishes finals at one end and partials between them, and times their arrival at another.

    Both ends are in this process, on one clock. Raises `BusUnreachableError`. May be cancelled.
    """
    here, there = RedisBus(url, ttl_s=TTL_S), RedisBus(url, ttl_s=TTL_S)
    call = Call("bench", secrets.token_hex(8))
    arrived: dict[tuple[str, bool], float] = {}

    def receive(events: Sequence[BusEvent], earlier: bool) -> None:
        for event in events:
            if isinstance(event, StoredFinal):
                arrived[event.final.segment_id, True] = trio.current_time()
            elif isinstance(event, Transcript):
                arrived[event.segment_id, False] = trio.current_time()

    sent: dict[tuple[str, bool], float] = {}
    stored_s: list[float] = []
    async with trio.open_nursery() as nursery:
        for bus in (here, there):
            await nursery.start(bus.run)
            with trio.move_on_after(CONNECT_TIMEOUT_S) as scope:
                await bus.wait_up(0)
            if scope.cancelled_caught:
                raise BusUnreachableError("no Redis answers there")
        await there.follow(call, receive).caught_up.wait()
        for number in range(captions):
            segment_id = f"s-{number}"
            sent[segment_id, False] = trio.current_time()
            here.publish_partial(call, _caption(segment_id, number, is_final=False))
            await trio.sleep(every_s / 2)
            sent[segment_id, True] = began = trio.current_time()
            final = _caption(segment_id, number, is_final=True)
            published = await here.publish_final(call, final, epoch=1, follows=final.start_sample)
            if published.outcome is not Outcome.STORED:
                raise BusUnreachableError("Redis was lost")
            stored_s.append(trio.current_time() - began)
            await trio.sleep(every_s / 2)
        with trio.move_on_after(LAST_S):
            while len(arrived) < len(sent):  # noqa: ASYNC110  (the last ones are on their way)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    finals, partials = (
        percentiles([arrived[key] - sent[key] for key in arrived if key[1] is is_final]) for is_final in (True, False)
    )
    return [
        Figure("Finals at the other end, p50", finals.p50_ms, "ms"),
        Figure("Finals at the other end, p95", finals.p95_ms, "ms", at_most=AT_MOST_MS),
        Figure("Partials at the other end, p95", partials.p95_ms, "ms", at_most=AT_MOST_MS),
        Figure("Finals confirmed, p95", percentiles(stored_s).p95_ms, "ms"),
        Figure("Captions lost", float(len(sent) - len(arrived)), "", at_most=0),
    ]


def _caption(segment_id: str, number: int, *, is_final: bool) -> Transcript:
    text = "so the meeting is on thursday at half past nine in the large room upstairs"
    start = number * 48000
    ids = ("bench", "speaker", "s", segment_id)
    return Transcript(*ids, text, is_final, "en", start, start + 48000, 16000, time.time())
