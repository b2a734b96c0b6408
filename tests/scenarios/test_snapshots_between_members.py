"""Members that are caught up by a snapshot: while clients write, over connections that break, and
with either end killed at each step."""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from partition_client import AsyncClient
from partition_client.client import Source
from partition_replica.offline.stopped import open_stopped
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE

from tests.conformance.test_capture import all_rows
from tests.scenarios.test_group import assert_equal
from tests.support.local_group import LocalGroup, LocalReplica, eventually, free_port
from tests.support.proxy import ResettingProxy

OLD_FILES, NEW_FILES, FILE_BYTES = 3, 4, 150_000
CHUNK_BYTES = 16 * 1024
SHORT_LOG = (
    *("--limit", "log_trail_entries=20"),
    *("--limit", "log_compaction_step_entries=5"),
    *("--limit", f"chunk_bytes={CHUNK_BYTES}"),
    *("--limit", "snapshot_keep_s=10"),
    *("--limit", "snapshot_hold_s=1"),
    *("--limit", "snapshot_partial_keep_s=10"),
    *("--limit", f"fetch_group_bytes_max={2 * FILE_BYTES}"),
)
KEYS, VALUE_BYTES = 120, 5_000
"""A state of more than half a megabyte, so that a snapshot of it is dozens of chunks."""

WHILE_CATCHING_UP = {
    # (who ends, the time at which)
    "snapshot.copied": ("leader", 1),
    "snapshot.sent_part": ("leader", 5),
    "snapshot.received_part": ("follower", 5),
    "snapshot.blob_fetched": ("follower", 2),
    "blobs.synced": ("follower", 2),
    "blobs.named": ("follower", 1),
}


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
        await client.put_file(name, Source.of_bytes(os.urandom(FILE_BYTES)))


@asynccontextmanager
async def writing(client: AsyncClient) -> AsyncIterator[None]:
    """Keys and small files, without a break."""
    stop = asyncio.Event()

    async def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await client.set_key(b"beside/%d" % (number % 50), os.urandom(100))
            await client.put_file(b"beside", Source.of_bytes(os.urandom(1000)))

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


@pytest.mark.parametrize("newcomer", [False, True])
async def test_caught_up_while_clients_write(small_group: LocalGroup, newcomer: bool) -> None:
    """And only the files that it lacks are fetched."""
    group = small_group
    async with group:
        behind = group.replicas[2]
        if newcomer:
            group.replicas = group.replicas[:2]
        await group.bootstrap()
        await group.lead(group.replicas[0])
        async with group.client() as client:
            await write(client, b"old", OLD_FILES)
            if newcomer:
                last = 0
                await write(client, b"new", NEW_FILES)
            else:
                last = await left_behind(group, client, behind)
            async with writing(client):
                await group.start(behind)
                if newcomer:
                    group.replicas.append(behind)
                    await group.add(behind)
                await caught_up(group, behind, last)
        fetched = behind.metric("logstore_snapshot_payloads_fetched_total")
        assert fetched == (OLD_FILES if newcomer else 0) + NEW_FILES
        assert behind.metric("logstore_snapshot_state_bytes_total", direction="in") > 500_000
        await assert_same_bytes(group)


@pytest.mark.parametrize("where", ["state", "payloads"])
async def test_a_broken_connection_costs_only_what_was_on_it(
    small_group: LocalGroup, where: str
) -> None:
    group = small_group
    behind = group.replicas[2]
    for replica in group.replicas:
        replica.advertised_port = free_port()
    async with (
        ResettingProxy(group.replicas[0].advertised_port, group.replicas[0].port) as to_leader,
        ResettingProxy(group.replicas[1].advertised_port, group.replicas[1].port),
        ResettingProxy(behind.advertised_port, behind.port) as to_follower,
        group,
    ):
        await group.bootstrap()
        async with group.client() as client:
            await group.lead(group.replicas[0])
            await write(client, b"old", OLD_FILES)
            last = await left_behind(group, client, behind)
        leader = await group.leader()
        assert leader is group.replicas[0]
        proxy = to_follower if where == "state" else to_leader
        resets = proxy.resets
        if where == "state":
            to_follower.arm(to_target=200_000, times=3)
        else:
            # The follower fetches: what breaks is the way back from the leader.
            to_leader.arm(from_target=200_000, times=3)
        await group.start(behind)

        async def broken() -> bool:
            return proxy.resets >= resets + 3

        await eventually(broken, "three breaks")
        await caught_up(group, behind, last)
        received = behind.metric("logstore_snapshot_state_bytes_total", direction="in")
        resumed = behind.metric("logstore_snapshot_state_bytes_total", direction="resumed")
        if where == "state":
            assert resumed > 0
        made = re.findall(r"snapshot made at \d+: (\d+) bytes", leader.log.read_text())
        assert received == int(made[-1])  # no byte of it twice
        assert behind.metric("logstore_snapshot_payloads_fetched_total") == NEW_FILES
        if where == "payloads":
            carried = behind.metric("logstore_payload_bytes_total", direction="in")
            assert carried == NEW_FILES * FILE_BYTES
        await assert_same_bytes(group)


@pytest.mark.parametrize("failpoint", WHILE_CATCHING_UP)
async def test_either_end_is_killed(small_group: LocalGroup, failpoint: str) -> None:
    group = small_group
    who, count = WHILE_CATCHING_UP[failpoint]
    armed = {ENVIRONMENT: f"{failpoint}:{count}"}
    async with group:
        await group.bootstrap()
        leader, behind = group.replicas[0], group.replicas[2]
        await group.lead(leader)
        async with group.client() as client:
            await write(client, b"old", OLD_FILES)
            last = await left_behind(group, client, behind)
            victim = behind
            if who == "leader":
                leader.kill()
                await group.start(leader, **armed)
                await group.lead(leader)
                victim = leader
            await group.start(behind, **(armed if who == "follower" else {}))
            assert victim.wait_exit() == EXIT_CODE
            await group.start(victim)
            await caught_up(group, behind, last)
            await client.set_key(b"after", b"v")
        await assert_same_bytes(group)
