"""What must not be broken off midway: the native library would keep what nobody knows of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


async def unbroken(what: Awaitable[_Result]) -> _Result:
    """Returns or raises what comes of it. If cancelled, waits for it all the same, and raises CancelledError then."""
    task = asyncio.ensure_future(what)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()
