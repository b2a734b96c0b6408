"""Writers on a group that go on until they are told to stop."""

import asyncio
import os

from partition_client import AsyncClient

from tests.support.local_group import eventually


class Writing:
    """`count` tasks, each of which calls `write` with a rising sequence. A write that fails fails
    the test."""

    def __init__(self, client: AsyncClient, count: int) -> None:
        self.written = 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(client, n)) for n in range(count)]

    async def write(self, client: AsyncClient, number: int, sequence: int) -> None:
        raise NotImplementedError

    async def past(self, count: int) -> None:
        """Waits for so many more acknowledged writes."""
        target = self.written + count

        async def reached() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return self.written >= target

        await eventually(reached, f"{count} more writes")

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _write(self, client: AsyncClient, number: int) -> None:
        sequence = 0
        while not self._stop:
            await self.write(client, number, sequence)
            self.written += 1
            sequence += 1


class Writers(Writing):
    """Each key once; what was acknowledged is in `acknowledged`."""

    def __init__(self, client: AsyncClient, count: int) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        super().__init__(client, count)

    async def write(self, client: AsyncClient, number: int, sequence: int) -> None:
        key, value = b"w%d/%06d" % (number, sequence), os.urandom(20)
        await client.set_key(key, value)
        self.acknowledged[key] = value


async def keys(client: AsyncClient) -> dict[bytes, bytes]:
    """What is there of what they write."""
    return {k: v async for k, v in client.list_keys(b"w", b"x")}
