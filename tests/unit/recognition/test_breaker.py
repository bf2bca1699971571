import pytest
import trio

from trio_stt.recognition.breaker import Breaker, BreakerState


def breaker(**changes) -> Breaker:
    return Breaker("vosk-en", **{"min_calls": 4, "wait_s": 5, "jitter": lambda: 0.0, **changes})


async def test_it_opens_when_half_of_the_last_calls_failed():
    subject = breaker()
    for ok in (True, False, True):
        subject.record(ok=ok)
    assert subject.admits
    subject.record(ok=False)
    assert subject.state is BreakerState.OPEN
    assert subject.statistics().retry_after_s == pytest.approx(5, abs=0.1)


async def test_few_failures_do_not_open_it_however_bad_the_share():
    subject = breaker()
    for _ in range(3):
        subject.record(ok=False)
    assert subject.admits


async def test_old_calls_are_forgotten():
    subject = breaker()
    for ok in (False, True, True, True, True, False):
        subject.record(ok=ok)
    assert subject.admits


async def test_a_good_probe_closes_it_and_releases_those_who_wait(autojump_clock):
    subject = breaker()
    waited_s = None

    async def good() -> bool:
        assert subject.state is BreakerState.HALF_OPEN
        return True

    async def wait() -> None:
        nonlocal waited_s
        await subject.wait_closed()
        waited_s = trio.current_time() - began
        nursery.cancel_scope.cancel()

    began = trio.current_time()
    subject.trip()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.keep_probing, good)
        nursery.start_soon(wait)
    assert waited_s == 5
    assert subject.statistics().calls == 0


async def test_each_failed_probe_doubles_the_wait(autojump_clock):
    subject = breaker()
    probed_at = []

    async def bad_thrice() -> bool:
        probed_at.append(trio.current_time() - began)
        return len(probed_at) > 3

    began = trio.current_time()
    subject.trip()
    with trio.move_on_after(200):
        await subject.keep_probing(bad_thrice)
    assert probed_at == [5, 15, 35, 75]
    assert subject.admits


async def test_jitter_lengthens_the_wait_by_up_to_a_quarter():
    subject = breaker(jitter=lambda: 1.0)
    subject.trip()
    assert subject.statistics().retry_after_s == pytest.approx(6.25, abs=0.1)


async def test_outcomes_of_calls_that_passed_before_it_opened_change_nothing():
    subject = breaker()
    subject.trip()
    for _ in range(10):
        subject.record(ok=True)
    assert subject.state is BreakerState.OPEN


async def test_a_reset_by_hand_while_it_waits_spares_the_probe(autojump_clock):
    subject = breaker()

    async def never() -> bool:
        raise AssertionError("probed although it was closed")

    subject.trip()
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.keep_probing, never)
            await trio.sleep(1)
            subject.reset()
    assert subject.admits


async def test_changes_of_state_are_told():
    seen = []
    subject = breaker(on_change=seen.append)
    subject.trip()
    subject.reset()
    assert seen == [BreakerState.OPEN, BreakerState.CLOSED]
