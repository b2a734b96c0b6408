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


def being_cancelled() -> bool:
    """Whether somebody cancels the current task.

    Ask at the moment, and don't keep the task in a variable. Different tasks may advance one
    asynchronous generator. And a task in a variable of its own coroutine keeps the call, and with
    it gRPC's threads, until the next collection of garbage.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def within(step: Awaitable[T], seconds: float) -> T:
    """Awaits a call, or one step of it. Raises Silent if it takes longer than `seconds`, or if the
    client ended the call; CancelledError only if the current task is being cancelled."""
    try:
        async with asyncio.timeout(seconds):
            return await step
    except TimeoutError as error:
        raise Silent(f"no answer within {seconds:.1f} s") from error
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        raise Silent(CANCELLED_HERE) from None
