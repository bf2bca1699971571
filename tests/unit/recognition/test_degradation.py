"""Which level of service holds."""

import pytest

from trio_stt.recognition.degradation import HOLD_S, REFUSAL_HOLD_S, Degradation


def names(degradation, *, seconds, delay_s=0.0, load=0.0, since=0.0):
    return [degradation.update(since + now, delay_s=delay_s, load=load).name for now in range(round(seconds) + 1)]


def test_an_instance_at_ease_gives_everything():
    level = Degradation(chunk_ms=100).update(0.0, delay_s=0.0, load=0.5)
    assert (level.name, level.partial_every_ms, level.chunk_ms, level.admits) == ("full", 0, 100, True)


@pytest.mark.parametrize(
    ("delay_s", "load", "name"),
    [
        (0.06, 0.0, "fewer_partials"),
        (0.0, 0.8, "fewer_partials"),
        (0.12, 0.0, "larger_chunks"),
        (0.0, 0.9, "larger_chunks"),
        (0.25, 0.0, "refuse_new"),
        (0.0, 1.5, "larger_chunks"),
    ],
)
def test_a_level_holds_as_soon_as_delay_or_load_asks_for_it(delay_s, load, name):
    assert Degradation(chunk_ms=100).update(0.0, delay_s=delay_s, load=load).name == name


def test_each_level_costs_no_more_than_the_one_before():
    degradation = Degradation(chunk_ms=100)
    levels = [degradation.update(0.0, delay_s=delay_s, load=0.0) for delay_s in (0.0, 0.06, 0.12, 0.25)]
    assert [level.number for level in levels] == [0, 1, 2, 3]
    assert sorted(level.partial_every_ms for level in levels) == [level.partial_every_ms for level in levels]
    assert [level.chunk_ms for level in levels] == [100, 100, 400, 400]
    assert [level.admits for level in levels] == [True, True, True, False]


def test_chunks_that_are_set_longer_stay_so():
    degradation = Degradation(chunk_ms=1000)
    assert degradation.update(0.0, delay_s=1.0, load=1.0).chunk_ms == 1000


def test_after_an_overload_the_levels_come_back_one_by_one():
    degradation = Degradation(chunk_ms=100)
    degradation.update(0.0, delay_s=1.0, load=1.0)
    came = names(degradation, seconds=REFUSAL_HOLD_S + 2 * HOLD_S)
    assert list(dict.fromkeys(came)) == ["refuse_new", "larger_chunks", "fewer_partials", "full"]


def test_between_leaving_and_entering_nothing_changes():
    degradation = Degradation(chunk_ms=100)
    degradation.update(0.0, delay_s=0.0, load=0.9)
    assert set(names(degradation, seconds=60, delay_s=0.03, load=0.75)) == {"larger_chunks"}


def test_what_a_level_saves_does_not_bring_the_one_before_back():
    # A fifth is saved by larger chunks: load swings between what it is with and without them.
    degradation = Degradation(chunk_ms=100)
    came = []
    for now in range(120):
        saves = degradation.level.number >= 2
        came.append(degradation.update(float(now), delay_s=0.0, load=0.95 * (0.8 if saves else 1.0)).name)
    assert came == ["larger_chunks"] * 120
