"""Work on threads that must not be abandoned halfway."""

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
    """Waits for `work` and returns its result.

    A cancelled caller still waits for the end of the work, no matter how often it is cancelled:
    `give_up` is called at once to hasten the end, `undo` gets the result, and then the
    cancellation is raised. If the work raises a Fatal, that is raised instead, because a failed
    fsync must end the process."""
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
    """Runs `body` on a thread, and waits for it as `finish` does: a thread cannot be stopped, and
    the caller must not release resources that it still uses."""
    # Not to_thread: that is a task. The loop's end cancels it while the thread still works.
    working = asyncio.get_running_loop().run_in_executor(None, body)
    return await finish(working, undo, give_up=give_up)


async def all_ended(*works: Awaitable[object], failed: Callable[[Fatal], None]) -> None:
    """Waits until all have ended. Passes each Fatal to `failed` as soon as it is raised. Then
    raises one error, a Fatal if there is one, and logs the others."""
    errors: list[Exception] = []

    async def end(work: Awaitable[object]) -> None:
        try:
            await work
        except Fatal as error:
            errors.insert(0, error)
            failed(error)
        except Exception as error:  # still wait for the others
            errors.append(error)

    await asyncio.gather(*map(end, works))
    for error in errors[1:]:
        logger.error("another part also failed to stop cleanly", exc_info=error)
    if errors:
        raise errors[0]


async def ahead(items: AsyncIterator[T], work: Callable[[T], None]) -> None:
    """Calls `work` on a thread for each item, in order, while the next item is produced. An error
    of either, or a cancellation, is raised once no thread works any more."""
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
    """Runs both at the same time and returns their results. An error of one, or a cancellation,
    cancels the other, and is raised once both have ended. A Fatal has precedence."""
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    tasks: tuple[asyncio.Future[Any], ...] = (first, second)
    try:
        # Not FIRST_EXCEPTION: that ignores cancelled tasks.
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
