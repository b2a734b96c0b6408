"""Pauses of appends that a replica refused for now."""

import asyncio
from collections.abc import Callable

from partition_common import backoff

from partition_client.pending_append import PendingAppend


class Pauses:
    """One timer for all appends that were refused together and equally often: a timer for each
    would cost most when replicas are overloaded. On one event loop."""

    def __init__(self, over: Callable[[PendingAppend], None]) -> None:
        """`over` is called with each append after its pause. It does not raise."""
        self._over = over
        self._refused: list[PendingAppend] = []
        self._serial = 0
        self.timers: dict[int, asyncio.TimerHandle] = {}

    def add(self, pending: PendingAppend) -> None:
        """An append was refused for now. `begin` begins its pause."""
        self._refused.append(pending)

    def begin(self) -> None:
        groups: dict[int, list[PendingAppend]] = {}
        for pending in self._refused:
            if not pending.future.done():
                pending.pauses += 1
                pending.paused = True
                groups.setdefault(pending.pauses, []).append(pending)
        self._refused.clear()
        loop = asyncio.get_running_loop()
        for pauses, group in groups.items():
            self._serial += 1
            pause_s = backoff.REFUSED.after(pauses)
            timer = loop.call_later(pause_s, self._end, self._serial, group)
            self.timers[self._serial] = timer

    def close(self) -> None:
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()

    def _end(self, serial: int, group: list[PendingAppend]) -> None:
        del self.timers[serial]
        for pending in group:
            pending.paused = False
            self._over(pending)
