"""Going on with a stream whose connection was lost: which of its finals are stored, and from where it is heard again.

docs/wire.md, "Resume", has the rules and what they promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import trio
from attrs import frozen

from trio_stt.sessions.bus import Bus, Call, Outcome, StoredFinal

BUS_S: Final = 0.3
"""The bus gets so long in all; then it counts as down for this resume."""


@frozen
class Asked:
    """What a client says of its stream: where its last ack was (`from_sample`), and the end of its last taken final."""

    from_sample: int
    accepted: int


@frozen
class TakenUp:
    """How the stream goes on: in this epoch, with these stored finals, and with its audio from `from_sample`.

    `acked`: before it, nothing of the stream is lost if this instance dies now.
    """

    epoch: int
    from_sample: int
    finals: tuple[StoredFinal, ...]
    acked: int


class Unconfirmed(Protocol):
    """What this instance keeps of a stream for the bus."""

    async def wait_answered(self) -> None:
        """Returns when no older connection is writing a final. May be cancelled."""

    @property
    def unconfirmed_finals(self) -> Sequence[StoredFinal]:
        """The finals that the bus may not have, in order."""


async def take_up(bus: Bus, call: Call, stream_id: str, epoch: int, asked: Asked, unconfirmed: Unconfirmed) -> TakenUp:
    """Takes the stream from whoever has it. `epoch`: the token's. May be cancelled: its epoch may be taken then."""
    stored: tuple[StoredFinal, ...] = ()
    taken: int | None = None
    with trio.move_on_after(BUS_S):
        await unconfirmed.wait_answered()  # else the epoch could overtake a final that is counted below, and fence it
        answer = await bus.take_epoch(call, stream_id, epoch)
        if answer is not Outcome.DOWN:
            taken = answer
            finals = await bus.stream_finals(call, stream_id)
            if finals is not Outcome.DOWN:
                stored = finals
    known = {one.final.segment_id for one in stored}
    kept = unconfirmed.unconfirmed_finals
    every = (*stored, *(one for one in kept if one.final.segment_id not in known))
    counted, from_sample = counted_finals(every, asked)
    _, acked = counted_finals(stored, asked)
    return TakenUp(epoch + 1 if taken is None else taken, from_sample, counted, acked)


def counted_finals(finals: Sequence[StoredFinal], asked: Asked) -> tuple[tuple[StoredFinal, ...], int]:
    """The stored finals, in order, that the client may take or has taken, and the position that follows them.

    What this instance keeps for the bus may overlap what another stored meanwhile: of two such the client takes one.
    """
    position, accepted = asked.from_sample, asked.accepted
    counted: list[StoredFinal] = []
    for one in finals:
        if one.final.end_sample <= position:
            continue
        crosses = one.final.start_sample < accepted < one.final.end_sample
        if crosses or one.follows > max(position, accepted):
            break
        counted.append(one)
        position = one.final.end_sample
        accepted = max(accepted, position)
    return tuple(counted), position
