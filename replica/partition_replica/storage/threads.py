"""Work on threads that must not be left half done."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from partition_replica.errors import Fatal

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


async def finish(
    work: Awaitable[T],
    undo: Callable[[T], None] | None = None,
    *,
    give_up: Callable[[], None] | None = None,
) -> T:
    """Returns the result of `work`. A caller that is cancelled, however often, still waits for its
    end, and is cancelled then, once: `give_up` is called at once, to hasten the end, and `undo`
    gets the result. A Fatal is raised all the same: a failed fsync must end the process."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if give_up is not None:
            give_up()
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


async def run_to_end(
    body: Callable[[], T],
    undo: Callable[[T], None] | None = None,
    *,
    give_up: Callable[[], None] | None = None,
) -> T:
    """Runs `body` on a thread. Cancelled, it waits for the body's end first: a thread can't be
    stopped, and what it works on must not be taken away below it. Otherwise as `finish`."""
    # Not to_thread: that is a task, which the loop's end cancels while the thread works on.
    working = asyncio.get_running_loop().run_in_executor(None, body)
    return await finish(working, undo, give_up=give_up)


async def all_ended(*works: Awaitable[object], failed: Callable[[Fatal], None]) -> None:
    """Returns when all have ended, however. `failed` gets a Fatal as soon as it is raised. Raises
    the first error then, and logs the others; a Fatal goes before any other."""
    errors: list[Exception] = []

    async def end(work: Awaitable[object]) -> None:
        try:
            await work
        except Fatal as error:
            errors.insert(0, error)
            failed(error)
        except Exception as error:  # the others are ended all the same
            errors.append(error)

    await asyncio.gather(*map(end, works))
    for error in errors[1:]:
        logger.error("another part did not end cleanly either", exc_info=error)
    if errors:
        raise errors[0]


async def ahead(items: AsyncIterator[T], work: Callable[[T], None]) -> None:
    """Does `work` for each item in order, on a thread, while the next one is on its way. The first
    error of either is raised when no thread works any more; cancelled, it waits for that, too."""
    loop = asyncio.get_running_loop()
    working: asyncio.Future[None] | None = None
    try:
        async for item in items:
            if working is not None:
                before, working = working, None
                await finish(before)
            working = loop.run_in_executor(None, work, item)
    finally:
        if working is not None:
            await finish(working)


async def both(one: Awaitable[T], other: Awaitable[R]) -> tuple[T, R]:
    """Both results. An error of one, or a cancellation, ends the other, and is raised when both
    have ended; a Fatal of either comes first."""
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    tasks: tuple[asyncio.Future[Any], ...] = (first, second)
    try:
        # Not FIRST_EXCEPTION: that takes one that was cancelled for one that succeeded.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not any(task.done() and (task.cancelled() or task.exception()) for task in tasks):
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            with suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)
        errors = [e for task in tasks if not task.cancelled() and (e := task.exception())]
        for error in errors:
            if isinstance(error, Fatal):
                raise error
    if errors:
        raise errors[0]
    return first.result(), second.result()
