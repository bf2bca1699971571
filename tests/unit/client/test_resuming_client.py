"""What a resuming client decides, message by message; that it keeps the promise is test_resume_promise."""

import json
from random import Random
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.client.doubts import Doubts
from trio_stt.client.resume_events import Ended, EndReason, Interrupted, Lost, Restarted, Resumed, ResumingEvent
from trio_stt.client.resuming_client import MAX_EVENTS, MAX_UNANSWERED, ResumingClient
from trio_stt.client.taken_captions import REMEMBERED_CAPTIONS
from trio_stt.dialects.events import Ack, Close, Presence, Ready, StreamRequest, Transcript, Translation

RATE = 8000
REQUEST = StreamRequest("anna", "call-1", encoding="mulaw", sample_rate=RATE)


class Talk:
    """A client, and what a server may do to it."""

    def __init__(self, request: StreamRequest = REQUEST, **options) -> None:
        self.now = 0.0
        servers = options.pop("servers", ["ws://one"])
        self.client = ResumingClient(servers, request, random=Random(1), now=0.0, **options)
        self.number = 0
        self.url = ""

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}

    def attempt(self, patience_s: float = 100) -> bool:
        """Lets time pass until the client tries to connect; whether it does."""
        until = self.now + patience_s
        while self.now <= until:
            attempt = self.client.next_attempt(self.now)
            if attempt is not None:
                self.number, self.url, self.fresh_bearer = attempt.number, attempt.url, attempt.fresh_bearer
                return True
            wakes_at = self.client.wakes_at()
            if wakes_at is None or self.client.ended:
                return False
            self.now = max(self.now, wakes_at)
            self.client.tick(self.now)
        return False

    def open(self) -> None:
        assert self.attempt()
        self.client.opened(self.number, self.now)

    def get_ready(self, from_sample: int = 0, token: str | None = "t1", **changed) -> list:
        """Opens a connection, answers with `ready`; what the client sent before and after it."""
        self.open()
        sent = self.sent()
        self.say_ready(from_sample, token, **changed)
        return sent + self.sent()

    def say_ready(self, from_sample: int = 0, token: str | None = "t1", **changed) -> None:
        fields = {
            "session_id": "call-1",
            "client_id": "anna",
            "stream_id": "s1",
            "language": "en",
            "sample_rate": RATE,
            "encoding": "mulaw",
            "epoch": 1,
            "from_sample": from_sample,
            "resume_token": token,
            "heartbeat_ms": 500,
            "resume_window_ms": 30_000,
            "max_ahead_ms": 5000,
            "instance": "one",
        }
        self.say("ready", **(fields | changed))

    def say(self, kind: str, **fields: object) -> None:
        message = json.dumps({"type": kind, "timestamp": 1000.0} | fields)
        self.client.received(self.number, self.now, message)

    def say_final(self, start: int, end: int, segment_id: str = "", **changed: object) -> None:
        fields = {
            "session_id": "call-1",
            "client_id": "anna",
            "stream_id": "s1",
            "segment_id": segment_id or f"s1-{start}",
            "text": "said",
            "is_final": True,
            "language": "en",
            "start": start / RATE,
            "end": end / RATE,
            "start_sample": start,
            "end_sample": end,
        }
        self.say("transcripts", **(fields | changed))

    def close(self, code: int = 1006, reason: str = "") -> None:
        self.client.closed(self.number, self.now, Close(code, reason))

    def sent(self) -> list:
        """What the client sends now: messages as their fields, frames as (position, samples)."""
        found = []
        while (message := self.client.next_message(self.number)) is not None:
            if isinstance(message, bytes):
                found.append((int.from_bytes(message[4:12], "little"), message[12:]))
            else:
                found.append(json.loads(message))
        return found

    def events(self, *kinds: type) -> list[ResumingEvent]:
        found = []
        while (event := self.client.next_event()) is not None:
            if not kinds or isinstance(event, kinds):
                found.append(event)
        return found


def test_the_first_connection_is_not_a_resume_and_the_next_is():
    talk = Talk()
    talk.client.add(b"abcdef")
    assert talk.get_ready() == [(0, b"abcdef")]
    assert {"resume", "history"}.isdisjoint(talk.query)
    assert talk.query["framing"] == "seq"
    talk.say_final(0, 4)
    talk.say("ack", sample=2, resume_token="t2")
    talk.close()
    talk.client.add(b"gh")
    talk.now += 5
    resume = {"type": "resume", "token": "t2", "from_sample": 2, "accepted": 4}
    assert talk.get_ready(from_sample=3) == [resume, (3, b"defgh")]
    assert (talk.query["resume"], talk.query["history"]) == ("true", "200")
    resumed = talk.events(Resumed)[0]
    assert resumed.stall_s == pytest.approx(5, abs=0.2)
    assert resumed.replayed_samples == 3


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 4008])
def test_after_these_closes_it_resumes(code: int):
    talk = Talk()
    talk.get_ready()
    talk.close(code)
    assert talk.get_ready()[0]["type"] == "resume"
    assert [type(event) for event in talk.events()] == [Ready, Interrupted, Resumed]


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 4001, 4999])
def test_after_these_closes_it_never_does(code: int):
    talk = Talk()
    talk.get_ready()
    talk.close(code, "why")
    assert not talk.attempt()
    ended = talk.events()[-1]
    assert isinstance(ended, Ended)
    assert ended.close == Close(code, "why")
    reasons = {1000: EndReason.FINISHED, 4001: EndReason.REPLACED}
    assert ended.reason is reasons.get(code, EndReason.CLOSED)


@pytest.mark.parametrize(("status", "resumes"), [(429, True), (500, True), (503, True), (400, False), (403, False)])
def test_after_an_http_error_it_tries_again_unless_that_is_of_no_use(status: int, resumes: bool):
    talk = Talk()
    talk.attempt()
    talk.client.refused(talk.number, talk.now, status=status, retry_after_s=7)
    assert talk.attempt() is resumes
    if resumes:
        assert 7 <= talk.now <= 7.2
    else:
        assert talk.events() == [Ended(EndReason.REFUSED, status=status)]


def test_a_server_that_asks_for_patience_is_left_alone_while_others_are_tried():
    talk = Talk(servers=["ws://one", "ws://two"])
    talk.attempt()
    talk.client.refused(talk.number, talk.now, status=503, retry_after_s=60)
    for _ in range(3):
        assert talk.attempt()
        assert talk.url.startswith("ws://two")
        talk.client.failed(talk.number, talk.now)
    assert talk.now < 60


def test_back_off_is_jittered_grows_to_ten_seconds_and_starts_anew_when_things_go_well():
    talk = Talk()
    waits = []
    for _ in range(200):
        before = talk.now
        assert talk.attempt()
        waits.append(talk.now - before)
        talk.client.failed(talk.number, talk.now)
    assert max(waits[:3]) <= 0.4
    assert 9 < max(waits) <= 10
    assert min(waits[20:]) < 1
    talk.get_ready()
    talk.say_final(0, 0)
    before = talk.now
    talk.close()
    talk.attempt()
    assert talk.now - before <= 0.1


def test_an_upgrade_and_a_ready_are_waited_for_longer_each_time_until_one_comes():
    talk = Talk()
    limits = []
    for place in range(6):
        talk.attempt()
        before = talk.now
        if place % 2:
            talk.client.opened(talk.number, talk.now)
        while talk.client.is_wanted(talk.number):
            talk.now = talk.client.wakes_at()
            talk.client.tick(talk.now)
        limits.append(talk.now - before)
    assert limits == pytest.approx([1, 2, 4, 8, 10, 10])
    talk.get_ready()
    talk.close()
    talk.attempt()
    assert talk.client.wakes_at() == pytest.approx(talk.now + 1)


def test_three_missed_heartbeats_are_a_lost_connection():
    talk = Talk()
    talk.get_ready()
    for _ in range(5):
        talk.now += 1.4
        talk.client.tick(talk.now)
        assert talk.client.is_wanted(talk.number)
        talk.say("pong")
    talk.now += 1.5
    talk.client.tick(talk.now)
    assert not talk.client.is_wanted(talk.number)
    assert talk.events(Interrupted) == [Interrupted("no heartbeat")]


def test_after_4001_it_comes_back_once_for_each_try_that_it_abandoned():
    talk = Talk()
    talk.get_ready()
    talk.close()
    talk.open()
    while talk.client.is_wanted(talk.number):
        talk.now = talk.client.wakes_at()
        talk.client.tick(talk.now)
    talk.get_ready()
    talk.close(4001)
    talk.get_ready()
    talk.close(4001)
    assert not talk.attempt()
    assert talk.events(Ended)[0].reason is EndReason.REPLACED


def test_a_new_bearer_is_asked_for_once():
    talk = Talk(renews_bearer=True)
    talk.get_ready()
    talk.say("error", code="token_expired", message="over")
    talk.close(1008)
    talk.attempt()
    assert talk.fresh_bearer
    talk.client.refused(talk.number, talk.now, status=401, code="invalid_token", message="no")
    assert talk.events(Ended) == [Ended(EndReason.UNAUTHORISED, None, 401, "invalid_token", "no")]
    talk = Talk(renews_bearer=True)
    talk.attempt()
    assert not talk.fresh_bearer
    talk.client.refused(talk.number, talk.now, status=401)
    talk.get_ready()
    assert talk.fresh_bearer
    assert [type(event) for event in talk.events()] == [Ready]


def test_told_to_go_away_it_opens_another_connection_first_and_uses_the_old_one_until_then():
    talk = Talk(servers=["ws://one", "ws://two"])
    talk.client.add(b"ab")
    talk.get_ready()
    old = talk.number
    talk.say("goaway", deadline_ms=4000, reason="restarting")
    assert talk.attempt()
    assert talk.url.startswith("ws://two")
    assert talk.now <= 2
    new, talk.number = talk.number, old
    talk.client.add(b"cd")
    assert talk.sent() == [(2, b"cd")]
    talk.client.refused(new, talk.now, status=503)
    assert talk.client.is_wanted(old)
    talk.say("ack", sample=2)
    assert talk.attempt()
    talk.client.opened(talk.number, talk.now)
    assert not talk.client.is_wanted(old)
    assert talk.sent()[0]["from_sample"] == 2


def test_a_refused_resume_is_followed_by_a_new_stream_whose_captions_are_moved_to_the_users_positions():
    talk = Talk()
    talk.client.add(bytes(RATE))
    talk.get_ready()
    talk.say_final(0, 4000)
    talk.say("ack", sample=1000)
    talk.close()
    talk.open()
    talk.sent()
    talk.say("error", code="resume_refused", message="expired", reason="expired")
    talk.close(1008)
    talk.events()
    assert talk.get_ready(stream_id="s2", token="t9") == [(0, bytes(4000))]
    assert "resume" not in talk.query
    (restarted,) = talk.events()
    assert isinstance(restarted, Restarted)
    assert restarted.at_sample == 4000
    word = {"word": "said", "start": 0.1, "end": 0.2, "conf": 1.0}
    talk.say_final(800, 1600, "s2-1", stream_id="s2", words=[word])
    talk.say("ack", sample=1600)
    caption, ack = talk.events()
    assert (caption.start_sample, caption.end_sample) == (4800, 5600)
    assert (caption.words[0].start, caption.words[0].end) == pytest.approx((0.6, 0.7))
    assert ack == Ack(5600)
    talk.close()
    assert talk.get_ready(2000, stream_id="s2")[0] == {
        "type": "resume",
        "token": "t9",
        "from_sample": 1600,
        "accepted": 1600,
    }


def said_by_otto(segment_id: str, **changed) -> dict:
    return {"client_id": "otto", "stream_id": "s9", "segment_id": segment_id} | changed


def test_captions_of_others_and_translations_come_once_through_all_connections():
    talk = Talk()
    talk.get_ready()

    def say_all(**changed) -> None:
        talk.say_final(0, 8, **said_by_otto("o1", **changed))
        for language in ("de", "fr"):
            talk.say(
                "translation",
                session_id="call-1",
                translation="gesagt",
                is_final=True,
                source_language="en",
                language=language,
                **said_by_otto("o1", **changed),
            )

    say_all()
    assert [type(event) for event in talk.events(Transcript, Translation)] == [Transcript, Translation, Translation]
    say_all()
    talk.close()
    talk.get_ready()
    say_all(history=True)
    talk.say_final(0, 8, is_final=False, **said_by_otto("o1"))
    assert talk.events(Transcript, Translation) == []
    talk.say_final(8, 9, history=True, **said_by_otto("o2"))
    assert [event.segment_id for event in talk.events(Transcript)] == ["o2"]


def test_history_from_before_the_client_came_is_not_told_by_a_resume():
    talk = Talk()
    talk.get_ready()
    talk.say_final(0, 8, history=True, timestamp=900.0, **said_by_otto("asked for"))
    talk.close()
    talk.get_ready()
    talk.say_final(0, 8, history=True, timestamp=900.0, **said_by_otto("not asked for"))
    talk.say_final(0, 8, history=True, timestamp=1001.0, **said_by_otto("missed"))
    assert [event.segment_id for event in talk.events(Transcript)] == ["asked for", "missed"]


def test_partials_of_what_is_over_are_dropped_and_one_that_waits_is_replaced():
    talk = Talk()
    talk.client.add(bytes(100))
    talk.get_ready()
    talk.say_final(0, 50)
    talk.say_final(0, 60, "late", is_final=False)
    talk.say_final(50, 60, "next", is_final=False, text="one")
    talk.say_final(50, 70, "next", is_final=False, text="two")
    assert [event.text for event in talk.events(Transcript)] == ["said", "two"]


def test_what_others_do_is_passed_on():
    talk = Talk()
    talk.get_ready()
    talk.say("presence", event="joined", client_id="otto")
    talk.say("weather", sky="blue")
    assert talk.events(Presence) == [Presence("joined", "otto")]


def test_a_listener_is_connected_again_with_the_history_of_what_it_missed():
    talk = Talk(StreamRequest("anna", "call-1", speak=False))
    talk.get_ready(token=None)
    talk.close()
    assert talk.get_ready(token=None, stream_id="s2") == []
    assert talk.query["history"] == "200"
    assert "resume" not in talk.query
    assert [type(event) for event in talk.events()] == [Ready, Interrupted, Restarted]
    with pytest.raises(ValueError, match="speak=False"):
        talk.client.add(b"ab")


def test_configured_values_are_part_of_the_next_query_and_a_refused_one_is_not_asked_again():
    talk = Talk()
    talk.get_ready()
    talk.client.configure(target=["de", "pt-BR"])
    talk.client.configure(language="xx")
    talk.client.configure(partials=False)
    assert len(talk.sent()) == 3
    talk.say("configured", target=["de", "pt-BR"], language="en", client_id="mallory")
    talk.say("error", code="language_unavailable", message="no model", parameter="language")
    talk.close()
    talk.open()
    assert talk.query["target"] == "de,pt-BR"
    assert talk.query["client_id"] == "anna"
    talk.sent()
    talk.say_ready()
    assert talk.sent() == [{"type": "configure", "partials": False}]


def test_messages_act_at_their_places_among_the_samples_also_the_second_time():
    talk = Talk()
    talk.client.add(b"ab")
    talk.client.finalize("one")
    talk.client.add(b"cd")
    talk.client.configure(partials=False)
    talk.client.end()
    one, configure = {"type": "finalize", "id": "one"}, {"type": "configure", "partials": False}
    expected = [(0, b"ab"), one, (2, b"cd"), configure, {"type": "eof"}]
    assert talk.get_ready() == expected
    talk.close()
    assert talk.get_ready()[1:] == expected
    talk.say("ack", sample=2, from_finalize=True, id="one")
    talk.close()
    assert talk.get_ready(from_sample=2)[1:] == expected[2:]
    assert Ack(2, True, "one") in talk.events()
    talk.close(1000)
    assert [type(event) for event in talk.events()] == [Ended]


@pytest.mark.parametrize(
    "say",
    [
        lambda talk: talk.say("ack", sample=7),
        lambda talk: talk.say("ack", sample=-1),
        lambda talk: talk.say("ack", sample="1"),
        lambda talk: talk.say("ack", sample=True),
        lambda talk: talk.say_final(0, 7),
        lambda talk: talk.say_final(2, 1),
        lambda talk: talk.say_final(0, 2, follows="x"),
        lambda talk: talk.say_final(0, 1, segment_id=["x"]),
        lambda talk: talk.say("configured", target="de"),
        lambda talk: talk.say("goaway", deadline_ms="soon", reason="x"),
        lambda talk: talk.say("goaway", reason="x"),
        lambda talk: talk.say_ready(),
        lambda talk: talk.say_final(0, 1, **said_by_otto("o1", history=True, timestamp="noon")),
        lambda talk: talk.client.received(talk.number, talk.now, "no JSON"),
        lambda talk: talk.client.received(talk.number, talk.now, b"bytes"),
    ],
)
def test_what_no_server_may_send_costs_the_connection_and_nothing_else(say):
    talk = Talk()
    talk.client.add(b"ab")
    talk.get_ready()
    talk.close()
    talk.get_ready()
    talk.events()
    say(talk)
    (interrupted,) = talk.events(Interrupted)
    assert interrupted.why.startswith("not the protocol")
    assert talk.get_ready()[0]["from_sample"] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"from_sample": 5},
        {"from_sample": None},
        {"stream_id": "s7"},
        {"heartbeat_ms": "often"},
        {"resume_token": 7},
        {"timestamp": None},
    ],
)
def test_a_ready_that_is_not_what_was_asked_for_costs_the_connection(changed):
    talk = Talk()
    talk.client.add(b"ab")
    if "timestamp" not in changed:
        talk.get_ready()
        talk.close()
    talk.open()
    talk.say_ready(**({"from_sample": 0} | changed))
    assert not talk.client.is_wanted(talk.number)
    sent = talk.get_ready()
    assert ("resume" in talk.query) == ("timestamp" not in changed)
    assert (sent[0] == (0, b"ab")) == ("timestamp" in changed)


def test_what_is_told_of_an_old_connection_is_ignored():
    talk = Talk()
    talk.client.add(b"ab")
    talk.get_ready()
    old = talk.number
    talk.close()
    talk.get_ready()
    new, talk.number = talk.number, old
    talk.events()
    talk.say_final(0, 2)
    talk.say("ack", sample=2)
    talk.close(4001)
    talk.client.failed(old, talk.now)
    talk.client.refused(old, talk.now, status=403)
    talk.client.opened(old, talk.now)
    assert talk.client.next_message(old) is None
    assert talk.events() == []
    assert talk.client.is_wanted(new)


def test_a_user_who_takes_no_events_stops_the_reading_and_is_not_taken_for_a_silent_server():
    talk = Talk()
    talk.get_ready()
    for number in range(MAX_EVENTS):
        talk.say_final(0, 1, **said_by_otto(f"o{number}"))
    assert talk.client.is_full
    talk.now += 60
    talk.client.tick(talk.now)
    assert talk.client.is_wanted(talk.number)
    talk.close(4008)
    assert not talk.attempt()
    talk.events()
    assert not talk.client.is_full
    assert talk.attempt()


def test_what_is_remembered_is_bounded():
    talk = Talk()
    talk.get_ready()
    for number in range(REMEMBERED_CAPTIONS + 100):
        talk.say_final(0, 1, **said_by_otto(f"o{number}"))
    assert len(talk.client._taken._taken) == REMEMBERED_CAPTIONS
    for _ in range(MAX_UNANSWERED):
        talk.client.finalize()
    with pytest.raises(ValueError, match="wait for their answer"):
        talk.client.finalize()


def test_a_live_source_that_is_faster_than_the_connection_gives_it_up_late_and_loses_only_what_is_dropped():
    talk = Talk()
    talk.get_ready()
    room = 120 * RATE
    talk.client.add(bytes(room))
    assert talk.client.next_message(talk.number) is not None
    sent = talk.client._connection.cursor
    talk.client.add(bytes(sent + room // 10))
    talk.client.tick(talk.now)
    assert talk.client.is_wanted(talk.number)
    talk.client.add(bytes(room // 5))
    talk.client.tick(talk.now)
    assert talk.events(Interrupted) == [Interrupted("too slow for a live source")]
    talk.open()
    oldest = talk.sent()[0]["from_sample"]
    assert sent < oldest <= talk.client.given_samples - room
    talk.say_ready(from_sample=oldest)
    assert talk.events(Lost) == []
    talk.say("ack", sample=oldest)
    assert talk.events(Lost) == [Lost(0, oldest)]


@pytest.mark.parametrize(("acked", "accepted", "left"), [(0, 0, 500), (200, 0, 300), (200, 350, 150), (500, 0, 0)])
def test_what_a_server_said_nothing_of_when_it_ended_the_stream_is_there_for_another_one(acked, accepted, left):
    talk = Talk()
    sound = bytes(number % 256 for number in range(500))
    talk.client.add(sound)
    talk.get_ready()
    talk.sent()
    if accepted:
        talk.say_final(0, accepted)
    talk.say("ack", sample=acked)
    assert talk.client.unsettled == b""
    talk.close(1000)
    assert talk.client.ended is not None
    assert talk.client.unsettled == sound[500 - left :]


def test_a_stored_final_settles_what_was_dropped():
    talk = Talk()
    talk.client.add(bytes(100))
    talk.get_ready()
    talk.close()
    talk.client.add(bytes(120 * RATE))
    talk.get_ready(from_sample=150)
    talk.say_final(40, 150, follows=30)
    talk.say("ack", sample=150)
    assert talk.events(Lost) == [Lost(0, 30)]


@given(
    st.lists(st.tuples(st.sampled_from(["add", "settle"]), st.integers(0, 30), st.integers(0, 30)), max_size=8),
)
def test_doubts_are_a_set_of_samples(steps):
    doubts, expected, reached = Doubts(), set(), 0
    for step, start, end in steps:
        if step == "add":
            doubts.add(start, end)
            expected |= {position for position in range(max(start, reached), end) if position >= start}
            reached = max([reached, *(position + 1 for position in expected)])
        else:
            doubts.settle(start, max(start, end))
            expected -= set(range(start, end))
            reached = max((position + 1 for position in expected), default=0)
    spans = doubts.take()
    assert {position for start, end in spans for position in range(start, end)} == expected
    assert spans == sorted(spans)
    assert doubts.take() == []


@pytest.mark.parametrize("id", ["x" * 129, 2**53, "\ud800", 1.5, True])
def test_an_id_that_no_server_answers_is_not_sent(id):
    talk = Talk()
    with pytest.raises(ValueError, match="cannot be sent back"):
        talk.client.finalize(id)
    assert talk.get_ready() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KINDS = ["ready", "transcripts", "translation", "ack", "configured", "pong", "presence", "goaway", "error"]
FIELDS = [
    *("sample", "from_finalize", "id", "resume_token", "from_sample", "heartbeat_ms", "stream_id", "segment_id"),
    *("start", "end", "start_sample", "end_sample", "words", "follows", "is_final", "history", "timestamp"),
    *("code", "parameter", "message", "deadline_ms", "target", "language", "text"),
]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))))
def test_no_message_of_a_server_is_an_error_of_the_client(messages):
    talk = Talk()
    talk.client.add(b"abcdef")
    talk.client.finalize()
    talk.client.configure(language="de")
    for kind, wrong in messages:
        if talk.client.ended is not None:
            break
        if not talk.client.is_wanted(talk.number):
            talk.get_ready(from_sample=talk.client.acked)
        sane = {"client_id": "anna", "session_id": "call-1", "segment_id": "s1-1", "is_final": True, "text": "x"} | {
            "stream_id": "s1",
            "language": "en",
            "start": 0.0,
            "end": 1 / RATE,
            "start_sample": 0,
            "end_sample": 1,
            "sample": 1,
            "code": "bad_value",
            "message": "m",
            "deadline_ms": 1000,
            "reason": "r",
            "translation": "t",
            "source_language": "en",
            "event": "joined",
        }
        talk.say(kind, **(sane | wrong))
        talk.sent()
        talk.client.tick(talk.now)
        talk.events()
