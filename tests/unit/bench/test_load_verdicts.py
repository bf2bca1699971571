"""What is made of a measured load: held or not, goodput and fairness, neighbours, what CPU was whose."""

from array import array

import attrs
import pytest

from trio_stt.bench.capacity import Step
from trio_stt.bench.figures import percentiles
from trio_stt.bench.generator.load import Connection, LoadResult
from trio_stt.bench.measured_load import Measured, Usage
from trio_stt.bench.overload import good_shares, judge
from trio_stt.bench.plot import plot_lag
from trio_stt.bench.stream_lag import Answered
from trio_stt.bench.word_errors import WordErrors

USAGE = Usage(decoder_s=0.02, gate_s=None, server_s=0.01, decoded_audio_s=0.5, resident_mb=400)


def measured(lags_s=(0.1,) * 100, connections=(), **changes) -> Measured:
    found = tuple(Answered(number % 4, 0.0, 0.1, lag_s) for number, lag_s in enumerate(lags_s))
    made = Measured(
        server="server",
        talkers=4,
        lag=percentiles(lags_s),
        last_words=None,
        errors=WordErrors(0, 0),
        unanswered=0,
        refused=0,
        dropped=0,
        usage=USAGE,
        generator_s=0.001,
        generator_cores=0.1,
        microseconds_a_message=50,
        late_p99_s=0.001,
        others_cores=0.0,
        found=found,
        result=LoadResult(tuple(connections), array("d"), 10.0, 0.0, 0),
    )
    return attrs.evolve(made, **changes)


def test_a_load_is_held_if_95_of_100_answers_come_in_time_and_nobody_is_lost():
    assert measured([0.1] * 96 + [9.0] * 4).holds(0.5)
    assert not measured([0.1] * 93 + [9.0] * 7).holds(0.5)
    assert not measured(lag=None).holds(0.5)
    for trouble in ("unanswered", "refused", "dropped"):
        assert not measured(**{trouble: 1}).holds(0.5)


def test_a_generator_that_is_too_late_or_too_busy_is_called_the_bottleneck():
    assert measured().notes() == []
    assert "bottleneck" in measured(late_p99_s=0.03).notes()[0]
    assert "bottleneck" in measured(generator_cores=0.9).notes()[0]
    assert "other processes" in measured(others_cores=0.5).notes()[0]


def test_the_servers_cpu_is_compared_with_the_raw_engines_for_what_was_decoded():
    assert Step(measured(), raw_cpu_s=0.04, held=True).times_raw == pytest.approx(0.03 / (0.5 * 0.04))
    ungated = attrs.evolve(USAGE, decoded_audio_s=None)
    assert Step(measured(usage=ungated), 0.04, True).times_raw == pytest.approx(0.03 / 0.04)
    assert Step(measured(usage=None), 0.04, True).times_raw is None


def test_goodput_is_audio_whose_caption_came_within_a_second():
    found = judge(2.0, measured([0.2] * 80 + [1.5] * 20), seconds=10)
    assert found.goodput == pytest.approx(0.8)
    assert found.lag_p99_s == pytest.approx(1.5)


def test_unanswered_audio_is_no_goodput_and_fairness_is_that_of_those_let_in():
    found = [Answered(0, 0.0, 2.0, 0.1), Answered(1, 0.0, 1.0, 0.1), Answered(1, 0.0, 1.0, 0.1, answered=False)]
    assert good_shares(found) == {0: 1.0, 1: 0.5}


def test_refusals_are_timed_and_those_let_in_are_counted_once():
    def connection(talker, status, answered_at):
        return Connection(talker, 0, 0, began_at=1.0, answered_at=answered_at, status=status)

    connections = [
        connection(0, 101, 1.1),
        connection(0, 101, 1.1),
        connection(1, 503, 1.02),
        connection(1, 503, 1.04),
        connection(2, 0, None),
    ]
    found = judge(2.0, measured(connections=connections), seconds=10)
    assert (found.admitted, found.refusals) == (1, 2)
    assert found.refusal_p99_s == pytest.approx(0.04, abs=0.001)


def test_a_plot_is_a_picture_that_loads_nothing_from_elsewhere(tmp_path):
    steps = [Step(measured(talkers=load), 0.03, True) for load in (10, 20, 20)]
    plot_lag(tmp_path / "plots" / "lag.svg", "speech", steps)
    picture = (tmp_path / "plots" / "lag.svg").read_text("utf-8")
    assert picture.count("server, p95")
    assert "src=" not in picture
    assert "href=" not in picture
