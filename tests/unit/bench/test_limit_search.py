import math
import random

import pytest

from trio_stt.bench.limit_search import LimitSearch


def found(holds, first=8, **options) -> tuple[float, int]:
    """The limit, and after how many measurements it was found."""
    search = LimitSearch(first, **options)
    count = 0
    while search.next is not None:
        search.note(holds(search.next))
        count += 1
        assert count < 200
    return search.limit, count


@pytest.mark.parametrize("limit", [1, 2, 13, 56, 100, 1500])
def test_a_limit_that_stands_still_is_found_within_a_twentieth(limit):
    measured, count = found(lambda load: load <= limit)
    assert measured == pytest.approx(limit, rel=0.05, abs=1)
    assert count <= 25


def test_the_first_load_may_be_far_too_large():
    assert found(lambda load: load <= 13, first=400)[0] == pytest.approx(13, abs=1)


def test_a_server_that_holds_nobody_has_the_limit_0():
    assert found(lambda load: False)[0] == 0


def test_on_a_machine_whose_speed_drifts_the_limit_is_right_on_average():
    dice = random.Random(5)
    limits = [found(lambda load: load <= 56 * math.exp(dice.gauss(0, 0.1)))[0] for _ in range(200)]
    assert sum(limits) / len(limits) == pytest.approx(56, rel=0.05)


def test_a_search_that_has_ended_takes_no_more_and_one_that_has_not_knows_no_limit():
    search = LimitSearch(1)
    with pytest.raises(RuntimeError, match="not found yet"):
        _ = search.limit
    search.note(False)
    with pytest.raises(RuntimeError, match="found already"):
        search.note(True)
