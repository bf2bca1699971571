import pytest

from trio_stt.dialects.events import Presence, StreamRequest, Transcript
from trio_stt.sessions.outbox import Outbox
from trio_stt.sessions.session import READS_TOO_SLOWLY, REPLACED, Member, Sessions


class Client:
    """A member that keeps what it is sent and how it is closed."""

    def __init__(self, client_id: str, session_id: str = "call", **request) -> None:
        self.closes = []
        self.outbox = Outbox(max_messages=request.pop("max_messages", 1000))
        self.member = Member(StreamRequest(client_id, session_id, **request), self.outbox, self.closes.append)

    @property
    def received(self) -> list:
        return list(self.outbox._waiting.values())


def caption(client_id: str, text: str, *, is_final: bool = True, number: int = 1) -> Transcript:
    stream = f"stream-{client_id}"
    return Transcript("call", client_id, stream, f"{stream}-{number}", text, is_final, "en", 0, 1, 16000, 1.0)


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def test_everybody_in_a_session_hears_the_speaker_and_nobody_else_does(sessions):
    ann, bob, eve = Client("ann"), Client("bob"), Client("eve", session_id="other")
    call = sessions.join(ann.member)
    sessions.join(bob.member)
    sessions.join(eve.member)
    final = caption("ann", "hello")
    call.publish(final)
    assert ann.received == bob.received == [final]
    assert eve.received == []


def test_members_receive_only_what_they_asked_for(sessions):
    mute = Client("mute", transcript=False)
    finals_only = Client("finals", partials=False)
    call = sessions.join(mute.member)
    sessions.join(finals_only.member)
    assert not call.wants_partials
    call.publish(caption("mute", "hel", is_final=False))
    call.publish(caption("mute", "hello"))
    assert mute.received == []
    assert [event.text for event in finals_only.received] == ["hello"]


def test_presence_is_told_to_those_who_asked(sessions):
    ann, bob = Client("ann", presence=True), Client("bob")
    sessions.join(ann.member)
    sessions.join(bob.member)
    sessions.leave(bob.member)
    assert ann.received == [Presence("joined", "bob"), Presence("left", "bob")]
    assert bob.received == []


def test_a_newer_connection_of_a_client_replaces_the_older_one(sessions):
    old, new, bob = Client("ann"), Client("ann"), Client("bob", presence=True)
    sessions.join(old.member)
    call = sessions.join(bob.member)
    sessions.join(new.member)
    assert old.closes == [REPLACED]
    sessions.leave(old.member)
    call.publish(caption("bob", "hi"))
    assert [event.text for event in new.received] == ["hi"]
    assert bob.received == [caption("bob", "hi")]


def test_late_joiners_get_the_newest_finals_of_others_in_order(sessions):
    call = sessions.join(Client("ann").member)
    for number in range(5):
        call.publish(caption("ann", f"line {number}", number=number))
    call.publish(caption("ann", "", number=6))
    call.publish(caption("bob", "my own", number=1))
    bob = Client("bob", history=2)
    sessions.join(bob.member)
    assert [(event.text, event.history) for event in bob.received] == [("line 3", True), ("line 4", True)]


def test_a_session_ends_with_its_last_member(sessions):
    ann = Client("ann")
    call = sessions.join(ann.member)
    call.publish(caption("ann", "secret"))
    sessions.leave(ann.member)
    sessions.leave(ann.member)
    assert len(sessions) == 0
    late = Client("late", history=10)
    sessions.join(late.member)
    assert late.received == []


def test_a_member_whose_outbox_overflows_is_closed_and_the_others_are_not(sessions):
    slow, quick = Client("slow", max_messages=1), Client("quick")
    call = sessions.join(slow.member)
    sessions.join(quick.member)
    for number in range(3):
        call.publish(caption("quick", "word", number=number))
    assert READS_TOO_SLOWLY in slow.closes
    assert quick.closes == []
