"""A stream that survives its connections, on Trio: the shell around `ResumingClient`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from random import Random

import trio

from trio_stt.client.refusal import ServerUnreachableError, StreamClosedError, StreamRefusedError
from trio_stt.client.resume_events import Ended, ResumingEvent
from trio_stt.client.resuming_client import LEAST_ROOM_S, Attempt, ResumingClient, StreamEndedError, Token
from trio_stt.client.websocket import WebSocket, connect
from trio_stt.dialects.events import StreamRequest

__all__ = ["ResumingStream", "StreamEndedError", "open_resuming_stream"]


class ResumingStream:
    """One stream, through all of its connections. Tasks may send while another iterates.

    Iterating yields the server's events, each once and finals in order, and those of `resume_events`; the last is
    `Ended`, also for a stream that was refused or given up: iterating raises nothing of its own. Whoever stops
    iterating stalls the stream in the end, but loses nothing.

    Sending never waits for a connection: what is given is held. It raises `StreamEndedError` once the stream is over.
    """

    def __init__(self, client: ResumingClient, token: Token) -> None:
        self._client = client
        self._token = token
        self._bearer = token if isinstance(token, str) else None
        self._happened = trio.Event()  # replaced each time; who waits for it looks again
        self._scopes: dict[int, trio.CancelScope] = {}

    @property
    def given_samples(self) -> int:
        """How many samples were given so far: the position of the next one."""
        return self._client.given_samples

    @property
    def ended(self) -> Ended | None:
        """Why the stream is over; None while it is not."""
        return self._client.ended

    @property
    def unsettled(self) -> bytes:
        """Once the stream is over: the samples at its end of which the server said nothing, for another stream.

        `Lost` was told of them all the same.
        """
        return self._client.unsettled

    async def send_audio(self, payload: bytes) -> None:
        """Takes whole samples in the request's encoding, any number of them.

        With `live` it takes them at once or, when it is cancelled, not at all; else it waits while there is no room,
        and cancelled, has taken as many as `given_samples` says. Raises `StreamEndedError`, and ValueError as
        `ResumingClient.add` does.
        """
        await trio.lowlevel.checkpoint()
        for piece in self._client.pieces(payload):
            while not self._client.takes(piece):
                await self._happened.wait()
            self._client.add(piece)
            self._notify()

    async def finalize(self, id: str | int | None = None) -> None:
        """Asks for the finals of all given before, then an `Ack` with `id`. Raises as `ResumingClient.finalize`."""
        await trio.lowlevel.checkpoint()
        self._client.finalize(id)
        self._notify()

    async def configure(self, **changes: object) -> None:
        """Asks for new values; `Configured` or `Failure` answers. Raises as `ResumingClient.configure`."""
        await trio.lowlevel.checkpoint()
        self._client.configure(**changes)
        self._notify()

    async def end(self) -> None:
        """Says that no more audio comes: last finals follow, then `Ended`. Raises as `ResumingClient.end`."""
        await trio.lowlevel.checkpoint()
        self._client.end()
        self._notify()

    def __aiter__(self) -> AsyncIterator[ResumingEvent]:
        return self

    async def __anext__(self) -> ResumingEvent:
        """The next event. May be cancelled: no event is lost."""
        await trio.lowlevel.checkpoint()
        while (event := self._client.next_event()) is None:
            if self._client.ended is not None:
                raise StopAsyncIteration
            await self._happened.wait()
        self._notify()
        return event

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────

    async def keep(self) -> None:
        """Keeps the stream connected until it is over; `open_resuming_stream` runs it."""
        async with trio.open_nursery() as nursery:
            while self._client.ended is None:
                now = trio.current_time()
                self._client.tick(now)
                attempt = self._client.next_attempt(now)
                if attempt is not None:
                    self._scopes[attempt.number] = trio.CancelScope()
                    nursery.start_soon(self._hold, attempt)
                self._notify()
                self._drop_unwanted()
                wakes_at = self._client.wakes_at()
                with trio.move_on_at(inf if wakes_at is None else wakes_at):
                    await self._happened.wait()
            self._notify()
            self._drop_unwanted()

    def _notify(self) -> None:
        self._happened.set()
        self._happened = trio.Event()

    def _drop_unwanted(self) -> None:
        for number, scope in self._scopes.items():
            if not self._client.is_wanted(number):
                scope.cancel()

    async def _hold(self, attempt: Attempt) -> None:
        """Runs one try and the connection that comes of it."""
        number = attempt.number
        with self._scopes[number]:
            try:
                bearer = await self._current_bearer(attempt.fresh_bearer)
                websocket = await connect(attempt.url, timeout_s=inf, token=bearer)
            except StreamRefusedError as no:
                self._client.refused(
                    number,
                    trio.current_time(),
                    status=no.status,
                    code=no.code,
                    parameter=no.parameter,
                    message=no.message,
                    retry_after_s=no.retry_after_s,
                )
            except ServerUnreachableError as nobody:
                self._client.failed(number, trio.current_time(), nobody)
            else:
                try:
                    await self._talk(number, websocket)
                finally:
                    await websocket.aclose()
        del self._scopes[number]
        self._notify()

    async def _current_bearer(self, fresh: bool) -> str | None:
        if callable(self._token) and (fresh or self._bearer is None):
            self._bearer = await self._token()
        return self._bearer

    async def _talk(self, number: int, websocket: WebSocket) -> None:
        self._client.opened(number, trio.current_time())
        self._notify()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, number, websocket)
            try:
                while self._client.is_wanted(number):
                    while self._client.is_full:
                        await self._happened.wait()
                    message = await websocket.receive()
                    self._client.received(number, trio.current_time(), message)
                    self._notify()
            except StreamClosedError as closed:
                self._client.closed(number, trio.current_time(), closed.close)
                self._notify()
            nursery.cancel_scope.cancel()

    async def _write(self, number: int, websocket: WebSocket) -> None:
        with suppress(StreamClosedError):  # who reads learns how it was closed
            while True:
                message = self._client.next_message(number)
                if message is None:
                    await self._happened.wait()
                else:
                    await websocket.send(message)
                    self._notify()  # there may be room now


@asynccontextmanager
async def open_resuming_stream(
    servers: str | Sequence[str],
    request: StreamRequest,
    *,
    token: Token = None,
    live: bool = True,
    room_s: float = LEAST_ROOM_S,
    patience_s: float | None = None,
) -> AsyncIterator[ResumingStream]:
    """Opens the stream `request` and keeps it through the loss of connections and servers, until the block is left.

    It is connected behind the block's back: nothing is waited for, and the iteration tells what came of it.

    Args:
        servers: ``ws://HOST:PORT`` or ``wss://HOST``, or several of them, which are tried in turn.
        request: as for `open_stream`; its framing is always ``seq``.
        token: the access token, where the server asks for one; or what gets a new one, called at first and when the
            last one is over. An exception of it ends the block.
        live: the samples are spoken now. Where there is no room for more, the oldest give way, and `Lost` says so if
            that loses them. False, for a file: `send_audio` waits.
        room_s: how many seconds of audio are held at most, 120 or more.
        patience_s: for how long there may be no server before the stream ends with ``UNREACHABLE``; None: for ever.

    Leaving the block closes the connection and takes at most 2 seconds; call `end` and iterate to the last event to
    hear the last words. Raises ValueError for an address that is none. May be cancelled.
    """
    addresses = [servers] if isinstance(servers, str) else servers
    client = ResumingClient(
        addresses,
        request,
        random=Random(),
        now=trio.current_time(),
        live=live,
        room_s=room_s,
        renews_bearer=callable(token),
        patience_s=patience_s,
    )
    stream = ResumingStream(client, token)
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.keep)
        try:
            yield stream
        except BaseException as error:  # noqa: BLE001  (raised below: outside the nursery it stays what it is)
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
