"""A connection to Redis, and what its errors mean."""

from __future__ import annotations

import re
from typing import Final

import anyio
import trio
from coredis.connection import (
    BaseConnection,
    BaseConnectionParams,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)
from coredis.exceptions import (
    AuthenticationError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterError,
    RedisError,
)
from coredis.exceptions import ConnectionError as RedisConnectionError

from trio_stt.redis_address import RedisAddress

LOST: Final = (
    RedisConnectionError,
    OSError,
    trio.TooSlowError,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.EndOfStream,
    ReferenceError,  # coredis: the connection went while it was asked
)
"""What a lost connection raises, whatever it was doing; every other `RedisError` is an answer."""

_OF_THE_SERVER: Final = (AuthenticationError, NoScriptError, ReadOnlyError, RedisClusterError)

# coredis has no class for these. Before Redis 7 they stand in the middle of what a script's error says.
_CODES_OF_THE_SERVER: Final = re.compile(
    r"(^|[ -])(READONLY|OOM|NOAUTH|LOADING|NOSCRIPT|MISCONF|CLUSTERDOWN|MASTERDOWN|NOREPLICAS|BUSY) "
)


def open_connection(address: RedisAddress, connect_timeout_s: float) -> BaseConnection:
    """A connection that is not yet made: start its `run` in a nursery, once."""
    parameters: BaseConnectionParams = {
        "connect_timeout": connect_timeout_s,
        "username": address.username,
        "password": address.password,
        "db": address.database,
        "client_name": address.client_name,
        "ssl_context": address.tls,
    }
    if address.path:
        return UnixDomainSocketConnection(UnixDomainSocketLocation(address.path), **parameters)
    return TCPConnection(TCPLocation(address.host, address.port), **parameters)


def release(connection: BaseConnection) -> None:
    """Closes what coredis leaves open of a connection that could not be made, or whose making was cancelled."""
    for end in ("in", "out"):
        for channel in ("push_message", "streamed_message", "write"):
            getattr(connection, f"_{channel}_buffer_{end}").close()


async def look(address: RedisAddress) -> None:
    """Connects and leaves again; raises what prevents it, which coredis does not say. May be cancelled."""
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    if address.path:
        stream = await trio.open_unix_socket(address.path)
    elif address.tls is None:
        stream = await trio.open_tcp_stream(address.host, address.port)
    else:
        stream = await trio.open_ssl_over_tcp_stream(
            address.host, address.port, ssl_context=address.tls, https_compatible=True
        )
    try:
        if isinstance(stream, trio.SSLStream):
            await stream.do_handshake()
    finally:
        await trio.aclose_forcefully(stream)


def concerns_all(error: RedisError) -> bool:
    """Whether Redis would refuse other calls too: because it is full, or a replica, or has lost our scripts."""
    return isinstance(error, _OF_THE_SERVER) or _CODES_OF_THE_SERVER.search(str(error)) is not None


def reason_of(error: BaseException) -> str:
    """What lies behind an error: of the system or of TLS if there is such a one, else the outermost."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return repr(error if cause is None else cause)
