"""Instances without sockets that share a bus in memory, and clients that keep what they are sent."""

import time

import trio

from trio_stt.dialects.events import Presence, StreamRequest, Transcript, Translation
from trio_stt.sessions.bus import Outcome, Published
from trio_stt.sessions.journal import Journal
from trio_stt.sessions.memory_bus import Memory, MemoryBus
from trio_stt.sessions.outbox import Outbox
from trio_stt.sessions.publisher import Publisher
from trio_stt.sessions.session import Member, Sessions
from trio_stt.sessions.translate import TranslationDesk


class Client:
    """A member that keeps what it is sent and how it is closed."""

    def __init__(self, client_id: str, session_id: str = "call", **request) -> None:
        self.closes = []
        self.outbox = Outbox(max_messages=request.pop("max_messages", 100_000))
        self.member = Member(StreamRequest(client_id, session_id, **request), self.outbox, self.closes.append)
        self.publisher = None
        self.journal = None

    @property
    def received(self) -> list:
        return list(self.outbox._waiting.values())

    @property
    def texts(self) -> list:
        return [event.text for event in self.received if isinstance(event, Transcript)]

    @property
    def translations(self) -> list:
        return [event.translation for event in self.received if isinstance(event, Translation)]

    @property
    def presence(self) -> list:
        return [(event.event, event.client_id) for event in self.received if isinstance(event, Presence)]


class LossyBus(MemoryBus):
    """Can store a final and lose its answer, going down with it."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.lose_next_answer = False
        self.forget = False

    async def publish_final(self, call, final, *, epoch, follows):
        published = await super().publish_final(call, final, epoch=epoch, follows=follows)
        if not self.lose_next_answer or published.outcome is Outcome.DOWN:
            return published
        self.lose_next_answer = False
        self._memory.stop(forget=self.forget)
        return Published(Outcome.DOWN)


class Instance:
    """The sessions and the journal of one server instance."""

    def __init__(self, memory: Memory, desk: TranslationDesk | None = None) -> None:
        self.bus = LossyBus(memory)
        self.journal = Journal(self.bus)
        self.desk = desk
        self.sessions = Sessions(self.bus, desk, self.journal.unconfirmed_of)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.journal.run)
            nursery.start_soon(self.sessions.run)
            if self.desk is not None:
                nursery.start_soon(self.desk.run)

    async def join(self, client: Client) -> Client:
        """The client becomes a member, and can speak."""
        session = await self.sessions.join(client.member)
        client.journal = self.journal.open(session.call, f"stream-{client.member.connection}", fenced=lambda: None)
        client.publisher = Publisher(client.member, session, client.journal)
        client.session = session
        client.spoken = 0
        return client

    def leave(self, client: Client) -> None:
        client.journal.close()
        self.sessions.leave(client.member)


def caption(client: Client, text: str, *, is_final: bool = True) -> Transcript:
    """The next caption of a client's stream."""
    stream_id = f"stream-{client.member.connection}"
    number = client.spoken
    if is_final:
        client.spoken += 1
    return Transcript(
        client.member.request.session_id,
        client.member.client_id,
        stream_id,
        f"{stream_id}-{number}",
        text,
        is_final,
        "en",
        100 * number,
        100 * number + 100,
        16000,
        time.time(),
    )


def translated(final: Transcript, text: str, language: str = "pt") -> Translation:
    return Translation(
        final.session_id, final.client_id, final.stream_id, final.segment_id, text, True, "en", language, time.time()
    )


async def say(client: Client, *texts: str) -> Transcript:
    """Publishes finals; returns the last."""
    for text in texts:
        final = caption(client, text)
        await client.publisher.publish(final)
    return final
