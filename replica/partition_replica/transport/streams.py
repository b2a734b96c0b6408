"""Limits for the streams of a replica: the number of open streams, and the bytes in progress.

If a stream has too much in progress, the replica stops reading from it, and HTTP/2's flow control
stops its sender. A stream above the maximum number is refused.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from partition_replica.errors import Overloaded


class Streams:
    """Counts the open streams of one kind of caller. On the event loop."""

    def __init__(
        self, streams_max: int, opened: Callable[[str, int], None] = lambda *_: None
    ) -> None:
        """`opened` is called at each change with a method and the number of its open streams."""
        self._streams_max = streams_max
        self._opened = opened
        self._open: Counter[str] = Counter()

    @contextmanager
    def open(self, method: str) -> Iterator[None]:
        """Counts a stream while it is open. Raises Overloaded if `streams_max` are open already."""
        if self._open.total() >= self._streams_max:
            raise Overloaded(
                f"{self._streams_max} streams are open here, the maximum: close some, or retry "
                "with backoff"
            )
        self._count(method, 1)
        try:
            yield
        finally:
            self._count(method, -1)

    async def through(
        self, method: str, messages: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[Any, None]:
        """Yields the same messages, and counts the stream meanwhile. Raises Overloaded."""
        with self.open(method):
            async with aclosing(messages):
                async for message in messages:
                    yield message

    def _count(self, method: str, change: int) -> None:
        self._open[method] += change
        self._opened(method, self._open[method])


class StreamBytes:
    """The bytes that all streams of one kind hold together."""

    def __init__(self, bytes_max: int, changed: Callable[[int], None] = lambda _: None) -> None:
        self._bytes_max = bytes_max
        self._changed = changed
        self._bytes = 0

    def fits(self, size: int) -> bool:
        return self._bytes + size <= self._bytes_max

    def add(self, size: int) -> None:
        """Adds `size` bytes; negative to release them."""
        self._bytes += size
        self._changed(self._bytes)


class StreamWindow:
    """The requests and answers that one stream has in progress, by count and bytes. A request
    counts until its answer exists; then the answer counts until it is sent. So a caller that does
    not read its answers can't send more requests."""

    def __init__(self, requests_max: int, bytes_max: int, held: StreamBytes) -> None:
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._held = held
        self._requests = self._bytes = 0
        self._freed = asyncio.Event()

    async def take(self, size: int, requests: int = 1) -> bool:
        """Waits until there is room for more requests of together `size` bytes. Only one caller may
        wait. What is above a limit by itself waits until it is alone. Returns False if it does not
        fit into the limit of all streams; then the requests count, with 0 bytes."""
        while self._requests and not self._fits(size, requests):
            self._freed.clear()
            await self._freed.wait()
        fits = self._held.fits(size)
        self._requests += requests
        if fits:
            self._bytes += size
            self._held.add(size)
        return fits

    def shrink(self, size: int, to: int) -> None:
        """A request that was taken with `size` bytes now holds only `to` bytes."""
        if not self._requests:
            return  # the stream is over
        self._bytes += to - size
        self._held.add(to - size)
        self._freed.set()

    def give(self, size: int, requests: int = 1) -> None:
        """Answers are sent, to requests that held `size` bytes together."""
        self._requests -= requests
        self._bytes -= size
        self._held.add(-size)
        self._freed.set()

    def close(self) -> None:
        """Releases everything, because the stream is over."""
        self._held.add(-self._bytes)
        self._requests = self._bytes = 0

    @property
    def empty(self) -> bool:
        """Whether the answers to all requests are sent."""
        return not self._requests

    def _fits(self, size: int, requests: int) -> bool:
        return (
            self._requests + requests <= self._requests_max
            and self._bytes + size <= self._bytes_max
        )
