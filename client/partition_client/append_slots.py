"""Places for the appends that may be under way at a time."""

import asyncio
from typing import Any

from partition_client.pending_append import PendingAppend


class AppendSlots:
    """As many places as `count`. On the event loop."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def take(self, pending: PendingAppend) -> bool:
        """Waits for a place. Returns False, and takes none, if the append ends before: its deadline
        counts this wait, too."""
        if not self._free.locked():
            return await self._free.acquire()  # at once
        waiting = asyncio.ensure_future(self._free.acquire())
        taken = False
        try:
            either: set[asyncio.Future[Any]] = {waiting, pending.future}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            taken = waiting.done() and not pending.future.done()
            return taken
        finally:
            if not taken:
                if waiting.done() and not waiting.cancelled():
                    self.release()
                waiting.cancel()

    def release(self) -> None:
        self._free.release()
