"""Decoding threads, with real threads: nothing begun is left behind, nothing waiting is lost."""

import math
import threading
import time
from functools import partial

import pytest
import trio
import trio.testing

from trio_stt.recognition.decoders import Decoders
from trio_stt.recognition.schedule import Turn


async def test_results_and_errors_come_back_to_who_asked():
    decoders = Decoders(2)
    assert await decoders.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await decoders.run(lambda: 1 // 0)


async def test_no_more_calls_run_at_once_than_there_are_threads_and_all_are_made():
    decoders = Decoders(3)
    lock, running, most, done = threading.Lock(), 0, 0, []

    def call():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    async def ask(number):
        await decoders.run(call)
        done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)
    assert sorted(done) == list(range(100))
    assert 1 <= most <= 3
    while decoders.statistics().busy:  # the last thread is told last
        await trio.sleep(0.001)
    seen = decoders.statistics()
    assert (seen.calls, seen.waiting, seen.busy) == (100, 0, 0)
    assert seen.cpu_s > 0


async def test_threads_may_become_fewer_and_more_while_calls_are_made_and_none_is_lost():
    decoders = Decoders(4)
    lock, running, most, done = threading.Lock(), 0, 0, []

    def call():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    async def ask(number):
        await decoders.run(call)
        done.append(number)

    for threads in (1, 3, 1, 4):
        while decoders.statistics().busy:
            await trio.sleep(0.001)
        done.clear()
        most = 0
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            decoders.set_threads(threads)
            while len(done) < 10:  # those that were at work have made their last call
                await trio.sleep(0.001)
            with lock:
                most = running
        assert sorted(done) == list(range(100))
        assert most <= threads
        assert decoders.statistics().threads == threads


async def test_a_waiting_call_can_be_cancelled_and_is_not_made():
    decoders, release, made = Decoders(1), threading.Event(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoders.run, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as scope:
            await decoders.run(lambda: made.append("cancelled"))
        assert scope.cancelled_caught
        release.set()
    await decoders.run(lambda: made.append("next"))
    assert made == ["next"]


async def test_a_call_that_has_begun_is_waited_for_and_its_result_kept():
    decoders, began, release = Decoders(1), trio.Event(), threading.Event()
    token, results = trio.lowlevel.current_trio_token(), []

    def call():
        token.run_sync_soon(began.set)
        release.wait()
        return "heard"

    async with trio.open_nursery() as nursery:

        async def ask():
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel, scope)
                results.append(await decoders.run(call))
            results.append(scope.cancelled_caught)

        async def cancel(scope):
            await began.wait()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            assert decoders.statistics().oldest_call_s > 0
            release.set()

        nursery.start_soon(ask)
    assert results == ["heard", False]


async def test_calls_that_wait_are_made_in_the_order_of_their_due_times():
    decoders, release, order = Decoders(1), threading.Event(), []
    now = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoders.run, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        for name, due in (("ahead", now + 60), ("now", now), ("a little ahead", now + 30)):
            nursery.start_soon(decoders.run, lambda name=name: order.append(name), Turn(due))
            await trio.testing.wait_all_tasks_blocked()
        release.set()
    assert order == ["now", "a little ahead", "ahead"]


async def test_catch_up_takes_turns_with_the_others_and_while_it_waits_the_decoders_are_late():
    decoders, release, made = Decoders(1), threading.Event(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoders.run, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        for kind in ("late", "late", "late", "live", "live", "live"):
            nursery.start_soon(decoders.run, partial(made.append, kind), Turn(audio_s=0.1, catch_up=kind == "late"))
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    assert made == ["late", "live"] * 3

    decoders, release = Decoders(1), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoders.run, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        while decoders.statistics().waiting:  # else the thread may take the other first
            await trio.sleep(0.01)
        nursery.start_soon(decoders.run, lambda: None, Turn(audio_s=0.1, catch_up=True))
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(time.sleep, 0.3)
        before_s = decoders.statistics().delay_s
        release.set()
    assert decoders.statistics().delay_s > before_s + 0.001  # so that newcomers are refused before it is starved


async def test_how_late_calls_begin_is_seen_and_forgotten():
    decoders, release = Decoders(1), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoders.run, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(decoders.run, lambda: None)
        await trio.sleep(0.2)
        release.set()
    late_s = decoders.statistics().delay_s
    assert late_s > 0
    await trio.sleep(0.2)
    assert decoders.statistics().delay_s < late_s


async def test_a_call_does_not_wait_behind_one_that_hangs_while_a_thread_is_left():
    decoders, release = Decoders(2), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(decoders.run, release.wait)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10):
            assert await decoders.run(lambda: "heard") == "heard"
        release.set()


async def test_calls_under_way_say_whose_they_are_and_ended_ones_what_they_took():
    spent = []
    decoders, release = Decoders(1, lambda owner, cpu_s, ahead_s: spent.append((owner, cpu_s))), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(decoders.run, release.wait, owner="ann"))
        while not decoders.under_way():
            await trio.sleep(0.001)
        nursery.start_soon(partial(decoders.run, lambda: sum(range(10**6)), owner="bob"))
        await trio.testing.wait_all_tasks_blocked()
        assert [call.owner for call in decoders.under_way()] == ["ann"]
        release.set()
    assert decoders.under_way() == []
    (ann, ann_s), (bob, bob_s) = spent
    assert (ann, bob) == ("ann", "bob")
    assert bob_s > ann_s >= 0


async def test_a_call_says_how_much_audio_it_decoded_before_that_was_due():
    spent = []
    decoders = Decoders(1, lambda owner, cpu_s, ahead_s: spent.append((owner, ahead_s)))
    now = trio.current_time()
    for owner, due in (("hasty", now + 10), ("punctual", now - 0.001), ("nobody's", -math.inf)):
        await decoders.run(lambda: None, Turn(due, audio_s=0.4), owner=owner)
    assert spent == [("hasty", 0.4), ("punctual", 0), ("nobody's", 0)]
