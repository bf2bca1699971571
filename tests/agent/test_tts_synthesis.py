"""The owner of the synthesiser's process, with a process that is played: it dies, hangs and is cancelled."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.tts import synthesis as module
from agent.tts.synthesis import BusyError, LateError, Synthesis, SynthesisError, Times
from tests.agent.played_rooms import until

ROOT = Path(__file__).resolve().parents[2]


class Played:
    """A synthesis with a played process, and what that was asked."""

    def __init__(self, folder: Path, **times: float) -> None:
        self.notes = folder / "notes"
        command = [sys.executable, "-m", "tests.agent.played_synthesiser", str(self.notes)]
        self.synthesis = Synthesis(command, Times(**{"first_pause_s": 0.01, "most_pause_s": 0.05, **times}))

    @property
    def asked(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def starts_so(self, how: str) -> None:
        self.notes.with_suffix(".start").write_text(how)

    @property
    def pid(self) -> int | None:
        return self.synthesis.pid


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet_logs) -> Callable[..., None]:
    """Runs a test with a synthesis, and looks that nothing of it is left."""
    monkeypatch.chdir(ROOT)

    def run_it(test: Callable[[Played], Awaitable[None]], **times: float) -> None:
        async def bounded() -> None:
            played = Played(tmp_path, **times)
            async with asyncio.timeout(100):
                async with played.synthesis:
                    await test(played)
                with pytest.raises(SynthesisError, match="was ended"):
                    await played.synthesis.sound_of("one more", "v")
            assert played.synthesis.pid is None
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(bounded())

    return run_it


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_process_starts_with_the_first_sentence_and_ends_with_its_owner(run):
    pids = []

    async def test(played: Played) -> None:
        await asyncio.sleep(0.05)
        assert played.synthesis.starts == 0
        sound = await played.synthesis.sound_of("ten chars.", "v")
        assert (sound.dtype, len(sound), set(sound.tolist())) == ("float32", 1000, {sound[0]})
        assert sound[0] == pytest.approx(1 / 32767)
        pids.append(played.pid)
        assert is_alive(pids[0])
        await played.synthesis.sound_of("again", "v")
        assert played.synthesis.starts == 1

    run(test)
    assert not is_alive(pids[0])


def test_sentences_are_spoken_in_the_order_in_which_they_came(run):
    async def test(played: Played) -> None:
        async with asyncio.TaskGroup() as tasks:
            for text in ("a", "b", "c", "d"):
                tasks.create_task(played.synthesis.sound_of(text, "v"))
        assert played.asked == ["a", "b", "c", "d"]

    run(test)


def test_a_sentence_that_is_not_wanted_any_more_is_broken_off_and_the_process_goes_on(run):
    async def test(played: Played) -> None:
        slow = asyncio.create_task(played.synthesis.sound_of("slow", "v"))
        waiting = asyncio.create_task(played.synthesis.sound_of("never asked", "v"))
        await until(lambda: played.asked == ["slow"], 60)
        waiting.cancel()
        slow.cancel()
        await asyncio.wait([slow, waiting])
        assert slow.cancelled()
        assert waiting.cancelled()
        await played.synthesis.sound_of("next", "v")
        assert played.asked == ["slow", "next"]
        assert played.synthesis.starts == 1

    run(test)


def test_a_sentence_during_which_the_process_dies_is_tried_once_more(run):
    async def test(played: Played) -> None:
        assert len(await played.synthesis.sound_of("die once", "v")) == 800
        assert played.synthesis.starts == 2
        with pytest.raises(SynthesisError, match="does not work: it ended"):
            await played.synthesis.sound_of("die", "v")
        assert played.asked == ["die once", "die once", "die", "die"]
        await played.synthesis.sound_of("next", "v")

    run(test)


def test_a_process_that_is_killed_between_sentences_is_started_anew(run):
    async def test(played: Played) -> None:
        await played.synthesis.sound_of("one", "v")
        os.kill(played.pid, signal.SIGKILL)
        assert len(await played.synthesis.sound_of("two", "v")) == 300
        assert played.synthesis.starts == 2

    run(test)


@pytest.mark.parametrize(
    ("text", "why"), [("hang", "does not answer"), ("garbage", "no frames"), ("wrong id", "was not asked")]
)
def test_a_process_that_does_not_do_as_it_should_is_killed(run, text, why):
    async def test(played: Played) -> None:
        await played.synthesis.sound_of("one", "v")
        first = played.pid
        with pytest.raises(SynthesisError, match=why):
            await played.synthesis.sound_of(text, "v")
        assert not is_alive(first)
        await played.synthesis.sound_of("next", "v")

    run(test, answer_s=3.0)


def test_one_that_does_not_see_a_cancellation_is_killed(run):
    async def test(played: Played) -> None:
        hanging = asyncio.create_task(played.synthesis.sound_of("hang", "v"))
        await until(lambda: played.asked == ["hang"], 60)
        hanging.cancel()
        await asyncio.wait([hanging])
        await played.synthesis.sound_of("next", "v")
        assert played.synthesis.starts == 2
        assert played.asked == ["hang", "next"]

    run(test, cancel_s=0.05)


@pytest.mark.parametrize("how", ["fail", "hang"])
def test_a_model_that_cannot_be_loaded_fails_each_sentence_and_is_tried_again(run, how):
    async def test(played: Played) -> None:
        played.starts_so(how)
        with pytest.raises(SynthesisError, match="no such file" if how == "fail" else "not loaded within"):
            await played.synthesis.sound_of("one", "v")
        assert played.synthesis.starts == 2
        played.starts_so("")
        played.synthesis._times = Times(first_pause_s=0.01)
        await played.synthesis.sound_of("two", "v")
        assert played.asked == ["two"]

    run(test, start_s=0.5 if how == "hang" else 60.0)


def test_one_bad_sentence_costs_itself_alone(run):
    async def test(played: Played) -> None:
        with pytest.raises(SynthesisError, match="ValueError"):
            await played.synthesis.sound_of("fail", "v")
        await played.synthesis.sound_of("next", "v")
        assert played.synthesis.starts == 1

    run(test)


def test_the_line_is_bounded_and_nobody_waits_in_it_for_longer_than_he_likes(run, monkeypatch):
    async def test(played: Played) -> None:
        monkeypatch.setattr(module, "MOST_WAITING", 3)
        slow = asyncio.create_task(played.synthesis.sound_of("slow", "v", begin_within_s=60))
        await until(lambda: played.asked == ["slow"], 60)
        patient = [asyncio.create_task(played.synthesis.sound_of(text, "v")) for text in ("a", "b")]
        await asyncio.sleep(0)
        hasty = asyncio.create_task(played.synthesis.sound_of("hasty", "v", begin_within_s=0.05))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await played.synthesis.sound_of("too many", "v")
        with pytest.raises(LateError):
            await hasty
        assert played.synthesis.waiting == 2
        slow.cancel()
        await asyncio.gather(*patient)
        assert played.asked == ["slow", "a", "b"]

    run(test)


def test_what_was_begun_in_time_is_not_late_however_long_it_takes(run):
    async def test(played: Played) -> None:
        await played.synthesis.sound_of("loads", "v")
        slow = asyncio.create_task(played.synthesis.sound_of("slow", "v", begin_within_s=0.2))
        await asyncio.sleep(0.5)
        assert not slow.done()
        slow.cancel()
        await asyncio.wait([slow])

    run(test)


def test_after_long_silence_the_process_ends_and_the_next_sentence_starts_another(run):
    async def test(played: Played) -> None:
        await played.synthesis.sound_of("one", "v")
        pid = played.pid
        await until(lambda: not is_alive(pid), 60)
        await played.synthesis.sound_of("two", "v")
        assert played.synthesis.starts == 2

    run(test, idle_s=0.1)


def test_who_waits_when_the_owner_leaves_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_logs):
    monkeypatch.chdir(ROOT)

    async def test() -> None:
        played = Played(tmp_path)
        async with asyncio.timeout(60), played.synthesis:
            tasks = [asyncio.create_task(played.synthesis.sound_of(text, "v")) for text in ("slow", "waits")]
            await until(lambda: played.asked == ["slow"], 60)
        done, _ = await asyncio.wait(tasks, timeout=10)
        assert [str(task.exception()) for task in tasks if task in done] == ["the synthesiser was ended"] * 2

    asyncio.run(test())
