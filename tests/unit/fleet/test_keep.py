"""`fleet keep`: a command runs until a signal comes, however often it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
import trio
from trio.testing import MockClock

from trio_stt.fleet.keep import CommandChild, keep


class FakeChild:
    """Ends by itself after `life_s`; None: only when a signal comes, with exit code 0."""

    def __init__(self, life_s: float | None, code: int = 1) -> None:
        self.life_s = life_s
        self.code = code
        self.got: list[int] = []
        self._ended = trio.Event()

    async def wait(self) -> int:
        with trio.move_on_after(self.life_s if self.life_s is not None else float("inf")):
            await self._ended.wait()
            return 0
        return self.code

    def send(self, number: int) -> None:
        self.got.append(number)
        self._ended.set()


class Kept:
    """Keeps fake children, each of which lives as long as `lives` says, until `signals` are sent."""

    def __init__(self, *lives: float | None) -> None:
        self._lives = iter(lives)
        self.children: list[FakeChild] = []
        self.started_at: list[float] = []
        self.said: list[str] = []
        self.signals, self._receive = trio.open_memory_channel[int](10)
        self.code: int | None = None

    def spawn(self) -> FakeChild:
        self.started_at.append(trio.current_time())
        self.children.append(FakeChild(next(self._lives)))
        return self.children[-1]

    async def run(self) -> None:
        self.code = await keep(self.spawn, self._receive, self.said.append)


async def test_what_ends_at_once_is_started_again_with_pauses_of_at_most_two_seconds(autojump_clock: MockClock) -> None:
    kept = Kept(0, 0, 0, 0, 0, 0, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        await trio.sleep(20)
        kept.signals.send_nowait(signal.SIGTERM)
    begun = kept.started_at[0]
    assert [at - begun for at in kept.started_at] == pytest.approx([0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75])
    assert kept.children[-1].got == [signal.SIGTERM]
    assert kept.code == 0


async def test_what_ran_for_long_is_started_again_soon(autojump_clock: MockClock) -> None:
    kept = Kept(0, 0, 0, 60, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        await trio.sleep(100)
        kept.signals.send_nowait(signal.SIGINT)
    assert kept.started_at[-1] - kept.started_at[-2] == pytest.approx(60.25)


async def test_a_signal_during_a_pause_ends_it_with_exit_code_0(autojump_clock: MockClock) -> None:
    kept = Kept(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        await trio.sleep(0.1)
        kept.signals.send_nowait(signal.SIGTERM)
    assert (kept.code, len(kept.children)) == (0, 1)


async def test_every_signal_is_passed_on_and_the_end_is_waited_for(autojump_clock: MockClock) -> None:
    class Stubborn(FakeChild):
        def send(self, number: int) -> None:
            self.got.append(number)

    child = Stubborn(30, code=-9)
    signals, receive = trio.open_memory_channel[int](10)
    codes = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            codes.append(await keep(lambda: child, receive, lambda line: None))

        nursery.start_soon(run)
        await trio.sleep(1)
        signals.send_nowait(signal.SIGTERM)
        await trio.sleep(1)
        signals.send_nowait(signal.SIGTERM)
        await trio.sleep(1)
        assert not codes
    assert child.got == [signal.SIGTERM, signal.SIGTERM]
    assert codes == [128 + 9]


async def test_a_command_that_cannot_be_started_is_an_error_at_first_and_tried_again_later(
    autojump_clock: MockClock,
) -> None:
    signals, receive = trio.open_memory_channel[int](1)

    def missing() -> FakeChild:
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(FileNotFoundError):
        await keep(missing, receive, lambda line: None)

    attempts = []

    def gone_later() -> FakeChild:
        attempts.append(trio.current_time())
        if len(attempts) == 1:
            return FakeChild(0)
        raise FileNotFoundError(2, "No such file")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, gone_later, receive, lambda line: None)
        await trio.sleep(10)
        signals.send_nowait(signal.SIGTERM)
    assert len(attempts) > 3


async def test_a_real_child_gets_a_signal_and_its_end_is_seen() -> None:
    child = CommandChild([sys.executable, "-c", "import time; time.sleep(60)"])
    child.send(signal.SIGTERM)
    with trio.fail_after(20):
        assert await child.wait() == -signal.SIGTERM
    child.send(signal.SIGTERM)  # to nobody


async def test_another_signal_may_be_what_ends_it() -> None:
    child = CommandChild(["sleep", "60"], end_by=signal.SIGQUIT)
    child.send(signal.SIGTERM)
    with trio.fail_after(20):
        assert await child.wait() == -signal.SIGQUIT


def test_what_is_kept_does_not_outlive_the_keeper_even_if_that_is_killed() -> None:
    command = [sys.executable, "-m", "trio_stt", "fleet", "keep", "--", sys.executable, "-uc"]
    program = "import os, time; print(os.getpid()); time.sleep(60)"
    with subprocess.Popen([*command, program], stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        kept = int(keeper.stdout.readline())
        keeper.kill()
    until = time.monotonic() + 20
    while _runs(kept):
        assert time.monotonic() < until
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Not a zombie either: nobody may be there to bury it."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_signal_to_the_keeper_ends_both_with_the_commands_exit_code() -> None:
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print(); time.sleep(60)"
    command = [sys.executable, "-m", "trio_stt", "fleet", "keep", "--", sys.executable, "-uc", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        os.kill(keeper.pid, signal.SIGTERM)
        assert keeper.wait(20) == 7
