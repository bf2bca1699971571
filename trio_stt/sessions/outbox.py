"""What waits to be sent to one client: partials replace each other, finals are never dropped, and there is a bound."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

import trio

from trio_stt.dialects.events import Ack, Close, Pong, Transcript, Translation

Event = TypeVar("Event")
"""What the dialect makes its messages from."""

MAX_MESSAGES = 1024
"""Messages that may wait for one client; one more and the client counts as reading too slowly."""


class _Late:
    """The place of an event that does not count for the bound."""


class Outbox(Generic[Event]):
    """A queue with one reader. Putting never waits; a full box is `overflowing`, and its owner closes the client.

    An event that makes an earlier one pointless takes its place, at the end: a partial the last partial of that stream,
    a plain ack the last plain ack, and a final the partial of its own segment. Translations likewise, by language.
    """

    def __init__(self, max_messages: int = MAX_MESSAGES) -> None:
        self._max_messages = max_messages
        self._waiting: OrderedDict[object, Event] = OrderedDict()
        self._arrived = trio.Event()
        self._taken = trio.Event()
        self._close: Close | None = None
        self._late = 0  # of these, how many do not count for the bound
        self.replaced = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def overflowing(self) -> bool:
        """Whether more waits than may."""
        return self._counted > self._max_messages

    @property
    def _counted(self) -> int:
        return len(self._waiting) - self._late

    @property
    def closed(self) -> bool:
        """Whether `close` or `abandon` was called."""
        return self._close is not None

    async def wait_for_room(self) -> None:
        """Returns when at most half of the messages wait that may, or the box is closed. May be cancelled."""
        while self._counted > self._max_messages // 2 and self._close is None:
            self._taken = trio.Event()
            await self._taken.wait()

    def put(self, event: Event, *, late: bool = False) -> None:
        """Queues `event`; after `close` it is dropped.

        `late`: it comes with many others at once for no fault of the reader, and does not count for the bound.
        """
        if self._close is not None:
            return
        key: object = object()
        if late:
            key = _Late()
            self._late += 1
        elif isinstance(event, Transcript):
            partial = ("partial", event.stream_id)
            self.replaced += self._waiting.pop(partial, None) is not None
            key = key if event.is_final else partial
        elif isinstance(event, Translation):
            partial_of = ("partial translation", event.stream_id, event.language)
            self.replaced += self._waiting.pop(partial_of, None) is not None
            key = key if event.is_final else partial_of
        elif isinstance(event, Ack) and not event.from_finalize and event.resume_token is None:
            self._waiting.pop("ack", None)
            key = "ack"
        elif isinstance(event, Pong) and event.id is None:
            self._waiting.pop("pong", None)
            key = "pong"
        self._waiting[key] = event
        self._arrived.set()

    def close(self, close: Close) -> None:
        """`close` comes last, after everything that waits. The first close counts."""
        if self._close is None:
            self._close = close
            self._arrived.set()
            self._taken.set()

    def abandon(self, close: Close) -> None:
        """Drops what waits; `close` is next."""
        self._waiting.clear()
        self._late = 0
        self._close = close
        self._arrived.set()
        self._taken.set()

    async def take(self) -> Event | Close:
        """The next event, in order; at last the `Close`, again and again. May be cancelled: nothing is lost then."""
        while not self._waiting and self._close is None:
            self._arrived = trio.Event()
            await self._arrived.wait()
        if self._waiting:
            self._taken.set()
            key, event = self._waiting.popitem(last=False)
            self._late -= isinstance(key, _Late)
            return event
        assert self._close is not None  # noqa: S101  (the loop above ended for one of the two)
        return self._close
