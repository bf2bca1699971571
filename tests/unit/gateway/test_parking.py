"""Streams that wait for their clients: how many there may be, and whom they expect."""

from contextlib import ExitStack

import pytest

from trio_stt.dialects.events import StreamRequest
from trio_stt.gateway.parking import Parking


class Place:
    """A parking place where three streams may wait, of tenant "small" one."""

    def __init__(self):
        self.parking = Parking(most=lambda: 3, most_of_tenant=lambda tenant: 1 if tenant == "small" else 0)
        self.ended = []
        self.held = ExitStack()

    def park(self, client, tenant="big"):
        self.held.enter_context(self.parking.park(request_of(client, tenant), lambda: self.ended.append(client)))


def request_of(client, tenant="big", **changes):
    return StreamRequest(client, "call", **{"tenant": tenant, **changes})


@pytest.fixture
def place():
    return Place()


def test_of_too_many_the_one_that_waited_longest_ends(place):
    for client in ("a", "b", "c"):
        place.park(client)
    assert (place.ended, len(place.parking)) == ([], 3)
    place.park("d")
    place.park("e")
    assert (place.ended, len(place.parking)) == (["a", "b"], 3)
    place.held.close()
    assert (place.ended, len(place.parking)) == (["a", "b"], 0)


def test_a_tenant_that_has_many_takes_nothing_from_another(place):
    place.park("first", "modest")
    for client in ("a", "b", "c", "d"):
        place.park(client)
    assert place.ended == ["a", "b"]
    assert place.parking.expects(request_of("first", "modest"))


def test_a_tenant_has_no_more_than_it_may_have_streams(place):
    place.park("a", "big")
    place.park("b", "small")
    place.park("c", "small")
    assert (place.ended, len(place.parking)) == (["b"], 2)


def test_one_connection_is_expected_for_a_stream_that_waits_and_again_when_that_is_gone(place):
    assert not place.parking.expects(request_of("a"))
    place.park("a")
    assert place.parking.expects(request_of("a"))
    for other in (request_of("b"), request_of("a", "small"), request_of("a", speak=False)):
        assert not place.parking.expects(other)
    with place.parking.come_back(request_of("a")):
        assert not place.parking.expects(request_of("a"))
    assert place.parking.expects(request_of("a"))
    place.held.close()
    assert not place.parking.expects(request_of("a"))
