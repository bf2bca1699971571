"""Who is let in, and what the others are told."""

import pytest
import trio

from trio_stt.dialects.events import StreamRequest
from trio_stt.gateway.admission import BEHIND_HOLD_S, Admission, Readiness
from trio_stt.gateway.quotas import Quota, Quotas
from trio_stt.recognition.breaker import Breaker
from trio_stt.recognition.capacity import Capacity, CpuTimes
from trio_stt.recognition.degradation import Degradation


class Model:
    def __init__(self, language):
        self.breaker = Breaker(language, min_calls=4, wait_s=5)


class Models(dict):
    """Models by language, all loaded."""

    find = dict.get

    @property
    def admits(self):
        return any(model.breaker.admits for model in self.values())


class Door:
    """An admission whose clients stay."""

    def __init__(self, **changes):
        self.capacity = Capacity(1, 0.07, max_load=0.8)  # room for ten
        self.degradation = Degradation(chunk_ms=100)
        self.models = Models({language: Model(language) for language in ("en", "de")})
        self.admission = Admission(
            **{
                "models": self.models,
                "max_speakers": 500,
                "max_listeners": 1000,
                "quotas": Quotas(Quota()),
                "capacity": self.capacity,
                "degradation": self.degradation,
                "replaces": lambda request: request.client_id == "back",
                **changes,
            }
        )
        self.admission.readiness = Readiness.READY
        self._places = []

    def let_in(self, client="ann", **request):
        request = StreamRequest(client, "call", **request)
        assert self.admission.check(request) is None
        place = self.admission.place(request, f"stream-{len(self._places)}")
        held = place.__enter__()
        self._places.append(place)
        return held

    def let_one_out(self):
        self._places.pop().__exit__(None, None, None)

    def refusal(self, client="bob", **request):
        return self.admission.check(StreamRequest(client, "call", **request))


async def test_speakers_are_refused_when_no_more_fit_and_let_in_when_one_has_gone():
    door = Door()
    for _ in range(10):
        door.let_in()
    assert door.refusal().code == "full"
    assert door.admission.speakers_limit == 10
    door.let_one_out()
    assert door.refusal() is None


async def test_the_bound_that_was_set_holds_below_what_the_machine_could_do():
    door = Door(max_speakers=3)
    for _ in range(3):
        door.let_in()
    refusal = door.refusal()
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "full", 2)


async def test_who_comes_back_is_let_in_whatever_the_load():
    door = Door()
    for _ in range(10):
        door.let_in()
    door.degradation.update(0, delay_s=1.0, load=2.0)
    assert door.refusal("back") is None


async def test_a_stream_whose_client_is_away_holds_no_place_but_its_client_finds_one():
    door = Door(max_speakers=2, quotas=Quotas(Quota(streams=2)))
    door.let_in("ann").park(lambda: None)
    assert (door.admission.speakers, door.admission.parked) == (0, 1)
    door.let_in("bob")
    door.let_in("eve")
    assert door.refusal("joe").code == "too_many_streams"
    door.let_in("ann", resume=True, framing="seq")
    assert (door.admission.speakers, door.admission.speakers_limit) == (3, 3)
    for _ in range(4):
        door.let_one_out()
    assert (door.admission.speakers, door.admission.parked) == (0, 0)
    assert door.capacity.load == 0


async def test_load_counts_those_who_are_there():
    door = Door()
    for number in range(10):
        door.let_in(f"client {number}").park(lambda: None)
    assert door.refusal() is None
    assert door.capacity.load == 0


async def test_of_too_many_streams_whose_clients_are_away_the_oldest_ends():
    door, ended = Door(max_speakers=2), []
    for name in ("ann", "bob", "eve"):
        door.let_in(name).park(lambda name=name: ended.append(name))
    assert (ended, door.admission.parked) == (["ann"], 2)


async def test_where_recognisers_are_short_a_stream_whose_client_is_away_keeps_its_place():
    door = Door(max_speakers=2)
    door.admission.parked_hold_places = True
    door.let_in("ann").park(lambda: None)
    door.let_in("bob")
    assert door.refusal("eve").code == "full"
    assert door.admission.speakers_limit == 1
    assert door.refusal("ann", resume=True) is None


async def test_new_speakers_wait_while_resumed_streams_are_behind_and_for_a_while_after(autojump_clock):
    behind = 2
    door = Door(behind=lambda: behind)
    assert "come first" in door.refusal().message
    assert door.refusal().code == "full"
    assert door.admission.speakers_limit == 10  # there are places: no more instances are needed
    assert door.refusal(speak=False) is None
    assert door.refusal("ann", resume=True) is None
    assert door.refusal("back") is None
    behind = 0
    await trio.sleep(BEHIND_HOLD_S - 1)
    assert door.refusal().code == "full"
    await trio.sleep(1)
    assert door.refusal() is None
    assert door.admission.speakers_limit == 10


async def test_lateness_refuses_new_speakers_but_no_listeners():
    door = Door()
    door.let_in()
    door.degradation.update(0, delay_s=0.3, load=0.1)
    assert door.refusal().code == "full"
    assert "late" in door.refusal().message
    assert door.admission.speakers_limit == 1
    assert door.refusal(speak=False) is None


async def test_an_open_breaker_refuses_the_speakers_of_its_model_alone():
    door = Door()
    door.models["de"].breaker.trip()
    assert door.refusal(language="de-AT").code == "recogniser_unavailable"
    assert door.refusal(language="en") is None
    assert door.admission.ready
    door.models["en"].breaker.trip()
    assert not door.admission.ready


async def test_speakers_of_a_language_that_costs_more_find_less_room():
    door = Door()
    door.capacity.calibrate_language("de", 0.35)
    for _ in range(8):
        door.let_in()
    assert door.refusal(language="de").code == "full"
    assert door.refusal(language="en") is None


async def test_a_language_without_a_model_is_for_listeners_only():
    door = Door()
    assert (door.refusal(language="fr").status, door.refusal(language="fr").code) == (400, "language_unavailable")
    assert door.refusal(language="fr", speak=False) is None
    assert door.admission.knows("de-AT")
    assert not door.admission.knows("fr")


async def test_the_more_are_refused_the_longer_they_are_told_to_wait(autojump_clock):
    door = Door(max_speakers=1)
    door.let_in()
    waits = [door.refusal().retry_after_s for _ in range(1000)]
    assert waits[0] == 2
    assert waits == sorted(waits)
    assert waits[-1] == 30
    await trio.sleep(60)
    assert door.refusal().retry_after_s == 2


@pytest.mark.parametrize(("gated", "continuous"), [(False, False), (True, True)])
async def test_ungated_streams_are_counted_as_such(gated, continuous):
    door = Door(gated=gated)
    request = StreamRequest("ann", "call")
    with door.admission.place(request, "s", continuous=continuous):
        for now in range(300):
            door.capacity.spent("s", 0.001)  # hardly anything
            door.capacity.look(float(now), CpuTimes(0.002 * now, 0.001 * now), delay_s=0)
    assert door.capacity.room(continuous=True) > 1.2 * door.capacity.room(continuous=False)
