"""Waits for gRPC calls: with a limit, and with the reason why a wait ended.

If a call is cancelled, gRPC raises CancelledError in every task that waits for it. The client
cancels calls itself: `close` cancels all of them, and a silent stream is given up. A task that
waits for such a call is not cancelled, and must not look as if it were.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

CANCELLED_HERE = "the client ended the call"

T = TypeVar("T")


class Silent(Exception):
    """A try got no answer: the replica took too long, or the client ended the call."""


async def cancellations() -> int:
    """How many earlier cancellations the current task has caught without `uncancel`, for example
    because it calls the client in a `finally`. Ask before a wait: see `being_cancelled`.

    Raises CancelledError if the task was cancelled while it ran, and has not heard of it yet.
    """
    if not being_cancelled():
        return 0
    await asyncio.sleep(0)
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def being_cancelled(since: int = 0) -> bool:
    """Whether somebody cancels the current task, or has done so since `cancellations` said `since`.

    Ask at the moment, and don't keep the task in a variable. Different tasks may advance one
    asynchronous generator. And a task in a variable of its own coroutine keeps the call, and with
    it gRPC's threads, until the next collection of garbage.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > since


async def within(step: Awaitable[T], seconds: float) -> T:
    """Awaits a call, or one step of it. Raises Silent if it takes longer than `seconds`, or if the
    client ended the call; CancelledError only if somebody cancels the current task meanwhile."""
    try:
        before = await cancellations()
    except asyncio.CancelledError:
        asyncio.ensure_future(step).cancel()  # Python warns of a coroutine that nobody awaits
        raise
    try:
        async with asyncio.timeout(seconds):
            return await step
    except TimeoutError as error:
        raise Silent(f"no answer within {seconds:.1f} s") from error
    except asyncio.CancelledError:
        if being_cancelled(before):
            raise
        raise Silent(CANCELLED_HERE) from None
