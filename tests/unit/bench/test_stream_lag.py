import json
from array import array

import pytest

from trio_stt.bench.generator.load import Connection, FramedSession, LoadResult
from trio_stt.bench.stream_lag import Dialect, answers, heard_words, is_whole, session_ends

LIBRARY = [FramedSession((b"frame",) * 20, 0.1, 16000)]


def connection(**changes) -> Connection:
    """Twenty frames from second 100 on, a goodbye, a close."""
    made = Connection(talker=3, session=0, first_frame=0, began_at=99.9, answered_at=99.95, status=101)
    made.sent_at = array("d", [100 + 0.1 * number for number in range(20)])
    made.goodbye_at, made.said_all, made.ended_at = 102.0, True, 102.2
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def result(*connections: Connection) -> LoadResult:
    return LoadResult(connections, array("d"), over_at=110.0, cpu_s=0.0, messages=0)


def final(end_sample: int, text: str = "", start_sample: int = 0) -> bytes:
    fields = {"type": "transcripts", "is_final": True, "text": text}
    return json.dumps(fields | {"start_sample": start_sample, "end_sample": end_sample}).encode()


def partial(text: str) -> bytes:
    return json.dumps({"type": "transcripts", "is_final": False, "text": text, "end_sample": 1600}).encode()


# ── vosk-server ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_nth_reply_answers_the_nth_frame():
    replies = [(100.03 + 0.1 * number, b'{"partial" : ""}') for number in range(20)]
    found = answers(result(connection(replies=replies)), LIBRARY, Dialect.VOSK_SERVER, 0.0)
    assert [each.lag_s for each in found] == pytest.approx([0.03] * 20)
    assert {each.talker for each in found} == {3}
    assert sum(each.audio_s for each in found) == pytest.approx(2.0)


def test_a_frame_without_a_reply_has_waited_until_the_load_was_over():
    replies = [(100.5, b"{}")] * 18
    found = answers(result(connection(replies=replies)), LIBRARY, Dialect.VOSK_SERVER, 0.0)
    assert [each.answered for each in found] == [True] * 18 + [False] * 2
    assert [each.lag_s for each in found[18:]] == pytest.approx([110 - 101.8, 110 - 101.9])


def test_who_vanishes_waits_for_nothing():
    gone = connection(replies=[(100.5, b"{}")], goodbye_at=None, ended_at=None)
    assert len(answers(result(gone), LIBRARY, Dialect.VOSK_SERVER, 0.0)) == 1


def test_vosk_servers_words_are_those_of_replies_with_a_text():
    replies = [
        (100.1, b'{"partial" : "no"}'),
        (100.2, b'{"text" : "one two"}'),
        (100.3, b'{"text" : ""}'),
        (102.1, b'{"result":[],"text":"three"}'),
    ]
    assert heard_words(connection(replies=replies), Dialect.VOSK_SERVER) == ["one", "two", "three"]


# ── native ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("end_sample", "frame"), [(1600, 0), (1601, 1), (16000, 9)])
def test_a_finals_lag_runs_from_the_frame_with_its_last_sample_less_the_hangover(end_sample, frame):
    sent_at = 100 + 0.1 * frame
    found = answers(result(connection(replies=[(sent_at + 0.25, final(end_sample))])), LIBRARY, Dialect.NATIVE, 0.172)
    assert [(each.sent_at, each.lag_s) for each in found] == [(pytest.approx(sent_at), pytest.approx(0.078))]


def test_a_final_that_the_goodbye_brought_about_has_no_hangover():
    found = answers(result(connection(replies=[(102.1, final(32000))])), LIBRARY, Dialect.NATIVE, 0.172)
    assert [each.lag_s for each in found] == [pytest.approx(0.1)]


def test_partials_and_other_messages_are_no_finals():
    replies = [(100.0, b'{"type":"ready"}'), (100.2, partial("on")), (101.0, final(8000, "one two", 800))]
    heard = connection(replies=replies)
    (found,) = answers(result(heard), LIBRARY, Dialect.NATIVE, 0.0)
    assert found.audio_s == pytest.approx(0.45)
    assert heard_words(heard, Dialect.NATIVE) == ["one", "two"]


def test_a_session_whose_last_words_never_came_counts_as_unanswered():
    (found,) = answers(result(connection(ended_at=None)), LIBRARY, Dialect.NATIVE, 0.0)
    assert not found.answered
    assert found.lag_s == pytest.approx(8.0)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_was_refused_is_not_waited_for():
    refused = connection(status=503, goodbye_at=None, ended_at=None)
    assert answers(result(refused), LIBRARY, Dialect.NATIVE, 0.0) == []
    assert session_ends(result(refused)) == []


def test_a_sessions_last_words_are_its_last_reply():
    ended = connection(replies=[(101.0, final(8000)), (102.04, final(32000))])
    never = connection(ended_at=None)
    assert [each.latency_s for each in session_ends(result(ended, never))] == [pytest.approx(0.04), None]


def test_a_session_is_whole_if_all_of_it_was_said_and_heard():
    assert is_whole(connection())
    assert not is_whole(connection(first_frame=4))
    assert not is_whole(connection(said_all=False))
    assert not is_whole(connection(ended_at=None))
