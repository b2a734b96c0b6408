"""Writers that record acknowledged writes in a journal outside of the cluster, to find lost
ones."""

import asyncio
import os
import time
from pathlib import Path

from partition_client import AsyncClient
from partition_client.errors import ClientError

FAILURES_MAX = 1000
"""After this many failures, each writer stops at its next failure."""
PAUSE_S = 0.05
"""The pause after a failure, in seconds."""


class Writers:
    """`count` tasks that set keys, each its own. Acknowledged writes go to the journal. The journal
    is not fsynced, because this process does not crash."""

    def __init__(self, client: AsyncClient, count: int, journal: Path, prefix: str) -> None:
        self._client = client
        self._count = count
        self._prefix = prefix
        self._journal = journal.open("a")
        self._tasks: list[asyncio.Task[None]] = []
        self._acknowledged = asyncio.Event()
        self.acknowledged: dict[bytes, bytes] = {}
        self.failures: list[str] = []
        self.last_at = 0.0
        self._last_sent = 0.0
        self.longest_s = 0.0
        """The longest time between two acknowledgements. The caller may reset it to 0."""

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._write(n)) for n in range(self._count)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._journal.close()

    async def next_acknowledged(self, after: float, within_s: float = 120) -> float:
        """Returns the seconds from `after` (monotonic) to the first acknowledgement of a write that
        was sent later. Answers in flight at `after` do not count."""
        async with asyncio.timeout(within_s):
            while self._last_sent <= after:
                self._acknowledged.clear()
                await self._acknowledged.wait()
        return self.last_at - after

    async def lost(self, client: AsyncClient) -> list[bytes]:
        """Returns the keys of acknowledged writes that are missing or have another value."""
        found = {
            key: value async for key, value in client.list_keys(self._prefix.encode(), b"\xff")
        }
        return [key for key, value in self.acknowledged.items() if found.get(key) != value]

    async def _write(self, number: int) -> None:
        sequence = 0
        while True:
            sequence += 1
            key = f"{self._prefix}{number}/{sequence:08}".encode()
            value = os.urandom(64).hex().encode()
            sent = time.monotonic()
            try:
                await self._client.set_key(key, value)
            except ClientError as error:
                # Not acknowledged, so the write may have taken effect or not.
                self.failures.append(f"{key!r}: {error}")
                if len(self.failures) >= FAILURES_MAX:
                    return
                # An error may be immediate: the pause lets other tasks run.
                await asyncio.sleep(PAUSE_S)
                continue
            self.acknowledged[key] = value
            self._journal.write(f"{key.decode()} {value.decode()}\n")
            self._journal.flush()
            now = time.monotonic()
            if self.last_at:
                self.longest_s = max(self.longest_s, now - self.last_at)
            self.last_at, self._last_sent = now, max(sent, self._last_sent)
            self._acknowledged.set()
