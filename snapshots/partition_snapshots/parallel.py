"""Bounded concurrency: limits for tasks, for read-ahead and for bytes; and iterators on threads."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def _end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels the tasks, and waits until they have ended."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _ended(work: asyncio.Future[Any]) -> None:
    """Waits until `work` is done. If the caller is cancelled, however often, raises CancelledError
    only after that."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # retrieve it, or asyncio logs it
        raise cancelled


async def run_to_end(body: Callable[..., R], *arguments: Any) -> R:
    """Runs `body` on a thread. A cancelled caller still waits for the end of the body: a thread
    can't be stopped, and the caller must not close descriptors and files that the thread uses."""
    work = asyncio.get_running_loop().run_in_executor(None, body, *arguments)
    await _ended(work)
    return work.result()


async def for_each(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[None]], streams: int
) -> None:
    """Does `work` for each item, `streams` at a time. Takes an item only when a worker is free. The
    first error cancels the other workers, and is raised after all have ended."""
    turn = asyncio.Lock()

    async def worker() -> None:
        while True:
            async with turn:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            await work(item)

    tasks = [asyncio.ensure_future(worker()) for _ in range(streams)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await _end(tasks)


async def ahead(
    items: Iterable[T], ask: Callable[[T], Awaitable[R]], streams: int
) -> AsyncGenerator[tuple[T, R], None]:
    """Yields (item, answer) in the items' order. Up to `streams` calls of `ask` run at a time."""
    waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, asyncio.ensure_future(ask(item))))
            if len(waiting) >= streams:
                first, answer = waiting.popleft()
                yield first, await answer
        while waiting:
            first, answer = waiting.popleft()
            yield first, await answer
    finally:
        await _end(answer for _, answer in waiting)


class ByteBudget:
    """Limits the bytes in memory. If no bytes are taken, any size is admitted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Waits until `size` bytes are free, and takes them during the body."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._taken or self._taken + size <= self._most
            )
            self._taken += size
        try:
            yield
        finally:
            self._taken -= size
            async with self._changed:
                self._changed.notify_all()


_END = object()


async def on_thread(
    make: Callable[[], Iterator[T]], end: Callable[[], None] = lambda: None
) -> AsyncGenerator[T, None]:
    """Yields an iterator's items, which a separate thread makes, one item ahead of the caller.
    When the caller wants no more, `end` is called before the wait for the thread."""
    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()
        iterator = await loop.run_in_executor(thread, make)

        def step() -> object:
            return next(iterator, _END)

        coming = loop.run_in_executor(thread, step)
        try:
            while (item := await coming) is not _END:
                coming = loop.run_in_executor(thread, step)
                yield item  # type: ignore[misc]  # it is not _END
        finally:
            end()
            # The thread may wait for this loop. So wait for the thread here, without blocking the
            # loop, before the pool's exit blocks.
            try:
                await _ended(coming)
            finally:
                if not coming.cancelled():
                    coming.exception()  # retrieve it: it was raised above, or is not needed
                close = getattr(iterator, "close", None)
                if close is not None:
                    await _ended(loop.run_in_executor(thread, close))
