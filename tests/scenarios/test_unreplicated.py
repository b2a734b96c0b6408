"""A partition without Raft, and replication switched on for it while it is written."""

import hashlib
import os
from pathlib import Path

import grpc
import pytest
from partition_client import PayloadSource
from partition_client.errors import detail_of
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types
from partition_replica.offline.volume import replication
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE

from tests.support.crash_points import WHILE_BACKFILLING
from tests.support.local_group import LocalGroup, assert_equal, enable, eventually
from tests.support.writing import Writers, keys

SMALL_STEPS = ("--limit", "backfill_rows=50")


async def test_one_replica_serves_a_standalone_log(group: LocalGroup) -> None:
    async with group:
        only = group.replicas[0]
        group.replicas = [only]
        await group.bootstrap_unreplicated()
        async with group.client() as client:
            await client.set_key(b"k", b"1")
            await client.put_file(b"f", PayloadSource.of_bytes(os.urandom(200_000)))
            status = await group.status(only)
            assert status is not None
            assert (status.standalone, status.role, status.term) == (True, "leader", 0)
            tail = [entry async for entry in client.tail()]
            assert [entry.lsn for entry in tail] == list(range(1, len(tail) + 1))
            with pytest.raises(grpc.aio.AioRpcError, match="enable replication first"):
                await group.admin(only).AddLearner(
                    admin.AddLearnerRequest(lease=group.lease, member_id=5, address="a:1")
                )
            only.kill()
            await group.start(only)
            assert await client.get_key(b"k") == b"1"
            await client.set_key(b"k", b"2")
            assert await client.get_key(b"k") == b"2"


async def test_replication_is_switched_on_while_clients_write(group: LocalGroup) -> None:
    async with group:
        replicas, group.replicas = group.replicas, group.replicas[:1]
        await group.bootstrap_unreplicated()
        async with group.client() as client:
            await client.put_file(b"f", PayloadSource.of_bytes(os.urandom(200_000)))
            writers = Writers(client, 4)
            await writers.past(100)
            await enable(group)
            await writers.past(50)
            group.replicas = replicas
            for replica in replicas[1:]:
                await group.start(replica)
                await group.add(replica)
            await writers.past(20)
            await writers.stop()
            assert await keys(client) == writers.acknowledged
        status = await group.status(await group.leader())
        assert status is not None
        assert (status.standalone, status.HasField("backfill")) == (False, False)
        assert len(status.members) == 3
        await assert_equal(group)


@pytest.mark.parametrize("how", ["running", "stopped", "begun"])
async def test_replication_is_switched_on_before_anything_is_written(
    group: LocalGroup, how: str
) -> None:
    """By the running replica or the command; and by a start, of what an earlier version began."""
    async with group:
        replicas, group.replicas = group.replicas, group.replicas[:1]
        only = replicas[0]
        await group.bootstrap_unreplicated()
        stray = stray_blob(only.data)
        if how != "running":
            assert only.terminate() == 0
            if how == "begun":
                with replication.open_volume(only.data) as volume:
                    assert volume.log.begin_backfill().complete
            else:
                found = replication.enable(only.data, 100, lambda _: None)
                assert (found.first, found.target) == (1, 1)
            await group.start(only)
        await enable(group)
        status = await group.status(only)
        assert status is not None
        assert (status.standalone, status.first_index) == (False, 2)
        await eventually(lambda: gone(stray), "what nothing names is collected")
        async with group.client() as client:
            await client.set_key(b"k", b"v")
            group.replicas = replicas[:2]
            await group.start(replicas[1])
            await group.add(replicas[1])
            await client.set_key(b"k", b"w")
        await assert_equal(group)


def stray_blob(data: Path) -> Path:
    """A blob that nothing names, as a member that is replaced may leave one."""
    content = os.urandom(100)
    name = hashlib.sha256(content).hexdigest()
    folder = data / "blobs" / name[:2]
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


async def gone(path: Path) -> bool:
    return not path.exists()


async def test_what_is_not_done_is_refused(group: LocalGroup) -> None:
    async with group:
        only = group.replicas[0]
        group.replicas = [only]
        await group.start(only)
        enabling = admin.EnableReplicationRequest(lease=group.lease)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await group.admin(only).EnableReplication(enabling)
        detail = detail_of(refused.value)
        assert detail is not None
        assert detail.reason == types.REASON_NOT_BOOTSTRAPPED
        request = group.bootstrap_request()
        request.standalone = True
        for _ in range(2):
            await group.admin(only).Bootstrap(request)
        with pytest.raises(grpc.aio.AioRpcError, match="standalone") as refused:
            await group.admin(only).Bootstrap(group.bootstrap_request())
        detail = detail_of(refused.value)
        assert detail is not None
        assert detail.reason == types.REASON_MEMBERSHIP_REFUSED
        await enable(group)
        for standalone in (True, False):  # done before, and done
            request.standalone = standalone
            await group.admin(only).Bootstrap(request)


@pytest.mark.parametrize("failpoint", WHILE_BACKFILLING)
async def test_while_backfilling(group: LocalGroup, failpoint: str) -> None:
    """The process ends in the middle; what was begun is completed by the next one."""
    async with group:
        replicas, group.replicas = group.replicas, group.replicas[:1]
        only = replicas[0]
        only.arguments += SMALL_STEPS
        await group.bootstrap_unreplicated()
        async with group.client() as client:
            writers = Writers(client, 4)
            await writers.past(300)
            await writers.stop()
            only.kill()
            await group.start(only, **{ENVIRONMENT: failpoint})
            await eventually(lambda: serving(group), "it serves")
            again = Writers(client, 2)
            await again.past(20)
            with pytest.raises(grpc.aio.AioRpcError):
                while True:
                    await group.admin(only).EnableReplication(
                        admin.EnableReplicationRequest(lease=group.lease), timeout=5
                    )
            assert only.wait_exit() == EXIT_CODE
            await group.start(only)
            await again.past(20)
            await enable(group)
            await again.past(5)
            await again.stop()
            found = await keys(client)
            assert all(found[key] is not None for key in writers.acknowledged)
            assert {k: found[k] for k in again.acknowledged} == again.acknowledged
        group.replicas = replicas[:2]
        await group.start(replicas[1])
        await group.add(replicas[1])
        await assert_equal(group)


async def serving(group: LocalGroup) -> bool:
    status = await group.status(group.replicas[0])
    return status is not None and bool(status.serving)


async def test_consumers_hold_the_log_and_a_lost_one_meets_compacted(group: LocalGroup) -> None:
    async with group:
        only = group.replicas[0]
        group.replicas = [only]
        only.arguments += (
            "--limit", "log_trail_entries=1",
            "--limit", "log_compaction_step_entries=1",
        )  # fmt: skip
        await group.bootstrap_unreplicated()
        stub = group.stub(only)
        async with group.client() as client:
            for number in range(20):
                await client.set_key(b"k%d" % number, b"v")
            registered = await stub.RegisterConsumer(
                api.RegisterConsumerRequest(name="indexer", lsn=21)
            )
            assert registered.consumer.lsn == 21
            for number in range(20):
                await client.set_key(b"k%d" % number, b"w")

            async def stored_from(lsn: int) -> bool:
                status = await group.status(only)
                return status is not None and status.stored_from == lsn

            # Position 21 needs 22; one more stays as the trail.
            await eventually(lambda: stored_from(21), "what the consumer needs stays")
            for name, lsn, code in (
                ("indexer", 20, grpc.StatusCode.INVALID_ARGUMENT),
                ("indexer", 1000, grpc.StatusCode.INVALID_ARGUMENT),
                ("nobody", 22, grpc.StatusCode.NOT_FOUND),
                ("applied", 22, grpc.StatusCode.NOT_FOUND),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.AcknowledgeConsumer(
                        api.AcknowledgeConsumerRequest(name=name, lsn=lsn)
                    )
                assert refused.value.code() == code
            with pytest.raises(grpc.aio.AioRpcError, match="already registered"):
                await stub.RegisterConsumer(api.RegisterConsumerRequest(name="indexer"))
            await stub.AcknowledgeConsumer(api.AcknowledgeConsumerRequest(name="indexer", lsn=30))
            await eventually(lambda: stored_from(30), "what it acknowledged goes")
            only.kill()
            await group.start(only)
            listed = await stub.ListConsumers(api.ListConsumersRequest())
            assert [(c.name, c.lsn) for c in listed.consumers] == [("indexer", 30)]
            with pytest.raises(grpc.aio.AioRpcError) as gone:
                async for _ in stub.Read(api.ReadRequest(from_lsn=5)):
                    pass
            detail = detail_of(gone.value)
            assert detail is not None
            assert (detail.reason, detail.first_index) == (types.REASON_COMPACTED, 30)
            await stub.RemoveConsumer(api.RemoveConsumerRequest(name="indexer"))
            await client.set_key(b"more", b"v")

            async def trail_alone() -> bool:
                status = await group.status(only)
                return status is not None and status.stored_from == status.last_index

            await eventually(trail_alone, "nobody holds the log")
