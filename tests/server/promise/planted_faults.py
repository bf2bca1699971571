"""The real code with one fault each, as it might have been written: the machine must notice."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest.mock import PropertyMock, patch

from attrs import evolve

from trio_stt.audio.speech_gate import SpeechGate
from trio_stt.gateway import websocket
from trio_stt.sessions.captioner import Origin
from trio_stt.sessions.journal import StreamJournal
from trio_stt.sessions.memory_bus import MemoryBus
from trio_stt.sessions.resume import take_up


def acks_what_is_not_stored() -> AbstractContextManager[object]:
    """An ack moves although the bus is away."""
    return patch.object(StreamJournal, "confirmed", new_callable=PropertyMock, return_value=True)


def acks_what_only_it_has() -> AbstractContextManager[object]:
    """After a resume, finals that wait here for the bus count as acknowledged."""

    async def take(*arguments):
        taken = await take_up(*arguments)
        return evolve(taken, acked=taken.from_sample)

    return patch.object(websocket, "take_up", take)


def acks_up_to_now() -> AbstractContextManager[object]:
    """In silence an ack leaves the next utterance no pre-roll."""

    def settled(gate: SpeechGate) -> int:
        return gate._now if gate._start is None else gate._start

    return patch.object(SpeechGate, "settled", property(settled))


def fences_nobody() -> AbstractContextManager[object]:
    """The bus takes finals of whatever epoch."""
    publish = MemoryBus.publish_final

    async def publish_final(bus, call, final, *, epoch, follows):
        return await publish(bus, call, final, epoch=max(epoch, bus._use(call, final.stream_id).epoch), follows=follows)

    return patch.object(MemoryBus, "publish_final", publish_final)


def takes_no_new_epoch() -> AbstractContextManager[object]:
    """Who resumes has the epoch of the connection before."""

    async def take_epoch(bus, call, stream_id, known):
        return await bus.claim_epoch(call, stream_id, known)

    return patch.object(MemoryBus, "take_epoch", take_epoch)


def crosses_what_was_taken() -> AbstractContextManager[object]:
    """An utterance goes on beyond the end of the last final that the client has taken."""

    def origin(sample, accepted, began_at, suffix):
        return Origin(sample, 0, began_at, suffix)

    return patch.object(websocket, "Origin", origin)


FAULTS = (
    acks_what_is_not_stored,
    acks_what_only_it_has,
    acks_up_to_now,
    fences_nobody,
    takes_no_new_epoch,
    crosses_what_was_taken,
)
