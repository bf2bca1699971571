"""A stream that survives its connections, on asyncio: the same as `resuming_connection` is on Trio.

The WebSocket is that of the `websockets` library.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from trio_stt.client.native_client import PATH
from trio_stt.client.refusal import ServerUnreachableError, read_refusal
from trio_stt.client.resume_events import Ended, ResumingEvent
from trio_stt.client.resuming_client import LEAST_ROOM_S, Attempt, ResumingClient, StreamEndedError, Token
from trio_stt.dialects.events import Close, StreamRequest

__all__ = ["ResumingStream", "StreamEndedError", "open_resuming_stream"]

_CLOSE_TIMEOUT_S = 2  # for the server's answer to our close frame


class ResumingStream:
    """One stream, through all of its connections; see `resuming_connection.ResumingStream`, which behaves the same."""

    def __init__(self, client: ResumingClient, token: Token) -> None:
        self._client = client
        self._token = token
        self._bearer = token if isinstance(token, str) else None
        self._happened = asyncio.Event()  # replaced each time; who waits for it looks again
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._fault: Exception | None = None
        self._fault_is_told = False

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

        With `live` it takes them at once; else it waits while there is no room, and cancelled, has taken as many as
        `given_samples` says. Raises `StreamEndedError`, and ValueError as `ResumingClient.add` does.
        """
        for piece in self._client.pieces(payload):
            while not self._client.takes(piece):
                await self._wait()
            self._client.add(piece)
            self._notify()

    async def finalize(self, id: str | int | None = None) -> None:
        """Asks for the finals of all given before, then an `Ack` with `id`. Raises as `ResumingClient.finalize`."""
        self._client.finalize(id)
        self._notify()

    async def configure(self, **changes: object) -> None:
        """Asks for new values; `Configured` or `Failure` answers. Raises as `ResumingClient.configure`."""
        self._client.configure(**changes)
        self._notify()

    async def end(self) -> None:
        """Says that no more audio comes: last finals follow, then `Ended`. Raises as `ResumingClient.end`."""
        self._client.end()
        self._notify()

    def __aiter__(self) -> AsyncIterator[ResumingEvent]:
        return self

    async def __anext__(self) -> ResumingEvent:
        """The next event. May be cancelled: no event is lost. Raises what the user's token source raised."""
        while (event := self._client.next_event()) is None:
            if self._client.ended is not None:
                raise StopAsyncIteration
            await self._wait()
        self._notify()
        return event

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────

    async def keep(self) -> None:
        """Keeps the stream connected until it is over or cancelled; `open_resuming_stream` runs it."""
        try:
            while self._client.ended is None and self._fault is None:
                now = _now()
                self._client.tick(now)
                attempt = self._client.next_attempt(now)
                if attempt is not None:
                    self._tasks[attempt.number] = asyncio.create_task(self._guard(self._hold(attempt)))
                self._notify()
                self._drop_unwanted()
                happened, wakes_at = self._happened, self._client.wakes_at()
                try:
                    async with asyncio.timeout_at(wakes_at):
                        await happened.wait()
                except TimeoutError:
                    pass
            self._notify()
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _notify(self) -> None:
        self._happened.set()
        self._happened = asyncio.Event()

    def check(self) -> None:
        """Raises what failed unforeseen, the user's token source for one, unless the user was told."""
        if self._fault is not None and not self._fault_is_told:
            self._raise_fault(self._fault)

    def _raise_fault(self, fault: Exception) -> NoReturn:
        self._fault_is_told = True
        raise fault

    async def _wait(self) -> None:
        if self._fault is None:
            await self._happened.wait()
        if self._fault is not None:
            self._raise_fault(self._fault)

    def _drop_unwanted(self) -> None:
        for number, task in self._tasks.items():
            if not self._client.is_wanted(number):
                task.cancel()

    async def _guard(self, connection: Coroutine[Any, Any, None]) -> None:
        """What fails unforeseen is told to the user, who may be waiting."""
        try:
            await connection
        except Exception as error:  # noqa: BLE001  (the user is told)
            self._fault = error
        self._notify()

    async def _hold(self, attempt: Attempt) -> None:
        """Runs one try and the connection that comes of it."""
        number = attempt.number
        try:
            websocket = await _connect(attempt.url, await self._current_bearer(attempt.fresh_bearer))
        except InvalidStatus as refused:
            answer = refused.response
            no = read_refusal(answer.status_code, answer.headers.get("Retry-After"), bytes(answer.body or b""))
            self._client.refused(
                number,
                _now(),
                status=no.status,
                code=no.code,
                parameter=no.parameter,
                message=no.message,
                retry_after_s=no.retry_after_s,
            )
        except (OSError, InvalidHandshake, EOFError, ConnectionClosed) as error:
            address = attempt.url.partition("?")[0].removesuffix(PATH)
            self._client.failed(number, _now(), ServerUnreachableError(f"{address}: {error}"))
        else:
            try:
                await self._talk(number, websocket)
            finally:
                try:
                    await websocket.close()
                finally:
                    websocket.transport.abort()
        finally:
            self._tasks.pop(number, None)

    async def _current_bearer(self, fresh: bool) -> str | None:
        if callable(self._token) and (fresh or self._bearer is None):
            self._bearer = await self._token()
        return self._bearer

    async def _talk(self, number: int, websocket: ClientConnection) -> None:
        self._client.opened(number, _now())
        self._notify()
        writer = asyncio.create_task(self._guard(self._write(number, websocket)))
        try:
            while self._client.is_wanted(number):
                while self._client.is_full:
                    await self._wait()
                message = await websocket.recv()
                self._client.received(number, _now(), message)
                self._notify()
        except ConnectionClosed as closed:
            received = closed.rcvd
            close = Close(1006) if received is None else Close(received.code, received.reason)
            self._client.closed(number, _now(), close)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, number: int, websocket: ClientConnection) -> None:
        with suppress(ConnectionClosed):  # who reads learns how it was closed
            while True:
                message = self._client.next_message(number)
                if message is None:
                    await self._happened.wait()
                else:
                    await websocket.send(message)
                    self._notify()  # there may be room now


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _connect(url: str, bearer: str | None) -> ClientConnection:
    return await connect(
        url,
        additional_headers=None if bearer is None else {"Authorization": f"Bearer {bearer}"},
        compression=None,
        proxy=None,
        open_timeout=None,
        ping_interval=None,
        close_timeout=_CLOSE_TIMEOUT_S,
    )


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

    The arguments, and what leaving does, are those of `resuming_connection.open_resuming_stream`; an exception of
    `token` is raised by whatever waits for the stream. Raises ValueError for an address that is none.
    """
    client = ResumingClient(
        [servers] if isinstance(servers, str) else servers,
        request,
        random=Random(),
        now=_now(),
        live=live,
        room_s=room_s,
        renews_bearer=callable(token),
        patience_s=patience_s,
    )
    stream = ResumingStream(client, token)
    keeper = asyncio.create_task(stream.keep())
    try:
        yield stream
    finally:
        keeper.cancel()
        (outcome,) = await asyncio.gather(keeper, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome
    stream.check()
