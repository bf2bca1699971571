from collections.abc import Sequence

import numpy as np
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from trio_stt.audio.detection import EVERYTHING, RETRY_S, VoiceActivity
from trio_stt.audio.samples import WINDOW_SAMPLES, Probabilities, Samples
from trio_stt.audio.speech_gate import SILENCE_PEAK

LEVEL = 20


class Scripted:
    """A detector that answers its own number, counts a stream's windows in its state, and fails when told to."""

    window_samples = WINDOW_SAMPLES

    def __init__(self, name: str, answer: float) -> None:
        self.name = name
        self.answer = answer
        self.fault: Exception | None = None
        self.calls: list[list[int]] = []
        self.heard: list[int] = []

    def new_state(self) -> list[int]:
        return []

    def probabilities(self, batch: Sequence[tuple[list[int], Samples]]) -> list[Probabilities]:
        if self.fault:
            raise self.fault
        self.calls.append([len(windows) for _, windows in batch])
        for state, windows in batch:
            state += (windows[:, 0] // LEVEL - 1).tolist()
            self.heard = state
        return [np.full(len(windows), self.answer, np.float32) for _, windows in batch]


def windows(count: int, first: int = 0) -> Samples:
    """Sound; its samples tell the number of their window."""
    return np.repeat(LEVEL * np.arange(first + 1, first + count + 1, dtype=np.int16), WINDOW_SAMPLES)


@pytest.fixture
def better() -> Scripted:
    return Scripted("better", 0.25)


@pytest.fixture
def worse() -> Scripted:
    return Scripted("worse", 0.75)


@pytest.fixture
def activity(better: Scripted, worse: Scripted) -> VoiceActivity:
    return VoiceActivity([better, worse], structlog.get_logger())


async def test_streams_that_ask_at_the_same_time_are_judged_in_one_call(
    activity: VoiceActivity, better: Scripted
) -> None:
    async def ask(count: int) -> None:
        assert (await activity.open().probabilities(windows(count))).tolist() == [0.25] * count

    async with trio.open_nursery() as nursery:
        for count in (1, 2, 3, 4):
            nursery.start_soon(ask, count)
    assert [sorted(call) for call in better.calls] == [[1, 2, 3, 4]]


async def test_a_call_is_bounded_and_a_long_request_lets_others_in_between(
    activity: VoiceActivity, better: Scripted
) -> None:
    finished: list[str] = []

    async def ask(name: str, count: int) -> None:
        await activity.open().probabilities(windows(count))
        finished.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "long", 1000)
        for _ in range(10):
            nursery.start_soon(ask, "short", 30)
    assert finished[-1] == "long"
    assert max(sum(call) for call in better.calls) <= 128
    assert max(max(call) for call in better.calls) <= 32


async def test_a_stream_is_heard_in_order_and_remembered(activity: VoiceActivity, better: Scripted) -> None:
    stream = activity.open()
    for first in range(0, 100, 50):
        await stream.probabilities(windows(50, first).reshape(-1, WINDOW_SAMPLES))
    assert better.heard == list(range(100))


async def test_no_windows_have_no_probabilities(activity: VoiceActivity, better: Scripted) -> None:
    with trio.testing.assert_checkpoints():
        assert (await activity.open().probabilities(windows(0))).shape == (0,)
    assert not better.calls


async def test_a_cancelled_stream_does_not_disturb_the_others(activity: VoiceActivity, better: Scripted) -> None:
    answers: list[list[float]] = []

    async def ask() -> None:
        answers.append((await activity.open().probabilities(windows(2))).tolist())

    async def leave(scope: trio.CancelScope) -> None:
        with scope:
            scope.cancel()
            await activity.open().probabilities(windows(2))
            raise AssertionError("not cancelled")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
            nursery.start_soon(leave, trio.CancelScope())
    assert answers == [[0.25, 0.25]] * 3
    assert sum(len(call) for call in better.calls) == 3


async def test_a_stream_cancelled_by_another_while_it_waits_does_not_disturb_it(activity: VoiceActivity) -> None:
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            while True:
                await activity.open().probabilities(windows(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for _ in range(5):
            await activity.open().probabilities(windows(1))
        scope.cancel()
        assert (await activity.open().probabilities(windows(40))).tolist() == [0.25] * 40


async def test_the_next_detector_judges_the_windows_that_failed_and_all_that_follow(
    activity: VoiceActivity, better: Scripted, worse: Scripted
) -> None:
    stream, other = activity.open(), activity.open()
    await stream.probabilities(windows(2))
    assert (activity.active, activity.degraded) == ("better", False)
    better.fault = RuntimeError("out of memory")
    with capture_logs() as logs:
        assert (await stream.probabilities(windows(3, 2))).tolist() == [0.75] * 3
        assert (await other.probabilities(windows(1))).tolist() == [0.75]
    assert (activity.active, activity.degraded) == ("worse", True)
    assert worse.calls == [[3], [1]]
    assert [(log["event"], log["detector"], log["replaced_by"]) for log in logs] == [
        ("voice_detector_failed", "better", "worse")
    ]


@pytest.mark.parametrize("nonsense", [float("nan"), 1.5, -0.1])
async def test_an_answer_that_is_no_probability_counts_as_a_failure(
    activity: VoiceActivity, better: Scripted, nonsense: float
) -> None:
    better.answer = nonsense
    assert (await activity.open().probabilities(windows(1))).tolist() == [0.75]
    assert activity.active == "worse"


async def test_when_all_fail_everything_is_speech(activity: VoiceActivity, better: Scripted, worse: Scripted) -> None:
    better.fault = worse.fault = ValueError("broken")
    assert (await activity.open().probabilities(windows(5))).tolist() == [1.0] * 5
    assert (activity.active, activity.degraded) == (EVERYTHING, True)


async def test_a_detector_that_works_again_is_returned_to_with_a_fresh_memory(
    activity: VoiceActivity, better: Scripted, worse: Scripted, autojump_clock: trio.testing.MockClock
) -> None:
    stream = activity.open()
    await stream.probabilities(windows(2))
    better.fault = ValueError("broken")
    await stream.probabilities(windows(1, 2))
    await trio.sleep(RETRY_S + 1)
    assert (await stream.probabilities(windows(1, 3))).tolist() == [0.75]  # tried, and still broken
    better.fault = None
    await trio.sleep(RETRY_S - 1)
    assert (await stream.probabilities(windows(1, 4))).tolist() == [0.75]
    await trio.sleep(1)
    with capture_logs() as logs:
        assert (await stream.probabilities(windows(1, 5))).tolist() == [0.25]
    assert [log["event"] for log in logs] == ["voice_detector_back"]
    assert better.heard == [5]
    assert worse.heard == [2, 3, 4]
    assert not activity.degraded


async def test_digital_silence_is_silence_without_asking_the_detector(
    activity: VoiceActivity, better: Scripted
) -> None:
    stream = activity.open()
    dither = np.tile(np.array([SILENCE_PEAK, -SILENCE_PEAK], np.int16), 3 * WINDOW_SAMPLES // 2)
    assert (await stream.probabilities(dither)).tolist() == [0.0] * 3
    assert better.calls == []
    dither[700] = SILENCE_PEAK + 1
    assert (await stream.probabilities(dither)).tolist() == [0.25] * 3


async def test_background_is_not_shown_and_the_time_taken_is_counted(activity: VoiceActivity, better: Scripted) -> None:
    stream, noise = activity.open(), np.random.default_rng(0).normal(0, 100, 512 * 3).astype(np.int16)
    for _ in range(40):
        better.answer = 0.0
        assert (await stream.probabilities(noise)).tolist() == [0.0] * 3
    better.calls.clear()
    assert (await stream.probabilities(noise)).tolist() == [0.0] * 3
    assert better.calls == []
    better.answer = 0.9
    assert (await stream.probabilities(2 * noise)).tolist() == pytest.approx([0.9] * 3)
    assert better.calls == [[8 + 3]]
    assert activity.cpu_s > 0
