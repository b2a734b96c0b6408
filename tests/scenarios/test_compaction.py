"""A log that is compacted by itself, and followers that fall behind what it keeps."""

import asyncio
import os

import pytest
from partition_client.client import Source

from tests.scenarios.test_group import assert_equal
from tests.support.local_group import LocalGroup, LocalReplica, eventually

SHORT_LOG = ("--limit", "log_trail_entries=20", "--limit", "log_compaction_step_entries=5")


async def first_index(group: LocalGroup, replica: LocalReplica) -> int:
    status = await group.status(replica)
    return int(status.first_index) if status is not None else 0


@pytest.mark.parametrize("kill", [False, True])
async def test_a_follower_behind_the_log_is_caught_up_by_a_snapshot(
    group: LocalGroup, kill: bool
) -> None:
    """Stopped until the log is compacted past it, while writes go on; it ends equal, and so does
    one that is killed once more while the snapshot is on its way."""
    for replica in group.replicas:
        replica.arguments += SHORT_LOG
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        behind = next(r for r in group.replicas if r is not leader)
        async with group.client() as client:
            await client.put_file(b"before", Source.of_bytes(os.urandom(100_000)))
            await group.settled()
            status = await group.status(behind)
            assert status is not None
            last = status.last_index
            behind.kill()
            stop = asyncio.Event()
            written: dict[bytes, bytes] = {}

            async def write() -> None:
                number = 0
                while not stop.is_set():
                    key, value = b"k%06d" % number, os.urandom(16)
                    await client.set_key(key, value)
                    written[key] = value
                    if number % 50 == 0:
                        await client.put_file(b"f%d" % number, Source.of_bytes(os.urandom(100_000)))
                    number += 1

            writer = asyncio.create_task(write())

            async def compacted_past() -> bool:
                return await first_index(group, leader) > last + 1

            await eventually(compacted_past, "the log is compacted past the follower")
            await group.start(behind)
            if kill:
                behind.kill()
                await group.start(behind)

            async def caught_up() -> bool:
                return await first_index(group, behind) > last + 1

            await eventually(caught_up, "a snapshot caught it up")
            stop.set()
            await writer
            found = {k: v async for k, v in client.list_keys(b"k", b"l")}
        assert found == written
        await assert_equal(group)


async def test_a_log_is_compacted_by_bytes(group: LocalGroup) -> None:
    """Of entries, and of files that nothing but the log names any more: those are collected."""
    bytes_max, size = 500_000, 100_000
    only = group.replicas[0]
    group.replicas = [only]
    # An upload is kept for its lease, whoever names it.
    only.arguments += ["--limit", f"log_trail_bytes={bytes_max}", "--limit", "pin_lease_s=3"]
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            for number in range(100):
                await client.set_key(b"%d" % number, os.urandom(10_000))

            async def short() -> bool:
                status = await group.status(only)
                return status is not None and status.last_index - status.first_index < 60

            await eventually(short, "entries go")
            for _ in range(20):
                await client.put_file(b"overwritten", Source.of_bytes(os.urandom(size)))

            async def collected() -> bool:
                blobs = [path for path in (only.data / "blobs").glob("*/*") if path.is_file()]
                return len(blobs) <= bytes_max // size + 1  # and the one that is in the tree

            await eventually(collected, "overwritten files go")
            found = [key async for key, _ in client.list_keys()]
        assert len(found) == 100


async def test_a_short_log_survives_restarts_and_elections(group: LocalGroup) -> None:
    for replica in group.replicas:
        replica.arguments += SHORT_LOG
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            for turn in range(3):
                for number in range(60):
                    await client.set_key(b"%d/%d" % (turn, number), b"v")
                leader = await group.leader()
                leader.kill()
                await client.set_key(b"without %d" % turn, b"v")
                await group.start(leader)
            found = [key async for key, _ in client.list_keys()]
        assert len(found) == 3 * 61
        await assert_equal(group)
