"""Deadlines of many waits with one timer. A timer for each would cost as much as the wait."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

IDLE_TIMERS_MAX = 16
"""Above so many timers, one that no item needs is cancelled. Otherwise it stays for the next item:
one item at a time would set a timer for each."""


class Deadlines(Generic[T]):
    """Calls `expired` for each item that is not removed in time. On one event loop.

    Items with the same allowed time expire in the order in which they were added, so the first of
    them is the next one, and one timer per allowed time is enough.
    """

    def __init__(self, expired: Callable[[T], None]) -> None:
        self._expired = expired
        self._waiting: dict[float, dict[T, float]] = {}
        """By allowed seconds: the items, in the order of their deadlines."""
        self._timers: dict[float, asyncio.TimerHandle] = {}

    def add(self, item: T, allowed_s: float) -> None:
        """Starts the time of `item`, which has none. `allowed_s` is to be the same for many."""
        loop = asyncio.get_running_loop()
        at = loop.time() + allowed_s
        self._waiting.setdefault(allowed_s, {})[item] = at
        if allowed_s not in self._timers:
            self._timers[allowed_s] = loop.call_at(at, self._look, allowed_s)

    def remove(self, item: T, allowed_s: float) -> None:
        """Ends the time of `item`. Does nothing if it has none."""
        waiting = self._waiting.get(allowed_s)
        if waiting is None:
            return
        waiting.pop(item, None)
        if not waiting and len(self._timers) > IDLE_TIMERS_MAX:
            self._timers.pop(allowed_s).cancel()
            del self._waiting[allowed_s]

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()

    def _look(self, allowed_s: float) -> None:
        """Removed items leave the timer as it is. So it may find that nothing is due, and then it
        is set for the item that is next."""
        waiting = self._waiting[allowed_s]
        now = asyncio.get_running_loop().time()
        due = []
        for item, at in waiting.items():
            if at > now:
                break
            due.append(item)
        for item in due:
            waiting.pop(item, None)
        for item in due:
            self._expired(item)
        if waiting:
            at = next(iter(waiting.values()))
            loop = asyncio.get_running_loop()
            self._timers[allowed_s] = loop.call_at(at, self._look, allowed_s)
        else:
            del self._timers[allowed_s], self._waiting[allowed_s]
