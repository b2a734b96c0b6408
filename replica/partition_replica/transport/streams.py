"""How much the streams of a replica may hold: how many are open, and what one has under way.

A stream that has too much under way is not read from, and HTTP/2's flow control holds its sender
back. One stream too many is refused.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from partition_replica.errors import Overloaded


class Streams:
    """The open streams of one kind of caller. On the event loop."""

    def __init__(
        self, streams_max: int, opened: Callable[[str, int], None] = lambda *_: None
    ) -> None:
        """`opened` is told of each change: a method, and how many of its streams are open."""
        self._streams_max = streams_max
        self._opened = opened
        self._open: Counter[str] = Counter()

    @contextmanager
    def open(self, method: str) -> Iterator[None]:
        """Counts a stream while it is open. Raises Overloaded for one too many."""
        if self._open.total() >= self._streams_max:
            raise Overloaded(
                f"{self._streams_max} streams are open here, the most that may be: close some, or "
                "retry with back-off"
            )
        self._count(method, 1)
        try:
            yield
        finally:
            self._count(method, -1)

    async def through(
        self, method: str, messages: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[Any, None]:
        """The same messages, of a stream that is counted. Raises Overloaded."""
        with self.open(method):
            async with aclosing(messages):
                async for message in messages:
                    yield message

    def _count(self, method: str, change: int) -> None:
        self._open[method] += change
        self._opened(method, self._open[method])


class StreamBytes:
    """Bytes that all streams of a kind hold together."""

    def __init__(self, bytes_max: int, changed: Callable[[int], None] = lambda _: None) -> None:
        self._bytes_max = bytes_max
        self._changed = changed
        self._bytes = 0

    def fits(self, size: int) -> bool:
        return self._bytes + size <= self._bytes_max

    def add(self, size: int) -> None:
        """Negative for what goes."""
        self._bytes += size
        self._changed(self._bytes)


class StreamWindow:
    """What one stream has under way: a request until its answer is made, then the answer until it
    is sent. Whoever does not read its answers is not read from: their number is bounded, too."""

    def __init__(self, requests_max: int, bytes_max: int, held: StreamBytes) -> None:
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._held = held
        self._requests = self._bytes = 0
        self._freed = asyncio.Event()

    async def take(self, size: int) -> bool:
        """Waits until there is room for one more; one caller at a time. A request that is larger
        than everything is taken alone. False if it does not fit into what all streams may hold: it
        counts as one request of 0 bytes then, for its answer."""
        while self._requests and not self._fits(size):
            self._freed.clear()
            await self._freed.wait()
        fits = self._held.fits(size)
        self._requests += 1
        if fits:
            self._bytes += size
            self._held.add(size)
        return fits

    def shrink(self, size: int, to: int) -> None:
        """Of a request that was taken with `size` bytes, `to` are still held."""
        if not self._requests:
            return  # the stream is over
        self._bytes += to - size
        self._held.add(to - size)
        self._freed.set()

    def give(self, size: int) -> None:
        self._requests -= 1
        self._bytes -= size
        self._held.add(-size)
        self._freed.set()

    def close(self) -> None:
        """Gives everything back: the stream is over."""
        self._held.add(-self._bytes)
        self._requests = self._bytes = 0

    def _fits(self, size: int) -> bool:
        return self._requests < self._requests_max and self._bytes + size <= self._bytes_max
