"""How many instances: more when places run short, fewer after a long time of ease. Times are passed in."""

import pytest

from trio_stt.fleet.autoscale import EASE_S, SETTLE_S, Autoscale, Use


class Fleet:
    """An autoscaled fleet whose instances have ten places each, looked at every 2 s."""

    def __init__(self, instances: int, least: int = 1, most: int = 4) -> None:
        self.instances = instances
        self.least = least
        self.most = most
        self.now = 1000.0
        self._autoscale = Autoscale()

    def after(self, seconds: float, streams: int, *, silent: int = 0) -> int:
        """How many there are after so long with so many streams in all; `silent` instances do not answer."""
        until = self.now + seconds
        while self.now < until:
            self.now += 2
            use = [Use(streams if number == 0 else 0, 10) for number in range(self.instances - silent)]
            self.instances = self._autoscale.decide(
                self.now, use, instances=self.instances, least=self.least, most=self.most
            )
        return self.instances


def test_more_at_once_when_four_fifths_of_the_places_are_taken() -> None:
    fleet = Fleet(2)
    assert fleet.after(60, 15) == 2
    assert fleet.after(2, 16) == 3


def test_a_new_instance_is_given_time_before_another_is_started() -> None:
    fleet = Fleet(1)
    assert fleet.after(SETTLE_S - 2, 100) == 2
    assert fleet.after(4, 100) == 3
    assert fleet.after(100, 100) == 4
    assert fleet.after(100, 100) == 4


def test_fewer_only_after_a_long_time_without_a_break() -> None:
    fleet = Fleet(4)
    assert fleet.after(EASE_S - 10, 10) == 4
    assert fleet.after(4, 20) == 4
    assert fleet.after(EASE_S - 10, 10) == 4
    assert fleet.after(20, 10) == 3
    assert fleet.after(EASE_S - 20, 0) == 3
    assert fleet.after(10 * EASE_S, 0) == 1


def test_not_fewer_if_the_rest_would_be_half_full() -> None:
    assert Fleet(2).after(10 * EASE_S, 6) == 2
    assert Fleet(2).after(10 * EASE_S, 5) == 1


def test_nothing_is_concluded_from_half_of_the_answers() -> None:
    assert Fleet(3).after(10 * EASE_S, 0, silent=1) == 3
    assert Fleet(3).after(10 * EASE_S, 30, silent=1) == 3


@pytest.mark.parametrize(("instances", "expected"), [(1, 2), (6, 4)])
def test_bounds_hold_at_once(instances: int, expected: int) -> None:
    assert Fleet(instances, least=2).after(2, 10) == expected
