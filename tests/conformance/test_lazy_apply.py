"""A replica whose entries would be applied an hour after their commit: everyone who waits for the
state is served at once, because the waiting itself has the entries applied."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.ids import LSN
from partition_replica.runtime.transfer.capture import capture_in_time

from tests.support.one_replica import OneReplica, serving
from tests.support.proposals import set_key

LAZY = replace(Limits(), apply_delay_s=3600.0, disk_reserve_bytes=1)

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def lazy(data: Path, *, standalone: bool = False) -> AsyncIterator[OneReplica]:
    async with serving(data, standalone=standalone, limits=LAZY) as one:
        yield one


async def commit(one: OneReplica, key: bytes) -> LSN:
    """Appends; returns when it is committed, and not applied."""
    found = one.proposal(set_key(key, b"v"))
    applied = await one.replica.applications.append(found, retry=False, wait_applied=False)
    assert applied.kind == "committed"
    assert one.volume.state.applied.index < applied.index
    return applied.index


@pytest.mark.parametrize("standalone", [False, True])
async def test_appends_and_sessions(tmp_path: Path, standalone: bool) -> None:
    async with lazy(tmp_path / "data", standalone=standalone) as one:
        for number in range(3):
            await commit(one, b"k%d" % number)
        assert one.keys() == []
        await one.set(b"waits")
        assert one.keys() == [b"k0", b"k1", b"k2", b"waits"]
        await commit(one, b"later")
        session, _ = await one.replica.applications.open_session(0)
        await commit(one, b"last")
        await one.replica.applications.close_session(session)
        assert b"last" in one.keys()


async def test_retries_and_preconditions(tmp_path: Path) -> None:
    async with lazy(tmp_path / "data") as one:
        found = one.proposal(set_key(b"k", b"v"))
        append = one.replica.applications.append
        first = await append(found, retry=False, wait_applied=False)
        again = await append(found, retry=True, wait_applied=False)
        assert again.kind == "duplicate"
        assert again.result is not None
        assert again.result.lsn == first.index
        await commit(one, b"other")
        guarded = one.proposal(set_key(b"k", b"w"))
        guarded.preconditions.add(key_equals=types.KeyEquals(key=b"other", value=b"v"))
        assert (await append(guarded, retry=False, wait_applied=False)).kind == "proposal"


async def test_linearizable_reads(tmp_path: Path) -> None:
    async with lazy(tmp_path / "data") as one:
        for number in range(3):
            lsn = await commit(one, b"k%d" % number)
            reader = await one.replica.applications.read_point(linearizable=True)
            assert reader.get_value(b"k%d" % number) == (b"v", lsn)


async def test_readers_that_follow_the_log(tmp_path: Path) -> None:
    async with lazy(tmp_path / "data") as one:
        applications = one.replica.applications
        at = int(one.volume.state.applied.index) + 1
        for _ in range(3):
            following = asyncio.create_task(applications.advanced())
            await asyncio.sleep(0)
            found = one.proposal(set_key(b"k", b"v"))
            applied = await applications.append(found, retry=False, wait_applied=False)
            await following
            entries, at = applications.committed_entries(at, 1 << 20)
            assert [entry.index for entry in entries] == [applied.index]
        # Entries that were committed before the reader waits.
        await commit(one, b"k")
        await applications.advanced()
        assert len(applications.committed_entries(at, 1 << 20)[0]) == 1


async def test_consumers(tmp_path: Path) -> None:
    async with lazy(tmp_path / "data") as one:
        consumers = one.replica.applications.consumers
        await consumers.register("archive", await commit(one, b"k"))
        await consumers.acknowledge("archive", await commit(one, b"l"))


async def test_copies_of_the_state(tmp_path: Path) -> None:
    async with lazy(tmp_path / "data") as one:
        lsn = await commit(one, b"k")
        member = one.replica.current.running()
        captured = await capture_in_time(lambda: member.capture, tmp_path / "copy", 30.0)
        assert captured.position.index >= lsn
        await asyncio.to_thread(captured.remove)


@pytest.mark.parametrize("standalone", [False, True])
async def test_a_stop_applies_what_is_committed_and_a_start_serves(
    tmp_path: Path, standalone: bool
) -> None:
    async with lazy(tmp_path / "data", standalone=standalone) as one:
        lsn = await commit(one, b"k")
    again = OneReplica(tmp_path / "data", LAZY)
    assert again.volume.state.applied.index == lsn
    assert again.keys() == [b"k"]
    again.replica.start()
    await again.serve()
    await commit(again, b"l")
    await again.stop()


async def test_replication_is_enabled(tmp_path: Path) -> None:
    async with lazy(tmp_path / "data", standalone=True) as one:
        await commit(one, b"k")
        await one.replica.administration.enable_replication()

        async def replicated() -> bool:
            return not one.replica.status().standalone and one.replica.status().serving

        while not await replicated():
            await asyncio.sleep(0.01)
        assert one.keys() == [b"k"]
        await commit(one, b"l")
