import pytest

from trio_stt.bench.robust_measures import jain_index, theil_sen_slope


@pytest.mark.parametrize(
    ("shares", "index"), [([0.3] * 7, 1.0), ([1, 0, 0, 0], 0.25), ([1, 1, 0, 0], 0.5), ([0, 0], 1.0), ([2], 1.0)]
)
def test_jain_index_is_1_for_equal_shares_and_the_part_that_gets_all_otherwise(shares, index):
    assert jain_index(shares) == pytest.approx(index)


def test_the_slope_of_a_line_is_its_slope():
    assert theil_sen_slope([0, 1, 2, 5], [10, 13, 16, 25]) == pytest.approx(3)


def test_a_quarter_of_wild_readings_does_not_bend_the_slope():
    x = list(range(40))
    y = [2.0 * at + (500 if at % 4 == 0 else 0) for at in x]
    assert theil_sen_slope(x, y) == pytest.approx(2, abs=0.1)


def test_readings_at_the_same_moment_have_no_slope_between_them():
    assert theil_sen_slope([0, 0, 1], [1, 3, 2]) == pytest.approx(0)
