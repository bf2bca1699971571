import pytest
from attrs import define

from trio_stt.recognition.schedule import FINAL_HEAD_START_S, Schedule, Turn


@define(eq=False)
class Job:
    name: str
    turn: Turn


@pytest.fixture
def schedule():
    return Schedule()


def put(schedule, name, due, audio_s=0.1, tenant="", ends=False):
    job = Job(name, Turn(due, audio_s, tenant, ends))
    schedule.put(job)
    return job


def taken(schedule, now):
    names = []
    while (job := schedule.take(now)) is not None:
        names.append(job.name)
    return names


def test_calls_are_made_in_the_order_in_which_they_are_due(schedule):
    put(schedule, "late", 3.0)
    put(schedule, "early", 1.0)
    put(schedule, "middle", 2.0)
    assert taken(schedule, 10.0) == ["early", "middle", "late"]
    assert len(schedule) == 0


def test_calls_due_at_the_same_time_keep_their_order(schedule):
    for name in "abcd":
        put(schedule, name, 1.0)
    assert taken(schedule, 1.0) == list("abcd")


def test_audio_sent_ahead_of_time_is_decoded_when_nobody_else_waits(schedule):
    put(schedule, "ahead", 100.0)
    assert taken(schedule, 1.0) == ["ahead"]


def test_who_sends_ahead_of_time_comes_after_all_whose_calls_are_due(schedule):
    put(schedule, "ahead", 100.0, tenant="hasty")
    for name in "abc":
        put(schedule, name, 1.0, tenant="calm")
    assert taken(schedule, 1.0) == ["a", "b", "c", "ahead"]


def test_an_ending_overtakes_calls_that_are_due_a_little_before_it(schedule):
    put(schedule, "partial", 1.0)
    put(schedule, "long due", 1.0 - 2 * FINAL_HEAD_START_S)
    put(schedule, "final", 1.1, ends=True)
    assert taken(schedule, 2.0) == ["long due", "final", "partial"]


def test_a_tenant_with_many_calls_does_not_delay_one_with_few(schedule):
    for n in range(100):
        put(schedule, f"crowd-{n}", 1.0, audio_s=0.4, tenant="crowd")
    for n in range(3):
        put(schedule, f"single-{n}", 2.0, audio_s=0.4, tenant="single")
    order = taken(schedule, 5.0)
    assert [order.index(f"single-{n}") for n in range(3)] == [1, 3, 5]


def test_tenants_share_by_audio_not_by_calls(schedule):
    for _ in range(40):
        put(schedule, "long", 1.0, audio_s=0.4, tenant="long calls")
        put(schedule, "short", 1.0, audio_s=0.1, tenant="short calls")
    first = [schedule.take(5.0).name for _ in range(30)]
    assert first.count("short") / first.count("long") == pytest.approx(4, rel=0.2)


def test_who_had_nothing_waiting_has_no_credit(schedule):
    put(schedule, "a", 1.0, audio_s=0.1, tenant="a")
    put(schedule, "b", 1.0, audio_s=0.1, tenant="b")
    assert set(taken(schedule, 5.0)) == {"a", "b"}
    for _ in range(8):
        put(schedule, "a", 1.0, audio_s=0.4, tenant="a")
        put(schedule, "b", 1.0, audio_s=0.4, tenant="b")
    order = taken(schedule, 5.0)
    assert all(order[n] != order[n + 1] for n in range(15))


def test_a_withdrawn_call_is_never_made(schedule):
    first = put(schedule, "first", 1.0)
    put(schedule, "second", 2.0)
    last = put(schedule, "last", 3.0, tenant="other")
    schedule.withdraw(first)
    schedule.withdraw(last)
    assert len(schedule) == 1
    assert taken(schedule, 5.0) == ["second"]
    put(schedule, "again", 1.0, tenant="other")
    assert taken(schedule, 5.0) == ["again"]
