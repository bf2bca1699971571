from itertools import pairwise

import numpy as np
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_stt.audio.samples import MODEL_RATE
from trio_stt.audio.utterance_cut import choose_cut, own_words, words_before

MS = MODEL_RATE // 1000
NOISE = (np.random.default_rng(0).standard_normal(2000 * MS) * 1000).astype(np.int16)
TAIL_START = 28_000 * MS


@frozen
class Word:
    text: str
    start: int
    end: int


def word(text: str, start_ms: int, end_ms: int) -> Word:
    return Word(text, start_ms * MS, end_ms * MS)


def test_the_cut_is_the_middle_of_the_widest_gap_between_words() -> None:
    words = [(27_000, 28_300), (28_400, 28_700), (28_900, 29_300), (29_310, 30_000)]
    assert choose_cut([(s * MS, e * MS) for s, e in words], NOISE, TAIL_START) == 28_800 * MS


def test_gaps_outside_the_last_two_seconds_or_among_the_newest_words_do_not_count() -> None:
    words = [(0, 1000), (20_000, 28_200), (28_270, 29_820), (29_950, 30_000)]
    assert choose_cut([(s * MS, e * MS) for s, e in words], NOISE, TAIL_START) == 28_235 * MS


def test_without_a_gap_the_cut_is_at_the_quietest_point() -> None:
    tail = NOISE.copy()
    tail[1200 * MS : 1240 * MS] //= 10
    cut = choose_cut([(0, 29_000 * MS), (29_050 * MS, 30_000 * MS)], tail, TAIL_START)
    assert 29_200 * MS < cut < 29_240 * MS


@settings(deadline=None)
@given(st.integers(1, 2 * MODEL_RATE), st.lists(st.integers(0, 40_000), max_size=12))
def test_a_cut_always_lies_behind_the_tails_start_and_not_behind_its_end(length: int, times: list[int]) -> None:
    times.sort()
    cut = choose_cut(list(zip(times[::2], times[1::2], strict=False)), NOISE[:length], 10_000)
    assert 10_000 < cut <= 10_000 + length


CUT = 1000 * MS


def both(previous: list[Word], current: list[Word]) -> list[str]:
    return [w.text for w in words_before(previous, CUT)] + [w.text for w in own_words(previous, current, CUT)]


def test_a_word_that_both_decodings_place_across_the_cut_stands_in_the_first_final_alone() -> None:
    assert both([word("of", 700, 900), word("clubs", 980, 1300)], [word("clubs", 1020, 1320)]) == ["of", "clubs"]


def test_a_word_that_the_first_places_behind_and_the_second_before_the_cut_is_not_lost() -> None:
    assert both([word("of", 700, 900), word("clubs", 1020, 1300)], [word("clubs", 980, 1310)]) == ["of", "clubs"]


def test_words_of_the_context_are_not_repeated_even_when_heard_otherwise() -> None:
    assert both([word("queen", 300, 700)], [word("clean", 310, 700), word("of", 1100, 1200)]) == ["queen", "of"]


def test_a_sent_word_that_is_heard_otherwise_behind_the_cut_is_not_given_twice() -> None:
    assert both([word("seven", 950, 1300)], [word("evan", 1010, 1310), word("of", 1400, 1500)]) == ["seven", "of"]


def test_an_unsent_word_that_is_heard_otherwise_before_the_cut_is_not_lost() -> None:
    assert both([word("four", 1010, 1300)], [word("for", 960, 1300)]) == ["for"]


def test_a_word_said_twice_stays_twice() -> None:
    previous = [word("very", 760, 980), word("very", 1010, 1250)]
    assert both(previous, [word("very", 790, 990), word("very", 1000, 1240), word("good", 1250, 1500)]) == [
        "very",
        "very",
        "good",
    ]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(200, 500), st.integers(0, 300)), min_size=1, max_size=10),
    st.lists(st.integers(-95, 95), min_size=10, max_size=10),
    st.integers(0, 10),
)
def test_no_word_is_lost_or_doubled_by_jitter(
    said: list[tuple[str, int, int]], jitter_ms: list[int], heard_by_first: int
) -> None:
    previous: list[Word] = []
    position = 0
    for text, length, gap in said:
        previous.append(word(text, position + gap, position + gap + length))
        position += gap + length
    starts = [w.start + shift * MS for w, shift in zip(previous, jitter_ms, strict=False)]
    current = [
        evolve(w, start=start, end=max(start + 50 * MS, min(w.end, following)))
        for w, start, following in zip(previous, starts, [*starts[1:], 10**9], strict=True)
    ]
    assert all(one.start < other.start for one, other in pairwise(current))
    # The first decoding hears what begins before the cut and maybe some words behind it.
    first = [w for index, w in enumerate(previous) if w.start < CUT or index < heard_by_first]
    assert both(first, current) == [text for text, _, _ in said]
