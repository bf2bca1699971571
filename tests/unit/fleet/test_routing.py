"""Who gets new clients: two misses and an instance is out, one answer and it is in again."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from trio_stt.fleet.probe import PROBE_EVERY_S, Verdict, answers
from trio_stt.fleet.routing import Routing


def test_two_misses_in_a_row_are_needed_and_one_answer_is_enough() -> None:
    verdict = Verdict()
    assert verdict.note(True)
    assert verdict.healthy
    assert not verdict.note(False)
    assert not verdict.note(True)
    assert not verdict.note(False)
    assert verdict.note(False)
    assert verdict.healthy is False
    assert not verdict.note(False)
    assert verdict.note(True)
    assert verdict.healthy


def test_who_has_never_answered_is_out_at_the_first_miss() -> None:
    verdict = Verdict()
    assert verdict.note(False)
    assert verdict.healthy is False


class Proxy:
    """A routing with instances that answer if they are in `up`, and what the proxy was told."""

    def __init__(self) -> None:
        self.up: set[int] = set()
        self.failures = 0
        self.told: list[tuple[int, ...]] = []
        self.routing = Routing(self._ask, self._route_to)

    async def _ask(self, number: int) -> bool:
        await trio.sleep(0.01)
        return number in self.up

    async def until_in(self, number: int) -> None:
        while number not in self.routing.routed or not self.routing.healthy(number):
            await trio.sleep(0.01)

    async def _route_to(self, numbers: Sequence[int]) -> bool:
        await trio.sleep(0.02)
        if self.failures:
            self.failures -= 1
            return False
        self.told.append(tuple(numbers))
        return True


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.routing.run)
        yield proxy
        nursery.cancel_scope.cancel()


async def test_the_proxy_is_told_only_of_changes(autojump_clock: MockClock, proxy: Proxy) -> None:
    proxy.up = {1, 2, 3}
    for number in (1, 2, 3):
        proxy.routing.add(number)
    await trio.sleep(10)
    assert proxy.told == [(1, 2, 3)]
    proxy.up = {1, 3}
    await trio.sleep(10)
    proxy.up = {1, 2, 3}
    await trio.sleep(10)
    assert proxy.told == [(1, 2, 3), (1, 3), (1, 2, 3)]


async def test_what_the_proxy_could_not_be_told_is_told_again(autojump_clock: MockClock, proxy: Proxy) -> None:
    proxy.up = {1, 2}
    proxy.failures = 2
    proxy.routing.add(1)
    proxy.routing.add(2)
    await trio.sleep(1)
    assert proxy.told == []
    assert proxy.routing.routed == ()
    await trio.sleep(3)
    assert proxy.told == [(1, 2)]
    assert proxy.routing.routed == (1, 2)


async def test_one_missed_probe_changes_nothing_and_two_do(autojump_clock: MockClock, proxy: Proxy) -> None:
    proxy.up = {1, 2}
    proxy.routing.add(1)
    proxy.routing.add(2)
    await trio.sleep(2.1)
    proxy.up = {1}
    await trio.sleep(PROBE_EVERY_S)
    assert proxy.routing.healthy(2)
    proxy.up = {1, 2}
    await trio.sleep(2)
    assert proxy.told == [(1, 2)]
    proxy.up = {1}
    await trio.sleep(2 * PROBE_EVERY_S + 0.1)
    assert proxy.told[-1] == (1,)


async def test_when_nobody_answers_all_stay_so_that_nginx_has_whom_to_ask(
    autojump_clock: MockClock, proxy: Proxy
) -> None:
    proxy.routing.add(1)
    proxy.routing.add(2)
    await trio.sleep(2)
    assert proxy.told == [(1, 2)]
    proxy.up = {2}
    await trio.sleep(2)
    proxy.up = set()
    await trio.sleep(2)
    assert proxy.told == [(1, 2), (2,), (1, 2)]


async def test_who_is_held_out_gets_no_new_clients_until_it_is_let_in_and_answers(
    autojump_clock: MockClock, proxy: Proxy
) -> None:
    proxy.up = {1, 2}
    proxy.routing.add(1)
    proxy.routing.add(2)
    await proxy.until_in(1)
    await proxy.routing.hold_out(1)
    assert proxy.told[-1] == proxy.routing.routed == (2,)
    await trio.sleep(2)
    assert proxy.told[-1] == (2,)
    proxy.up = {2}
    proxy.routing.let_in(1)
    assert not proxy.routing.healthy(1)
    await trio.sleep(2)
    assert proxy.told[-1] == (2,)
    proxy.up = {1, 2}
    await proxy.until_in(1)
    assert proxy.told[-1] == (1, 2)


async def test_an_answer_from_before_it_was_let_in_does_not_count(autojump_clock: MockClock, proxy: Proxy) -> None:
    proxy.up = {1, 2}
    proxy.routing.add(1)
    proxy.routing.add(2)
    await proxy.until_in(1)
    begun = trio.current_time()
    while trio.current_time() < begun + 1:
        proxy.routing.let_in(1)  # at every moment of a probe
        await trio.sleep(0.005)
        assert not proxy.routing.healthy(1)


async def test_the_last_one_that_answers_is_not_held_out(autojump_clock: MockClock, proxy: Proxy) -> None:
    proxy.up = {1}
    proxy.routing.add(1)
    proxy.routing.add(2)
    await proxy.until_in(1)
    with trio.fail_after(5):
        await proxy.routing.hold_out(1)
    assert proxy.routing.routed == (1,)


async def test_who_begins_to_probe_instances_that_serve_leaves_none_out_meanwhile(
    autojump_clock: MockClock, proxy: Proxy
) -> None:
    proxy.up = {1, 2}
    proxy.routing.add(1)
    await trio.lowlevel.checkpoint()
    proxy.routing.add(2)
    await trio.sleep(3)
    assert proxy.told == [(1, 2)]


async def test_who_is_removed_is_not_asked_any_more(autojump_clock: MockClock, proxy: Proxy) -> None:
    proxy.up = {1, 2}
    proxy.routing.add(1)
    proxy.routing.add(2)
    await proxy.until_in(2)
    proxy.routing.remove(2)
    await trio.sleep(2)
    assert proxy.told[-1] == (1,)
    assert not proxy.routing.healthy(2)


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 \r\n\r\n{}", True),
        (b"HTTP/1.1 503 \r\n\r\n{}", False),
        (b"HTTP/1.1 2", False),
        (b"", False),
        (b"x" * 5000, False),
    ],
)
async def test_only_the_whole_answer_200_counts(answer: bytes, healthy: bool) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assert await answers(port) is healthy
        nursery.cancel_scope.cancel()


async def test_nobody_there_and_somebody_who_says_nothing_are_misses() -> None:
    async with trio.open_nursery() as nursery:

        async def silent(stream: trio.SocketStream) -> None:
            await trio.sleep_forever()

        listeners = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assert not await answers(port)
        nursery.cancel_scope.cancel()
    assert not await answers(port)
