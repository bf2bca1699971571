"""A small exact model of the server's side of docs/resume.md: gate, acks, epochs, stored finals, instances.

A sample is one byte, 1 for speech and 0 for silence, so what must be captioned is known. Nothing runs by itself: the
simulation moves each message.
"""

import json
from collections import deque
from random import Random

from attrs import Factory, define

HEADER_BYTES = 12


@define
class Final:
    segment_id: str
    start: int
    end: int
    follows: int


class Bus:
    """What outlives the instances."""

    def __init__(self) -> None:
        self.up = True
        self.epochs: dict[str, int] = {}
        self.finals: dict[str, list[Final]] = {}

    def empty(self) -> None:
        self.epochs.clear()
        self.finals.clear()

    def store(self, stream_id: str, epoch: int, final: Final) -> str | int:
        """``fenced``, ``stored``, or the end of the last stored final, which `final` overlaps."""
        if epoch < self.epochs.get(stream_id, 0):
            return "fenced"
        stored = self.finals.setdefault(stream_id, [])
        if any(each.segment_id == final.segment_id for each in stored):
            return "stored"
        if stored and final.start < stored[-1].end:
            return stored[-1].end
        stored.append(final)
        return "stored"


@define(eq=False)
class Link:
    """One connection: what is on its way in both directions. Each end may know that it is over or not."""

    number: int
    resumes: bool
    to_server: deque = Factory(deque)
    to_client: deque = Factory(deque)
    upgraded: bool = False
    broken: bool = False  # nothing more gets through
    over_for_client: bool = False
    over_for_server: bool = False


@define(eq=False)
class Conversation:
    """A stream on one connection, as its instance knows it."""

    link: Link
    stream_id: str
    epoch: int
    begins_at: int
    accepted: int
    hangover: int
    pre_roll: int
    longest: int
    received: int = 0  # the position of the next sample
    open_at: int | None = None
    silence: int = 0
    last_end: int = 0
    acked: int = 0
    segments: int = 0
    unconfirmed: list[Final] = Factory(list)
    resumed_without_bus: bool = False
    over: bool = False

    def __attrs_post_init__(self) -> None:
        self.received = self.last_end = self.acked = self.begins_at


class Instance:
    """May be frozen (handles nothing), or dead."""

    def __init__(
        self, name: str, bus: Bus | None, random: Random, truth: bytearray, beginnings: dict[str, int]
    ) -> None:
        self.name = name
        self.bus = bus
        self.random = random
        self.truth = truth
        self.beginnings = beginnings
        self.frozen = False
        self.dead = False
        self.links: list[Link] = []
        self.conversations: dict[int, Conversation] = {}  # by the link's number
        self.streams = 0

    # ── connections ──

    def handle(self, link: Link) -> None:
        """Takes the next message of `link`."""
        message = link.to_server.popleft()
        conversation = self.conversations.get(link.number)
        if conversation is not None and conversation.over:
            return
        if isinstance(message, bytes):
            assert conversation is not None, "samples before ready"
            self._hear(conversation, message)
            return
        fields = json.loads(message)
        if fields["type"] == "resume":
            assert conversation is None, "resume is the first message"
            assert link.resumes
            self._resume(link, fields)
            return
        assert conversation is not None
        if fields["type"] == "finalize":
            self._finish(conversation, conversation.received)
            self._send_ack(conversation, from_finalize=True, id=fields["id"])
        elif fields["type"] == "eof":
            self._finish(conversation, conversation.received)
            self._send_ack(conversation)
            self._close(conversation, 1000)
        else:
            assert fields["type"] == "configure"
            self._send(conversation, {"type": "configured", "partials": fields["partials"]})

    def begin(self, link: Link) -> None:
        """A connection without `resume`."""
        self.streams += 1
        stream_id = f"{self.name}-{self.streams}"
        if self.bus is not None and self.bus.up:
            self.bus.epochs[stream_id] = 1
        self._converse(link, stream_id, 1, 0, 0, [])

    def replace(self, link: Link) -> None:
        """A newer connection of this client is known."""
        conversation = self.conversations.get(link.number)
        if conversation is not None and not conversation.over:
            self._close(conversation, 4001)

    def lose(self, link: Link) -> None:
        """The instance learns that `link` is over: nothing of the open utterance for now."""
        link.over_for_server = True

    def end_what_nobody_resumed(self, link: Link) -> None:
        """The window for a resume is over."""
        conversation = self.conversations.get(link.number)
        if conversation is not None and not conversation.over:
            self._finish(conversation, conversation.received)
            conversation.over = True

    def go_away(self, link: Link) -> None:
        conversation = self.conversations.get(link.number)
        if conversation is not None and not conversation.over:
            self._send(conversation, {"type": "goaway", "deadline_ms": 1000, "reason": "restarting"})

    def depart(self, link: Link) -> None:
        """The deadline of `go_away` has passed."""
        conversation = self.conversations.get(link.number)
        if conversation is not None and not conversation.over:
            self._finish(conversation, conversation.received)
            self._send_ack(conversation)
            self._close(conversation, 1012)

    def beat(self) -> None:
        for conversation in self.conversations.values():
            if not conversation.over and not conversation.link.over_for_server:
                self._send_ack(conversation)

    def _resume(self, link: Link, fields: dict) -> None:
        stream_id, token_epoch = fields["token"].rsplit(":", 1)
        position, accepted = fields["from_sample"], fields["accepted"]
        epoch = int(token_epoch)
        stored: list[Final] = []
        if link.over_for_server:
            return
        if self.bus is not None and self.bus.up:
            epoch = max(epoch, self.bus.epochs.get(stream_id, 0))
            self.bus.epochs[stream_id] = epoch + 1
            stored = list(self.bus.finals.get(stream_id, []))
        for other in self.conversations.values():
            if other.stream_id == stream_id and not other.over:
                self._close(other, 4001)
        sent = []
        for final in stored:
            if final.end <= position:
                continue
            if final.start < accepted < final.end or final.follows > max(position, accepted):
                break
            sent.append(final)
            position = final.end
        conversation = self._converse(link, stream_id, epoch + 1, position, accepted, sent)
        conversation.resumed_without_bus = self.bus is not None and not self.bus.up

    def _converse(
        self, link: Link, stream_id: str, epoch: int, begins_at: int, accepted: int, sent: list
    ) -> Conversation:
        conversation = Conversation(
            link,
            stream_id,
            epoch,
            begins_at,
            accepted,
            self.random.randint(1, 3),
            self.random.randint(0, 3),
            self.random.randint(5, 12),
        )
        self.conversations[link.number] = conversation
        token = f"{stream_id}:{epoch}"
        ready = {
            "type": "ready",
            "timestamp": 1.0,
            "session_id": "call-1",
            "client_id": "anna",
            "stream_id": stream_id,
            "language": "en",
            "sample_rate": 1,
            "encoding": "mulaw",
            "epoch": epoch,
            "from_sample": begins_at,
            "resume_token": token,
            "heartbeat_ms": 500,
            "resume_window_ms": 30_000,
            "max_ahead_ms": 5000,
            "instance": self.name,
        }
        self._send(conversation, ready)
        for final in sent:
            self._send_final(conversation, final, stored=True)
        self._send_ack(conversation)
        return conversation

    def _send(self, conversation: Conversation, fields: dict) -> None:
        if not conversation.link.over_for_server:
            conversation.link.to_client.append(json.dumps(fields))

    def _close(self, conversation: Conversation, code: int) -> None:
        conversation.over = True
        if not conversation.link.over_for_server:
            conversation.link.to_client.append(code)
            conversation.link.over_for_server = True

    # ── samples ──

    def _hear(self, conversation: Conversation, frame: bytes) -> None:
        assert frame[:4] == b"SEQ1"
        position = int.from_bytes(frame[4:HEADER_BYTES], "little")
        assert position == conversation.received, f"{position} instead of {conversation.received}"
        samples = frame[HEADER_BYTES:]
        given = position + self.beginnings.get(conversation.stream_id, 0)
        assert samples == self.truth[given : given + len(samples)], "other samples than were given"
        for sample in samples:
            if conversation.over:
                return
            self._hear_sample(conversation, sample)

    def _hear_sample(self, conversation: Conversation, sample: int) -> None:
        position = conversation.received
        conversation.received += 1
        if sample:
            if conversation.open_at is None:
                barrier = conversation.accepted if position >= conversation.accepted else 0
                conversation.open_at = max(position - conversation.pre_roll, conversation.last_end, barrier)
            conversation.silence = 0
        else:
            conversation.silence += 1
        if conversation.open_at is None:
            self._move_ack(conversation)
        elif (
            conversation.silence >= conversation.hangover
            or conversation.received - conversation.open_at >= conversation.longest
            or conversation.received == conversation.accepted
        ):
            self._finish(conversation, conversation.received)

    def _finish(self, conversation: Conversation, end: int) -> None:
        while conversation.open_at is not None and not conversation.over:
            conversation.segments += 1
            name = f"{conversation.stream_id}/{self.name}/{conversation.epoch}/{conversation.segments}"
            final = Final(name, conversation.open_at, end, conversation.last_end)
            self._publish(conversation, final)
            conversation.last_end = final.end
            conversation.open_at = final.end if final.end < end else None
        self._move_ack(conversation)

    def _publish(self, conversation: Conversation, final: Final) -> None:
        if self.bus is None:
            self._send_final(conversation, final)
        elif not self.bus.up or conversation.unconfirmed:
            conversation.unconfirmed.append(final)
            self._send_final(conversation, final)
        else:
            answer = self.bus.store(conversation.stream_id, conversation.epoch, final)
            if answer == "fenced":
                self._close(conversation, 4001)
                return
            if isinstance(answer, int):
                final.end = min(final.end, answer)
            self._send_final(conversation, final)

    def _send_final(self, conversation: Conversation, final: Final, stored: bool = False) -> None:
        fields = {
            "type": "transcripts",
            "timestamp": 2.0,
            "session_id": "call-1",
            "client_id": "anna",
            "stream_id": conversation.stream_id,
            "segment_id": final.segment_id,
            "text": "said",
            "is_final": True,
            "language": "en",
            "start": float(final.start),
            "end": float(final.end),
            "start_sample": final.start,
            "end_sample": final.end,
        }
        self._send(conversation, fields | ({"follows": final.follows} if stored else {}))

    def _move_ack(self, conversation: Conversation) -> None:
        """An ack moves when all is stored; in silence it trails by the pre-roll."""
        if self.bus is not None and (not self.bus.up or conversation.unconfirmed):
            return
        if conversation.open_at is None:
            trailing = max(conversation.last_end, conversation.received - conversation.pre_roll)
        else:
            trailing = conversation.last_end
        if trailing > conversation.acked:
            conversation.acked = trailing
            self._send_ack(conversation)

    def _send_ack(self, conversation: Conversation, **extra: object) -> None:
        token = f"{conversation.stream_id}:{conversation.epoch}"
        self._send(conversation, {"type": "ack", "sample": conversation.acked, "resume_token": token} | extra)

    # ── the bus returns ──

    def bring_up_to_date(self) -> None:
        """Writes what could not be stored: the epochs of live connections first, then each stream's finals."""
        assert self.bus is not None
        for conversation in self.conversations.values():
            if not conversation.over and not conversation.link.over_for_server:
                known = self.bus.epochs.get(conversation.stream_id, 0)
                self.bus.epochs[conversation.stream_id] = max(known, conversation.epoch)
        for conversation in self.conversations.values():
            while conversation.unconfirmed:
                answer = self.bus.store(conversation.stream_id, conversation.epoch, conversation.unconfirmed[0])
                if answer == "fenced":
                    conversation.unconfirmed.clear()
                    self._close(conversation, 4001)
                    break
                conversation.unconfirmed.pop(0)
            if not conversation.over:
                self._move_ack(conversation)
