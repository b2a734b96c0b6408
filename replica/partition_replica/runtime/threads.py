"""Work on threads that must not be left half done."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from partition_replica.errors import Fatal

T = TypeVar("T")


async def run_to_end(body: Callable[[], T]) -> T:
    """Runs `body` on a thread. Cancelled, it waits for the body's end first: a thread can't be
    stopped, and what it works on must not be taken away below it. Whoever is cancelled meanwhile is
    told of a Fatal all the same: a failed fsync must end the process."""
    work = asyncio.ensure_future(asyncio.to_thread(body))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():  # cancelled again and again, too
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        error = None if work.cancelled() else work.exception()
        if isinstance(error, Fatal):
            raise error from None
        raise
