"""A member that is left behind the others' log, and what a snapshot brings it."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from partition_client import AsyncClient, PayloadSource
from partition_replica.offline.stopped import open_stopped

from tests.support.captures import all_rows
from tests.support.local_group import LocalGroup, LocalReplica, assert_equal, eventually

OLD_FILES, NEW_FILES, FILE_BYTES = 3, 4, 150_000
CHUNK_BYTES = 16 * 1024
SHORT_LOG = (
    *("--limit", "log_trail_entries=20"),
    *("--limit", "log_compaction_step_entries=5"),
    *("--limit", f"chunk_bytes={CHUNK_BYTES}"),
    *("--limit", "transfer_keep_s=10"),
    *("--limit", "transfer_hold_s=1"),
    *("--limit", "transfer_partial_keep_s=10"),
    *("--limit", f"fetch_group_bytes_max={2 * FILE_BYTES}"),
)
KEYS, VALUE_BYTES = 120, 5_000
"""A state of more than half a megabyte, so that a snapshot of it is dozens of chunks."""


@pytest.fixture
def small_group(group: LocalGroup) -> LocalGroup:
    for replica in group.replicas:
        replica.arguments += SHORT_LOG
    return group


async def write(client: AsyncClient, prefix: bytes, files: int) -> None:
    for number in range(KEYS):
        await client.set_key(b"%s/%d" % (prefix, number), os.urandom(VALUE_BYTES))
    for number in range(files):
        name = b"%s-file-%d" % (prefix, number)
        await client.put_file(name, PayloadSource.of_bytes(os.urandom(FILE_BYTES)))


@asynccontextmanager
async def writing(client: AsyncClient) -> AsyncIterator[None]:
    """Keys and small files, without a break."""
    stop = asyncio.Event()

    async def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await client.set_key(b"beside/%d" % (number % 50), os.urandom(100))
            await client.put_file(b"beside", PayloadSource.of_bytes(os.urandom(1000)))

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        stop.set()
        await task


async def last_index(group: LocalGroup, replica: LocalReplica) -> int:
    status = await group.status(replica)
    return int(status.last_index) if status is not None else 0


async def left_behind(group: LocalGroup, client: AsyncClient, behind: LocalReplica) -> int:
    """Kills a follower, writes, and returns its last index when no log reaches back to it."""
    await group.settled()
    last = await last_index(group, behind)
    behind.kill()
    await write(client, b"new", NEW_FILES)

    async def compacted() -> bool:
        others = [await group.status(r) for r in group.replicas if r is not behind]
        return all(status is not None and status.first_index > last + 1 for status in others)

    await eventually(compacted, "every log is compacted past the follower")
    return last


async def caught_up(group: LocalGroup, replica: LocalReplica, last: int) -> None:
    """By a snapshot: its log begins behind where it was."""

    async def done() -> bool:
        status = await group.status(replica)
        return status is not None and status.first_index > last + 1 and status.applied > last

    await eventually(done, f"{replica.name} is caught up by a snapshot", 120.0)


async def assert_same_bytes(group: LocalGroup) -> None:
    """The same rows at the same LSN, and the same files; nothing is left of what was on its way."""
    await assert_equal(group)

    async def tidy() -> bool:
        return not any(list((r.data / "staging").iterdir()) for r in group.replicas)

    await eventually(tidy, "staging is empty")
    found = []
    for replica in group.replicas:
        replica.kill()
        with open_stopped(replica.data) as volume:
            rows = all_rows(volume.state)
            del rows["unapplied"]  # a replica's own
            named = dict(volume.state.blobs())
            present = {digest for digest in named if volume.blob_path(digest).exists()}
            for digest in named:
                content = volume.blob_path(digest).read_bytes()
                assert hashlib.sha256(content).digest() == digest
            assert present == set(named)
            found.append((volume.state.applied, rows))
    assert all(other == found[0] for other in found[1:])
