"""A log that is compacted by itself, and followers that fall behind what it keeps."""

import asyncio
import itertools
import os
from contextlib import aclosing

import grpc
import pytest
from partition_client import AsyncClient, PayloadSource, RequestRefused
from partition_client.errors import detail_of
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.local_group import LocalGroup, LocalReplica, assert_equal, eventually

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
            await client.put_file(b"before", PayloadSource.of_bytes(os.urandom(100_000)))
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
                        await client.put_file(
                            b"f%d" % number, PayloadSource.of_bytes(os.urandom(100_000))
                        )
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
    only.arguments += ["--limit", f"log_trail_bytes={bytes_max}", "--limit", "pin_time_to_live_s=3"]
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
                await client.put_file(b"overwritten", PayloadSource.of_bytes(os.urandom(size)))

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


async def test_a_reader_that_came_too_late_goes_on_from_a_pinned_state(  # noqa: C901  # one scenario from start to end
    group: LocalGroup,
) -> None:
    """At a follower, whose log is short, while everything is overwritten."""
    for replica in group.replicas:
        replica.arguments += SHORT_LOG
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        follower = next(r for r in group.replicas if r is not leader)
        here = follower.address
        async with group.client() as client:
            stop = asyncio.Event()

            async def write() -> None:
                for turn in itertools.count():
                    for number in range(10):
                        await client.set_key(b"k%d" % number, b"%d" % turn)
                    if stop.is_set():
                        return

            writer = asyncio.create_task(write())

            async def too_late() -> bool:
                return await first_index(group, follower) > 50

            await eventually(too_late, "the log is compacted")
            with pytest.raises(RequestRefused, match="COMPACTED"):
                async for _ in client.tail(40, stale_from=here):
                    pass
            async with client.state(stale_from=here) as state:
                found = {key: value async for key, value in state.keys()}
                # Keys are written one after the other, so a state holds no more than two turns.
                turns = [int(found[b"k%d" % number]) for number in range(10)]
                assert turns == sorted(turns, reverse=True)
                assert turns[0] - turns[-1] <= 1
                for number in range(100):  # more than the log keeps for others
                    await client.set_key(b"late %d" % number, b"")
                stop.set()
                await writer
                await client.set_key(b"end", b"")
                tail = client.tail(
                    state.lsn + 1, follow=True, stale_from=here, history=state.history
                )
                async with aclosing(tail) as entries:  # type: ignore[type-var]
                    async for entry in entries:
                        for operation in entry.body.proposal.operations:
                            found[operation.set_key.key] = operation.set_key.value
                        if b"end" in found:
                            break
            there = {key: value async for key, value in client.list_keys()}
        assert found == there


async def test_the_state_of_the_leader_is_found_through_a_follower(group: LocalGroup) -> None:
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        follower = next(r for r in group.replicas if r is not leader)
        call = group.stub(follower).ReadState(iter([api.ReadStateRequest(open=api.OpenState())]))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        detail = detail_of(raised.value)
        assert detail is not None
        assert detail.reason == types.REASON_NOT_LEADER
        assert detail.leader.address == leader.address
        tls = group.tls["client"] if group.tls else None
        async with AsyncClient([follower.address], tls) as client:
            await client.set_key(b"k", b"v")
            client._routing.leader = follower.address  # as if it had led a moment ago
            async with client.state() as state:
                assert state.address == leader.address
                assert [pair async for pair in state.keys()] == [(b"k", b"v")]
