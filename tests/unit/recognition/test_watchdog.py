"""A call that does not return is noticed; a process that was stopped is not blamed on its calls."""

import trio
import trio.testing

from trio_stt.recognition.decoders import CallUnderWay
from trio_stt.recognition.watchdog import wait_for_hang


class DecodersWith:
    """One call under way since `began` on Trio's clock, while `lost_s` of real time passed beside it."""

    def __init__(self, began=None):
        self.began = began
        self.lost_s = 0.0

    def monotonic(self):
        return trio.current_time() + self.lost_s

    def under_way(self):
        return [] if self.began is None else [CallUnderWay("ann", self.monotonic() - self.began)]


async def test_the_call_that_takes_too_long_is_named(autojump_clock):
    decoders = DecodersWith(began=trio.current_time())
    call = await wait_for_hang(decoders, 10, monotonic=decoders.monotonic)
    assert call.owner == "ann"
    assert 10 < call.age_s < 12


async def test_calls_that_return_are_left_alone(autojump_clock):
    decoders = DecodersWith()
    with trio.move_on_after(60) as scope:
        await wait_for_hang(decoders, 10, monotonic=decoders.monotonic)
    assert scope.cancelled_caught


async def test_time_in_which_the_process_was_stopped_does_not_count(autojump_clock):
    decoders = DecodersWith(began=trio.current_time())
    stopped_at = trio.current_time()

    async def stop_the_process():
        await trio.sleep(3.1)
        decoders.lost_s = 3600

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_the_process)
        await wait_for_hang(decoders, 10, monotonic=decoders.monotonic)
        assert 13 < trio.current_time() - stopped_at < 15
