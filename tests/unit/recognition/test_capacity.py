"""How many streams fit, by what they were expected and seen to cost."""

import pytest

from trio_stt.recognition.capacity import Capacity, CpuTimes

COST = 0.028


class Machine:
    """A capacity and the streams that use it: each decodes a share of its time, at a cost of its own."""

    def __init__(self, cores=2, cost=COST, real_cost=COST, rest=COST / 7):
        self.capacity = Capacity(cores, cost, max_load=0.8)
        self.real_cost = real_cost
        self.rest = rest
        self.delay_s = 0.0
        self.streams = {}
        self.now = 0.0
        self._cpu_s = self._loop_s = 0.0
        self.capacity.look(0.0, CpuTimes(0, 0), delay_s=0)

    def enter_all_that_fit(self, share=1.0, most=1000, continuous=False):
        entered = 0
        while entered < most and self.capacity.room(continuous=continuous):
            name = f"s{len(self.streams)}-{self.now}"
            self.capacity.enter(name, continuous=continuous)
            self.streams[name] = share
            entered += 1
        return entered

    def leave(self, count):
        for name in list(self.streams)[:count]:
            self.capacity.leave(name)
            del self.streams[name]

    def add_cpu(self, seconds):
        self._cpu_s += seconds

    def run(self, seconds):
        for _ in range(seconds):
            self.now += 1
            for name, share in self.streams.items():
                self.capacity.spent(name, self.real_cost * share)
                self._cpu_s += self.real_cost * share + self.rest
                self._loop_s += self.rest
            self.capacity.look(self.now, CpuTimes(self._cpu_s, self._loop_s), delay_s=self.delay_s)


@pytest.mark.parametrize(("cores", "cost", "streams"), [(2, 0.025, 56), (1, 0.05, 14), (1, 5.0, 1)])
def test_before_any_load_as_many_fit_as_the_calibration_says(cores, cost, streams):
    capacity = Capacity(cores, cost, max_load=0.8)
    assert capacity.calibrated_streams == streams
    assert capacity.room() == streams


def test_a_crowd_that_comes_at_one_moment_is_counted_at_once():
    machine = Machine()
    assert machine.enter_all_that_fit() == 50
    assert machine.capacity.room() == 0


def test_speakers_who_never_pause_keep_their_places_and_few_are_added():
    machine = Machine()
    machine.enter_all_that_fit()
    machine.run(60)
    assert 0 <= machine.capacity.room() <= 3
    assert machine.capacity.load == pytest.approx(1.0, abs=0.05)


def test_conversation_makes_room_for_more():
    machine = Machine()
    for _ in range(20):
        machine.enter_all_that_fit(share=0.45, most=100 - len(machine.streams))
        machine.run(3)
    assert 92 <= len(machine.streams) <= 98  # 1.6 cores ÷ (0.45 × 0.028 + 0.004) = 96
    assert machine.capacity.load <= 1


def test_decoding_that_costs_more_than_was_measured_lets_fewer_in():
    machine = Machine(real_cost=2 * COST)
    machine.enter_all_that_fit(most=20)
    machine.run(120)
    machine.enter_all_that_fit()
    assert 24 <= len(machine.streams) <= 28  # 1.6 ÷ 0.06 = 26


def test_streams_that_are_not_gated_count_in_full_among_conversations():
    machine = Machine()
    machine.enter_all_that_fit(share=0.3, most=40)
    machine.run(120)
    assert machine.capacity.room(continuous=True) < machine.capacity.room()


def test_short_sessions_that_follow_each_other_fit_as_well_as_long_ones():
    machine = Machine()
    machine.enter_all_that_fit(most=45)
    machine.run(10)
    for _ in range(60):
        machine.leave(4)
        machine.enter_all_that_fit(most=4)
        machine.run(1)
    assert len(machine.streams) == 45


def test_room_stays_while_the_load_does():
    machine = Machine()
    machine.enter_all_that_fit(share=0.5)
    seen = []
    for _ in range(120):
        machine.run(1)
        machine.enter_all_that_fit(share=0.5)
        seen.append(len(machine.streams))
    assert seen == sorted(seen)
    assert seen[-1] - seen[60] <= 2


def test_lateness_lowers_capacity_below_what_is_used_and_it_comes_back_slowly():
    machine = Machine()
    machine.enter_all_that_fit(most=30)
    machine.run(20)
    assert machine.capacity.room() > 0
    machine.delay_s = 0.4
    machine.run(1)
    assert machine.capacity.room() == 0
    lowered = machine.capacity.factor
    machine.delay_s = 0.0
    machine.run(10)
    assert machine.capacity.factor - lowered == pytest.approx(0.02)
    machine.run(600)
    assert machine.capacity.factor == 1.0


def test_lasting_lateness_leaves_a_third_of_the_capacity_at_least():
    machine = Machine()
    machine.enter_all_that_fit(most=10)
    machine.delay_s = 2.0
    machine.run(600)
    assert machine.capacity.factor == 0.3


def test_the_event_loop_bounds_what_many_cores_could_decode():
    machine = Machine(cores=64, rest=0.008)
    machine.enter_all_that_fit()
    machine.run(30)
    machine.enter_all_that_fit()
    assert 95 <= len(machine.streams) <= 100  # 0.8 of a core ÷ 0.008


def test_one_speaker_is_let_in_however_slow_the_machine():
    assert Capacity(1, 50.0, max_load=0.8).room() == 1


def test_a_new_calibration_replaces_what_was_assumed():
    capacity = Capacity(2, 0.04, max_load=0.8)
    capacity.calibrate(0.028)
    assert capacity.room() == 50


def test_calls_of_a_stream_that_is_over_are_not_counted():
    machine = Machine()
    machine.enter_all_that_fit(most=1)
    name = next(iter(machine.streams))
    machine.leave(1)
    machine.capacity.spent(name, 100.0)
    machine.run(1)
    assert machine.capacity.load == 0


def test_cores_that_others_have_are_not_counted_on():
    machine = Machine()
    machine.enter_all_that_fit(most=40)
    machine.run(5)
    machine.real_cost /= 2  # what is had of the cores; the streams fall behind
    machine.delay_s = 0.5
    machine.run(20)
    machine.leave(30)
    machine.delay_s = 0.0
    machine.real_cost = COST
    machine.run(5)
    machine.enter_all_that_fit()
    assert 20 <= len(machine.streams) <= 30


def test_a_language_with_a_cost_of_its_own_takes_more_room_and_leaves_what_others_are_expected_to_cost():
    capacity = Capacity(2, COST, max_load=0.8)
    capacity.calibrate_language("de", 5 * COST)
    before = capacity.room()
    assert capacity.room(language="de") < before / 4
    capacity.enter("german", language="de")
    assert capacity.room() == pytest.approx(before - 5, abs=1)
    capacity.leave("german")
    assert capacity.room() == before


def test_a_stream_that_goes_on_in_another_language_counts_with_that_one_s_cost():
    capacity = Capacity(2, COST, max_load=0.8)
    capacity.calibrate_language("de", 5 * COST)
    capacity.enter("ann")
    english = capacity.load
    capacity.change_language("ann", "de")
    assert capacity.load > 3 * english
    capacity.change_language("ann", "en")
    assert capacity.load == pytest.approx(english)
    capacity.leave("ann")
    capacity.change_language("ann", "de")  # over: nothing
    assert capacity.load == pytest.approx(0)


def test_what_streams_of_one_language_cost_says_nothing_of_the_others():
    capacity = Capacity(2, COST, max_load=0.8)
    capacity.calibrate_language("de", COST)
    capacity.enter("german", language="de")
    room = capacity.room(language="en")
    capacity.look(0, CpuTimes(0, 0), delay_s=0)
    for now in range(1, 120):
        capacity.spent("german", 0.001)
        capacity.look(now, CpuTimes(0.005 * now, 0.001 * now), delay_s=0)
    assert capacity.room(language="de") > 1.1 * capacity.room(language="en") >= room


def run_with_one_more(machine, seconds, *, pace, ahead, call_s=0.4):
    """Beside the machine's streams, another is decoded in calls of `call_s`, so many times faster than real time."""
    machine.capacity.enter("another")
    machine.streams["another"] = 0.0
    calls = 0
    for second in range(1, seconds + 1):
        while (calls + 1) * call_s <= second * pace:
            machine.capacity.spent("another", COST * call_s, call_s if ahead else 0.0)
            machine.add_cpu(COST * call_s)
            calls += 1
        machine.run(1)


def test_one_that_is_decoded_ahead_of_time_counts_as_in_real_time_about():
    machine = Machine()
    machine.enter_all_that_fit(most=20)
    machine.run(60)
    alone, room = machine.capacity.load, machine.capacity.room()
    run_with_one_more(machine, 60, pace=10, ahead=True)
    assert machine.capacity.load - alone == pytest.approx(alone / 20, rel=0.25)
    assert room - machine.capacity.room() <= 2


def test_one_that_catches_up_with_what_is_late_counts_with_all_that_it_takes():
    machine = Machine()
    machine.enter_all_that_fit(most=20)
    machine.run(60)
    alone = machine.capacity.load
    run_with_one_more(machine, 60, pace=10, ahead=False)
    assert machine.capacity.load > alone + 6 * alone / 20


@pytest.mark.parametrize("pace", [1.0, 1.1])
def test_one_that_is_always_a_little_ahead_counts_in_full(pace):
    ahead, punctual = Machine(), Machine()
    for machine in ahead, punctual:
        run_with_one_more(machine, 100, pace=pace, ahead=machine is ahead)
    assert ahead.capacity.load == pytest.approx(punctual.capacity.load)


def test_lateness_does_not_take_away_the_cores_that_one_ahead_of_time_has_shown_to_be_there():
    machine = Machine()
    machine.enter_all_that_fit(most=10)
    run_with_one_more(machine, 60, pace=30, ahead=True)
    assert machine.capacity.load < 0.3
    machine.delay_s = 0.4
    machine.run(1)
    assert machine.capacity.factor > 0.6
