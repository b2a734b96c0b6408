"""Work on threads that must not be left half done."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from partition_replica.errors import Fatal

T = TypeVar("T")


async def finish(work: Awaitable[T], undo: Callable[[T], None] | None = None) -> T:
    """The result of `work`, which is not cancelled with whoever waits: that one, cancelled however
    often, waits for its end and is cancelled then, once. What it would have got is given to `undo`.
    A Fatal is raised all the same: a failed fsync must end the process."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            error = future.exception()
            if isinstance(error, Fatal):
                raise error from None
            if error is None and undo is not None:
                undo(future.result())
        raise


async def run_to_end(body: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
    """Runs `body` on a thread. Cancelled, it waits for the body's end first: a thread can't be
    stopped, and what it works on must not be taken away below it. Otherwise as `finish`."""
    # Not to_thread: that is a task, which the loop's end cancels while the thread works on.
    return await finish(asyncio.get_running_loop().run_in_executor(None, body), undo)
