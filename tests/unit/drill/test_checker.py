"""The drills' checker finds every planted fault, and nothing in what is right."""

import pytest

from trio_stt.client.resume_events import Ended, EndReason, Interrupted, Lost, Restarted, Resumed
from trio_stt.dialects.events import Ack, Failure, Ready, Transcript
from trio_stt.drill.checker import disorder, miscounted, visible_errors

READY = Ready("call", "ann", "s", "en", 16000, "pcm_s16le", 1, 0, None, 500, 0, 5000, "one")
PHRASES = [(100, 200), (300, 400)]


def final(start: int, end: int, name: str = "", client: str = "ann") -> Transcript:
    return Transcript("call", client, "s", name or f"s-{start}", "w", True, "en", start, end, 16000, 0.0)


RIGHT = [final(90, 210), Ack(250), final(260, 400)]


def test_nothing_is_wrong_with_what_is_right():
    assert disorder(RIGHT, "ann") == []
    assert miscounted(PHRASES, [RIGHT[0], RIGHT[2]]) == []


@pytest.mark.parametrize(
    "events",
    [
        [RIGHT[2], RIGHT[0]],
        [*RIGHT, RIGHT[2]],
        [final(90, 210), final(205, 400)],
        [final(90, 210, "same"), final(300, 400, "same")],
        [final(90, 210), Ack(301), final(300, 400)],
        [Ack(250), Ack(240)],
        [final(210, 90)],
    ],
    ids=["disorder", "doubled", "overlapping", "one name for two", "before its ack", "ack goes back", "backwards"],
)
def test_a_planted_fault_of_order_is_found(events):
    assert disorder(events, "ann")


def test_the_finals_of_others_are_their_own_affair():
    assert disorder([final(90, 210), final(0, 300, client="bob"), final(210, 300)], "ann") == []


@pytest.mark.parametrize(
    ("finals", "bad"),
    [
        ([], 200),
        ([final(90, 210)], 100),
        ([final(90, 199), final(300, 400)], 1),
        ([final(101, 210), final(300, 400)], 1),
        ([final(90, 210), final(300, 350), final(340, 400)], 10),
        ([final(90, 210), final(300, 400), final(300, 400)], 100),
    ],
    ids=["all missing", "one missing", "end cut off", "begin cut off", "overlap", "doubled"],
)
def test_samples_that_are_not_in_exactly_one_final_are_counted(finals, bad):
    assert sum(count for _, count in miscounted(PHRASES, finals)) == bad


FINISHED = Ended(EndReason.FINISHED)


def test_a_stall_is_no_error():
    assert visible_errors([READY, Interrupted("closed"), Resumed(READY, 0.1, 100), FINISHED]) == []


@pytest.mark.parametrize(
    "events",
    [
        [],
        [READY],
        [Ended(EndReason.CLOSED)],
        [Failure("code", "message"), FINISHED],
        [Lost(0, 100), FINISHED],
        [Restarted(READY, 1.0, 0), FINISHED],
    ],
    ids=["nothing", "no end", "closed", "error", "lost", "new stream"],
)
def test_what_users_would_notice_is_seen(events):
    assert visible_errors(events)
