import pytest

from trio_stt.bench.final_latency import final_latencies
from trio_stt.bench.load import ReceivedFinal, Speaker
from trio_stt.bench.script import Script, SpokenClip

# Frames of 100 ms, each sent at its end: frame n at (n + 1) / 10 s. A clip from 1.0 to 2.05 s is all sent at 2.1 s.
CLIP = SpokenClip("a", 16000, 32800)


def speaker(*finals, clips=(CLIP,)):
    script = Script((b"",) * 40, 1600, 64000, clips)
    return Speaker("me", "call", script, sent_at_s=[(n + 1) / 10 for n in range(40)], finals=list(finals))


def test_the_latency_runs_from_the_frame_with_the_last_sample_to_the_final():
    found = final_latencies([speaker(ReceivedFinal(14000, 33000, "hello", 2.45))])
    assert found.seconds == (pytest.approx(0.35),)
    assert found.without_final == 0


def test_of_several_finals_of_a_clip_the_last_counts():
    early = ReceivedFinal(14000, 20000, "hello", 1.6)
    last = ReceivedFinal(21000, 33000, "there", 2.5)
    assert final_latencies([speaker(early, last)]).seconds == (pytest.approx(0.4),)


def test_an_empty_final_and_one_of_another_moment_are_no_finals_of_a_clip():
    found = final_latencies([speaker(ReceivedFinal(14000, 33000, "", 2.4), ReceivedFinal(40000, 50000, "later", 3.4))])
    assert found.seconds == ()
    assert found.without_final == 1


def test_a_clip_that_ends_with_its_frame_is_sent_with_it():
    clip = SpokenClip("a", 16000, 32000)
    assert final_latencies([speaker(ReceivedFinal(14000, 33000, "hello", 2.3), clips=(clip,))]).seconds == (
        pytest.approx(0.3),
    )
