import pytest

from trio_stt.sessions.pace import BEAT_MS, next_beat


@pytest.mark.parametrize("chunk_ms", [100, 200, 300, 400])
def test_a_stream_has_a_beat_for_each_chunk(chunk_ms):
    now = 12.345
    for _ in range(20):
        following = next_beat(now, chunk_ms, number=7)
        assert now < following
        now = following
    assert now == pytest.approx(next_beat(12.345, chunk_ms, number=7) + 19 * chunk_ms / 1000)


def test_streams_are_spread_evenly_over_the_beats_of_a_chunk():
    beats = [round(next_beat(5.0, 400, number) * 1000 / BEAT_MS) for number in range(100)]
    assert {beat: beats.count(beat) for beat in beats} == {51: 25, 52: 25, 53: 25, 54: 25}


def test_streams_of_one_beat_wake_at_the_very_same_time():
    assert next_beat(1.01, 400, 3) == next_beat(1.0999, 400, 3) == next_beat(1.05, 400, 7)
