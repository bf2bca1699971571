"""The gate's rules: first one by one, then all of them against random speech."""

from itertools import pairwise

import numpy as np
import pytest
from attrs import define, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_stt.audio.samples import MODEL_RATE, NO_SAMPLES, WINDOW_SAMPLES, Samples, joined
from trio_stt.audio.speech_gate import (
    CONTEXT_SAMPLES,
    SILENCE_PEAK,
    Ended,
    GateConfig,
    GateEvent,
    Opened,
    Speech,
    SpeechGate,
    TooLong,
)

W = WINDOW_SAMPLES
SPEECH, SILENCE = 0.9, 0.1


def sound(count: int, begin: int = 0) -> Samples:
    """Samples that tell where they stand, all louder than the silence rule."""
    return ((np.arange(begin, begin + count) * 7919) % 29_000 + SILENCE_PEAK + 1).astype(np.int16)


def windows_of(config: GateConfig, spoken: str) -> tuple[SpeechGate, list[GateEvent]]:
    """A gate after one push; `spoken`: s = speech, . = silence."""
    gate = SpeechGate(config)
    return gate, gate.push(sound(W * len(spoken)), [SPEECH if window == "s" else SILENCE for window in spoken])


def positions(events: list[GateEvent]) -> list[tuple[str, int]]:
    found = []
    for event in events:
        match event:
            case Opened(start):
                found.append(("opened", start))
            case Ended(end):
                found.append(("ended", end))
            case TooLong(position):
                found.append(("too long", position))
    return found


def given_sound(events: list[GateEvent]) -> Samples:
    return joined([event.samples for event in events if isinstance(event, Speech)])


# 128 ms = 4 windows before, 64 ms = 2 windows after; the hangover of 160 ms ends at the fifth window of silence.
PLAIN = GateConfig(min_speech_ms=64, hangover_ms=160, pre_roll_ms=128, post_roll_ms=64)


def test_an_utterance_has_its_pre_roll_and_its_post_roll_and_is_given_whole() -> None:
    gate, events = windows_of(PLAIN, "......ssss......")
    assert positions(events) == [("opened", 2 * W), ("ended", 12 * W)]
    assert np.array_equal(given_sound(events), sound(10 * W, 2 * W))
    assert not gate.is_open


def test_an_end_is_told_as_soon_as_the_hangover_has_passed() -> None:
    gate, events = windows_of(PLAIN, "ssss....")
    assert positions(events) == [("opened", 0)]
    assert positions(gate.push(sound(W), [SILENCE])) == [("ended", 6 * W)]


def test_pre_roll_reaches_neither_before_the_stream_nor_into_the_utterance_before() -> None:
    _, events = windows_of(PLAIN, "ss.....ss.....")
    assert positions(events) == [("opened", 0), ("ended", 4 * W), ("opened", 4 * W), ("ended", 11 * W)]


def test_sound_past_the_post_roll_is_withheld_until_speech_resumes() -> None:
    gate, events = windows_of(PLAIN, "ss....")
    assert np.array_equal(given_sound(events), sound(4 * W))
    assert np.array_equal(given_sound(gate.push(sound(W, 6 * W), [SPEECH])), sound(3 * W, 4 * W))


def test_speech_goes_on_a_little_below_the_threshold_but_does_not_begin_there() -> None:
    gate = SpeechGate(PLAIN)
    assert not gate.push(sound(4 * W), [0.4] * 4)
    gate.push(sound(2 * W), [0.5, 0.4])
    assert gate.is_open
    assert positions(gate.push(sound(5 * W), [0.34] * 5)) == [("ended", 8 * W)]


def test_too_little_speech_opens_nothing_and_one_dip_is_forgiven() -> None:
    config = GateConfig(min_speech_ms=96, hangover_ms=160, pre_roll_ms=0, post_roll_ms=0)
    assert not windows_of(config, "..ss...ss..")[1]
    assert positions(windows_of(config, ".ss.s.....")[1]) == [("opened", W), ("ended", 5 * W)]
    assert not windows_of(config, ".s.s.s.s.")[1]


def test_digital_silence_is_no_speech_whatever_the_detector_says() -> None:
    gate, _ = windows_of(PLAIN, "ssss")
    hush = np.full(5 * W, -SILENCE_PEAK, np.int16)
    assert positions(gate.push(hush, [SPEECH] * 5)) == [("ended", 6 * W)]
    assert not SpeechGate(PLAIN).push(hush, [SPEECH] * 5)


def test_the_loudest_negative_sample_is_not_silence() -> None:
    gate = SpeechGate(PLAIN)
    gate.push(np.full(2 * W, -32768, np.int16), [SPEECH] * 2)
    assert gate.is_open


def test_finish_ends_speech_at_the_last_sample_and_speech_goes_on_from_there_at_once() -> None:
    gate, _ = windows_of(PLAIN, "....ssss")
    rest = sound(100, 8 * W)
    events = gate.finish(rest)
    assert positions(events) == [("ended", 8 * W + 100)]
    assert np.array_equal(given_sound(events), rest)
    assert gate.settled == 8 * W + 100
    assert positions(gate.push(sound(W), [SPEECH])) == [("opened", 8 * W + 100)]


def test_between_two_finishes_in_the_same_speech_nothing_is_left_out_though_it_fills_no_window() -> None:
    gate, _ = windows_of(PLAIN, "....sss")
    gate.finish(sound(100))
    assert positions(gate.finish(sound(50))) == [("opened", 7 * W + 100), ("ended", 7 * W + 150)]
    assert positions(gate.finish(sound(30))) == [("opened", 7 * W + 150), ("ended", 7 * W + 180)]
    assert gate.finish(np.zeros(20, np.int16)) == []
    gate, _ = windows_of(PLAIN, "....sss.")
    gate.finish(NO_SAMPLES)
    assert gate.finish(sound(50)) == []  # the first came in the hangover


def test_what_goes_on_in_the_middle_of_speech_is_speech_before_it_fills_a_window() -> None:
    assert positions(SpeechGate(PLAIN, goes_on=True).finish(sound(50))) == [("opened", 0), ("ended", 50)]
    assert SpeechGate(PLAIN).finish(sound(50)) == []


def test_after_finish_and_a_pause_speech_needs_its_minimum_length_again() -> None:
    gate, _ = windows_of(PLAIN, "ssss")
    gate.finish(NO_SAMPLES)
    assert not gate.push(sound(3 * W), [SILENCE, SPEECH, SILENCE])


def test_finish_in_the_hangover_ends_at_the_post_roll() -> None:
    gate, _ = windows_of(PLAIN, "ssss...")
    assert positions(gate.finish(sound(10))) == [("ended", 6 * W)]


def test_finish_opens_and_ends_speech_that_is_too_short() -> None:
    gate, events = windows_of(PLAIN, "......s")
    assert not events
    events = gate.finish(sound(50, 7 * W))
    assert positions(events) == [("opened", 2 * W), ("ended", 7 * W + 50)]
    assert np.array_equal(given_sound(events), sound(5 * W + 50, 2 * W))


def test_finish_in_silence_ends_nothing_and_nothing_begins_before_it() -> None:
    gate, _ = windows_of(PLAIN, "..")
    assert gate.finish(sound(70)) == []
    assert gate.position == 2 * W + 70
    assert positions(gate.push(sound(2 * W), [SPEECH] * 2)) == [("opened", 2 * W + 70)]


def test_a_rest_of_a_whole_window_and_windows_without_probabilities_are_refused() -> None:
    gate = SpeechGate(PLAIN)
    with pytest.raises(ValueError, match="rest"):
        gate.finish(sound(W))
    with pytest.raises(ValueError, match="windows"):
        gate.push(sound(2 * W), [SPEECH])


LONG = GateConfig(min_speech_ms=64, hangover_ms=160, pre_roll_ms=0, post_roll_ms=64, max_utterance_s=6.4)


def test_an_utterance_at_its_maximum_waits_for_the_cut_and_goes_on_behind_it_with_context() -> None:
    gate, events = windows_of(LONG, "s" * 210)
    assert positions(events) == [("opened", 0), ("too long", 200 * W)]
    for refused in (lambda: gate.finish(NO_SAMPLES), lambda: gate.push(sound(W), [SPEECH])):
        with pytest.raises(RuntimeError, match="cut"):
            refused()
    begin, tail = gate.tail()
    assert begin == 200 * W - 2 * MODEL_RATE
    assert np.array_equal(tail, sound(2 * MODEL_RATE, begin))
    cut = 190 * W + 17
    events = gate.cut(cut)
    assert events[:2] == [Ended(cut), Opened(cut, CONTEXT_SAMPLES)]
    assert np.array_equal(given_sound(events), sound(210 * W - cut + CONTEXT_SAMPLES, cut - CONTEXT_SAMPLES))


def test_a_cut_must_lie_inside_the_utterance() -> None:
    gate, _ = windows_of(LONG, "s" * 200)
    for at in (-1, 0, 200 * W + 1):
        with pytest.raises(ValueError, match="inside"):
            gate.cut(at)
    with pytest.raises(RuntimeError, match="TooLong"):
        SpeechGate(LONG).cut(1)


def test_an_utterance_that_reaches_its_maximum_in_silence_is_ended_there() -> None:
    _, events = windows_of(LONG, "s" * 198 + ".s" + "." * 6)
    assert positions(events)[:2] == [("opened", 0), ("too long", 200 * W)]
    _, events = windows_of(LONG, "s" * 197 + "...ss" + "." * 6)
    assert positions(events) == [("opened", 0), ("ended", 199 * W), ("opened", 200 * W), ("ended", 204 * W)]


def test_without_detection_everything_is_one_utterance_until_it_is_finished() -> None:
    gate = SpeechGate(GateConfig(enabled=False))
    assert positions(gate.push(np.zeros(3 * W, np.int16), [0.0] * 3)) == [("opened", 0)]
    assert positions(gate.finish(np.zeros(9, np.int16))) == [("ended", 3 * W + 9)]
    assert positions(gate.finish(np.zeros(9, np.int16))) == [("opened", 3 * W + 9), ("ended", 3 * W + 18)]
    assert gate.finish(NO_SAMPLES) == []


@pytest.mark.parametrize("probability", [SPEECH, SILENCE])
def test_what_is_kept_is_bounded(probability: float) -> None:
    gate = SpeechGate(GateConfig())
    for _ in range(400):
        for event in gate.push(sound(3 * W), [probability] * 3):
            if isinstance(event, TooLong):
                gate.cut(event.position - 4000)
        assert gate.kept_samples <= (5 * MODEL_RATE if probability == SPEECH else 6400) + 3 * W


# ── all at once ──────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Push:
    """Windows pushed together: for each its probability, None for digital silence."""

    windows: tuple[float | None, ...]


@frozen
class Finish:
    rest: int


RUNS = st.builds(
    lambda windows, times: windows * times,
    st.lists(st.sampled_from([0.9, 0.4, 0.1, None]), min_size=1, max_size=2),
    st.integers(1, 12),
)
STEPS = st.lists(st.one_of(RUNS.map(lambda run: Push(tuple(run))), st.builds(Finish, st.integers(0, W - 1))))
CONFIGS = st.builds(
    GateConfig,
    min_speech_ms=st.sampled_from([0, 32, 64, 96, 250]),
    hangover_ms=st.sampled_from([50, 160, 300]),
    pre_roll_ms=st.sampled_from([0, 20, 128, 300]),
    post_roll_ms=st.sampled_from([0, 64, 128, 300]),
    max_utterance_s=st.sampled_from([1.0, 2.0, 30.0]),
)


@define
class Utterance:
    start: int
    context: int
    pieces: list[Samples] = field(factory=list)
    end: int | None = None
    was_cut: bool = False


@define
class Listener:
    """Drives a gate as its owner does, and checks each event where it comes."""

    gate: SpeechGate
    cuts: list[float]
    heard: list[Utterance] = field(factory=list)
    settled: int = 0
    pushed: list[Samples] = field(factory=list)
    total: int = 0

    def samples(self, count: int, silent: bool = False) -> Samples:
        new = np.zeros(count, np.int16) if silent else sound(count, self.total)
        self.total += count
        self.pushed.append(new)
        return new

    def take(self, events: list[GateEvent]) -> None:
        for event in events:
            match event:
                case Opened(start, context):
                    assert not self.heard or self.heard[-1].end is not None
                    assert start >= self.settled, "an utterance begins before what was settled"
                    self.heard.append(Utterance(start, context))
                case Speech(samples):
                    assert len(samples)
                    self.heard[-1].pieces.append(samples)
                case Ended(end):
                    assert self.heard[-1].end is None
                    self.heard[-1].end = end
        assert self.gate.settled >= self.settled, "settled went back"
        self.settled = self.gate.settled
        if events and isinstance(events[-1], TooLong):
            begin, tail = self.gate.tail()
            share = self.cuts[len(self.heard) % len(self.cuts)]
            self.heard[-1].was_cut = True
            self.take(self.gate.cut(begin + max(1, int(share * len(tail)))))

    def run(self, steps: list[Push | Finish], windows_a_push: int | None = None) -> None:
        for step in steps:
            if isinstance(step, Finish):
                self.take(self.gate.finish(self.samples(step.rest)))
                assert not self.gate.is_open
                continue
            size = windows_a_push or len(step.windows)
            for begin in range(0, len(step.windows), size):
                group = step.windows[begin : begin + size]
                samples = joined([self.samples(W, window is None) for window in group])
                self.take(self.gate.push(samples, [SPEECH if window is None else window for window in group]))


@settings(max_examples=300, deadline=None)
@given(CONFIGS, STEPS, st.lists(st.floats(0.01, 1), min_size=1, max_size=3))
def test_whatever_is_said_utterances_are_whole_disjoint_and_hold_all_speech(
    config: GateConfig, steps: list[Push | Finish], cuts: list[float]
) -> None:
    listener = Listener(SpeechGate(config), cuts)
    listener.run([*steps, Finish(0)])
    everything = joined(listener.pushed)
    spans = [(utterance.start, utterance.end or 0) for utterance in listener.heard]

    for (_, end), (start, _) in pairwise(spans):
        assert end <= start
    for utterance, (start, end) in zip(listener.heard, spans, strict=True):
        assert start < end <= len(everything)
        assert end - start <= config.max_utterance_s * MODEL_RATE
        given_samples = joined(utterance.pieces)
        begin = start - utterance.context
        assert np.array_equal(given_samples, everything[begin : begin + len(given_samples)])
        assert begin + len(given_samples) >= end if utterance.was_cut else begin + len(given_samples) == end

    for begin, end in stretches_of_speech(steps, config.min_speech_ms * MODEL_RATE // 1000):
        covered = sum(max(0, min(end, stop) - max(begin, start)) for start, stop in spans)
        assert covered == end - begin, f"speech at {begin}–{end} is in no utterance"


def stretches_of_speech(steps: list[Push | Finish], least: int) -> list[tuple[int, int]]:
    """Where windows of speech stand together, for at least `least` samples or up to a finish."""
    found: list[tuple[int, int]] = []
    begin: int | None = None
    position = 0
    for step in [*steps, Finish(0)]:
        if isinstance(step, Finish):
            if begin is not None:
                found.append((begin, position))
            begin = None
            position += step.rest
            continue
        for window in step.windows:
            spoken = window is not None and window >= 0.5
            if spoken and begin is None:
                begin = position
            elif not spoken and begin is not None:
                if position - begin >= least:
                    found.append((begin, position))
                begin = None
            position += W
    return found


@settings(max_examples=100, deadline=None)
@given(CONFIGS, STEPS, st.integers(1, 5))
def test_how_windows_are_grouped_changes_nothing(config: GateConfig, steps: list[Push | Finish], size: int) -> None:
    told = []
    for windows_a_push in (None, size):
        listener = Listener(SpeechGate(config), [0.5])
        listener.run([*steps, Finish(3)], windows_a_push)
        told.append([(u.start, u.end, u.context, joined(u.pieces).tolist()) for u in listener.heard])
    assert told[0] == told[1]
