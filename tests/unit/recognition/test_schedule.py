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


# ── catch-up after a resume ──────────────────────────────────────────────────────────────────────────────────────


def test_catch_up_gets_at_most_every_second_call_while_others_are_due(schedule):
    for n in range(10):
        schedule.put(Job("late", Turn(0.0, 0.1, f"tenant {n}", n % 2 == 0, catch_up=True)))
        put(schedule, "live", 1.0)
    order = taken(schedule, 2.0)
    assert order == ["late", "live"] * 10


def test_catch_up_gets_at_most_half_of_the_audio_while_others_are_due(schedule):
    for _ in range(3):
        schedule.put(Job("late", Turn(0.0, 0.4, catch_up=True)))
    for _ in range(10):
        put(schedule, "live", 1.0, audio_s=0.1)
    order = taken(schedule, 2.0)
    assert order == ["late", *["live"] * 4] * 2 + ["late", "live", "live"]


def test_catch_up_comes_before_what_is_sent_ahead_of_time_and_alone_waits_for_nobody(schedule):
    put(schedule, "ahead", 100.0)
    for _ in range(3):
        schedule.put(Job("late", Turn(0.0, 0.4, catch_up=True)))
    assert taken(schedule, 1.0) == ["late", "late", "late", "ahead"]


def test_catch_up_that_is_withdrawn_holds_nobody_up(schedule):
    late = Job("late", Turn(0.0, 0.4, catch_up=True))
    schedule.put(late)
    put(schedule, "live", 1.0)
    schedule.withdraw(late)
    assert len(schedule) == 1
    assert taken(schedule, 2.0) == ["live"]


class Room:
    """One thread, ten people who speak, and fifty streams that were resumed at one moment; on a clock of its own."""

    COST = 0.045  # seconds a second of audio: the ten use 45 % of the thread
    LIVE, CHUNK_S = 10, 0.1
    RESUMED, HELD_S, LONG_CHUNK_S = 50, 5.0, 0.4

    def __init__(self, schedule, *, told_apart):
        self.schedule = schedule
        self.told_apart = told_apart
        self.live_delays_s = []
        self.caught_up_at = 0.0

    def run(self, seconds):
        now = 0.0
        next_due = [n * self.CHUNK_S / self.LIVE for n in range(self.LIVE)]
        waiting = set()
        left_s = [self.HELD_S] * self.RESUMED
        for n in range(self.RESUMED):
            self._put_late(n, now)
        while now < seconds:
            for n, due in enumerate(next_due):
                if due <= now and n not in waiting:
                    waiting.add(n)
                    self.schedule.put(Job(n, Turn(due, self.CHUNK_S)))
            job = self.schedule.take(now)
            if job is None:
                now = min(next_due)
                continue
            began, now = now, now + job.turn.audio_s * self.COST
            if job.name in waiting:
                self.live_delays_s.append(began - job.turn.due)
                waiting.remove(job.name)
                next_due[job.name] += self.CHUNK_S
            else:
                n = job.name - self.LIVE
                left_s[n] -= self.LONG_CHUNK_S
                self.caught_up_at = now
                if left_s[n] > 0:
                    self._put_late(n, now)

    def _put_late(self, n, now):
        self.schedule.put(Job(self.LIVE + n, Turn(now, self.LONG_CHUNK_S, catch_up=self.told_apart)))


def test_people_who_speak_keep_their_lag_while_many_streams_catch_up_and_these_are_soon_done(schedule):
    room = Room(schedule, told_apart=True)
    room.run(40)
    assert max(room.live_delays_s) < 0.06
    work_s = room.RESUMED * room.HELD_S * room.COST
    assert room.caught_up_at < 1.2 * work_s / (1 - 0.45)


def test_if_they_were_not_told_apart_people_who_speak_would_wait_for_all_of_them(schedule):
    room = Room(schedule, told_apart=False)
    room.run(40)
    assert max(room.live_delays_s) > 0.5
