"""Notices a recogniser call that does not return. Nothing can be done about its thread but to end the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from trio_stt.recognition.decoders import CallUnderWay, Decoders

LOOK_EVERY_S: Final = 0.5


async def wait_for_hang(
    decoders: Decoders, after_s: float, *, monotonic: Callable[[], float] = time.monotonic
) -> CallUnderWay:
    """Returns the first call that has taken longer than `after_s`. May be cancelled.

    Time in which this process did not run (stopped, or its machine paused) makes no call hang: when a look comes late,
    each call is given `after_s` anew.
    """
    looked_at = trusted_from = monotonic()
    while True:
        await trio.sleep(LOOK_EVERY_S)
        now = monotonic()
        if now - looked_at > 2 * LOOK_EVERY_S:
            trusted_from = now
        looked_at = now
        for call in decoders.under_way():
            if min(call.age_s, now - trusted_from) > after_s:
                return call
