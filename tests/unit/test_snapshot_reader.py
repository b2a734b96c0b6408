"""Whoever stops reading rows is not held up by a store that does not answer."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import ObjectName, Run
from partition_snapshots.read import SnapshotReader


class SilentStore:
    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.given_up = False

    async def get(self, name: str, size_max: int) -> bytes:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        raise AssertionError


async def test_a_get_that_nobody_waits_for_is_given_up() -> None:
    store: Any = SilentStore()
    manifest: Any = SimpleNamespace(runs=(Run((ObjectName("ab" * 32, 10, 1),)),))
    reader = SnapshotReader(store, manifest, SnapshotLimits())

    async def read() -> None:
        async with aclosing(reader.rows()) as rows:
            await anext(rows)

    task = asyncio.create_task(read())
    await asyncio.wait_for(store.asked.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    assert store.given_up
