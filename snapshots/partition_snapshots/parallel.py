"""Bounded concurrency: some at a time, some ahead, some bytes at most, and iterators on threads."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def _end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels what still runs, and waits until it is over."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _ended(work: asyncio.Future[Any]) -> None:
    """Returns when it is done. The caller may be cancelled often meanwhile: that is raised then."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # seen
        raise cancelled


async def run_to_end(body: Callable[..., R], *arguments: Any) -> R:
    """Runs `body` on a thread. Cancelled, it waits for the body's end first: a thread can't be
    stopped, and descriptors and files that it works on must not be taken away below it."""
    work = asyncio.get_running_loop().run_in_executor(None, body, *arguments)
    await _ended(work)
    return work.result()


async def for_each(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[None]], streams: int
) -> None:
    """Does `work` for each item, `streams` at a time; takes an item only when it is its turn. The
    first error ends the others and is raised, after all have ended."""
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
    """(item, answer) in the items' order; up to `streams` questions are under way."""
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
    """Lets so many bytes be in memory at once; one taker may always go on, however large."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        """Waits for room, holds it meanwhile."""
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
    """An iterator's items, made on a thread of its own, one ahead of whoever takes them. `end` is
    called when no more are wanted, before the thread is waited for."""
    with ThreadPoolExecutor(1) as thread:
        loop = asyncio.get_running_loop()
        iterator = await loop.run_in_executor(thread, make)

        def step() -> object:
            return next(iterator, _END)

        coming = loop.run_in_executor(thread, step)
        try:
            while (item := await coming) is not _END:
                coming = loop.run_in_executor(thread, step)
                yield item  # type: ignore[misc]  # it is no _END
        finally:
            end()
            # The thread may wait for this loop: the pool's end, which blocks, must find it idle.
            try:
                await _ended(coming)
            finally:
                if not coming.cancelled():
                    coming.exception()  # raised above already, or wanted no more
                close = getattr(iterator, "close", None)
                if close is not None:
                    await _ended(loop.run_in_executor(thread, close))
