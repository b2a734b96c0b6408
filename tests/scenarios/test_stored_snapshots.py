"""Stored snapshots of real replicas: taken while clients write, on any replica, into its volume or
an S3 server; what is restored of them is what the log said at their LSN. Cut off at any point, they
are taken again. How jobs are started, cancelled and refused: test_snapshot_jobs."""

import os

import grpc
import pytest
from partition_client import PayloadSource
from partition_client.errors import detail_of
from partition_client.tree import digest_tree, put_tree
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import types_pb2 as types
from partition_replica.storage.failpoints import ENVIRONMENT, EXIT_CODE

from dev.object_store import ObjectStoreServer
from dev.ports import free_port
from tests.support.crash_points import WHILE_A_JOB_RUNS, WHILE_DELETING, WHILE_TAKING
from tests.support.local_group import (
    LocalGroup,
    assert_equal,
    enable,
    eventually,
)
from tests.support.proxy import ResettingProxy
from tests.support.seed_logs import check
from tests.support.snapshot_jobs import (
    QUICKLY_STALE,
    VOLUME,
    Journal,
    assert_no_orphan,
    children,
    dies,
    ended,
    follower_of,
    get,
    in_bucket,
    make_tree,
    new_group,
    one,
    outcome,
    pruning,
    restore,
    seen_from_here,
    serving,
    staged,
    start,
    store_of,
    succeeded,
    taking,
    verifying,
)
from tests.support.writing import keys

# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["volume", "bucket"])
async def test_snapshots_under_writers_come_back_as_the_log_was(
    group: LocalGroup, server: ObjectStoreServer, where: str
) -> None:
    destination = VOLUME if where == "volume" else in_bucket(server)
    made: dict[str, admin.SnapshotJob] = {}
    digests: dict[str, str] = {}
    async with group:
        await group.bootstrap()
        async with group.client() as client:
            await put_tree(client, make_tree(group.root / "tree", 1), b"some/where")
            digests["s1"] = await digest_tree(client, b"")
            follower = await follower_of(group)
            journal = Journal(client)
            await journal.past(300)
            made["s1"] = await succeeded(group, follower, taking(group, "s1", destination))
            await journal.past(50)
            await put_tree(client, make_tree(group.root / "more", 2, 5), b"more")
            digests["s2"] = await digest_tree(client, b"")
            await journal.past(50)
            made["s2"] = await succeeded(group, follower, taking(group, "s2", destination))
            await journal.stop()
        await assert_equal(group)
        assert 0 < made["s1"].lsn < made["s2"].lsn
        assert made["s2"].transferred_bytes < made["s2"].size_bytes // 4
        for snapshot in made:
            await succeeded(group, follower, verifying(group, snapshot, destination))
        if where == "volume":
            arguments = ["--directory", str(store_of(follower).path)]
            environment: dict[str, str] = {}
        else:
            arguments, environment = seen_from_here(server).to_arguments()
        assert (staged(follower), children(follower)) == ([], [])
    for snapshot, size in (("s1", 3), ("s2", 1)):
        restored = new_group(group.root / snapshot, size)
        first = restored.replicas[0]
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            await restore(first.data, restored.cluster, snapshot, arguments)
        unchecked = check(first.data, group.root / "scratch")
        assert [text for text in unchecked if "has no entry up to" not in text] == []
        async with restored:
            await restored.bootstrap()
            async with restored.client() as client:
                assert await keys(client) == journal.at(made[snapshot].lsn)
                assert await digest_tree(client, b"") == digests[snapshot]
                appended = await client.set_key(b"next", b"v")
                assert appended.lsn > made[snapshot].lsn
                entries = [entry.lsn async for entry in client.tail()]
                assert entries[0] == made[snapshot].lsn + 1
                assert entries == list(range(entries[0], entries[-1] + 1))
            status = await restored.status(first)
            assert status is not None
            assert (status.cluster_id, len(status.members)) == (restored.cluster, size)
            assert restored.cluster != group.cluster
            await assert_equal(restored)


async def test_of_a_leader_and_without_raft(group: LocalGroup) -> None:
    async with group:
        only = group.replicas[0]
        group.replicas = [only]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await group.start(only)
            await start(group, only, taking(group, "s0"))
        detail = detail_of(refused.value)
        assert detail is not None
        assert detail.reason == types.REASON_NOT_BOOTSTRAPPED
        request = group.bootstrap_request()
        request.standalone = True
        await group.admin(only).Bootstrap(request)
        async with group.client() as client:
            await client.set_key(b"k", b"v")
            await client.put_file(b"f", PayloadSource.of_bytes(os.urandom(200_000)))
            plain = await succeeded(group, only, taking(group, "plain"))
            assert (plain.term, plain.keys, plain.files) == (0, 1, 1)
            await enable(group)
            await eventually(lambda: serving(group), "it serves")
            await client.set_key(b"k2", b"v")
            led = await succeeded(group, only, taking(group, "led"))
        assert led.term >= 1
        assert led.lsn > plain.lsn
        arguments = ["--directory", str(store_of(only).path)]
    # Replication is switched on for what was restored without.
    restored = new_group(group.root / "restored", 2)
    newcomer = restored.replicas.pop()
    first = restored.replicas[0]
    await restore(first.data, restored.cluster, "plain", [*arguments, "--standalone"])
    async with restored:
        await restored.bootstrap_unreplicated()
        async with restored.client() as client:
            assert (await client.set_key(b"more", b"v")).lsn > plain.lsn
            await enable(restored)
        restored.replicas.append(newcomer)
        await restored.start(newcomer)
        await restored.add(newcomer)
        await assert_equal(restored)


# --- cut off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failpoint", [*WHILE_TAKING, *WHILE_A_JOB_RUNS])
async def test_while_a_snapshot_is_published(
    group: LocalGroup, server: ObjectStoreServer, failpoint: str
) -> None:
    """The job's process ends there, or the replica; the same job succeeds then, and the store holds
    what its snapshots name, and nothing else."""
    in_volume = failpoint in ("snapshot.job.captured", "snapshot.object.after")
    async with group:
        only = await one(group, *QUICKLY_STALE)
        destination = VOLUME if in_volume else in_bucket(server)
        place = store_of(only) if in_volume else seen_from_here(server)
        async with group.client() as client:
            await succeeded(group, only, taking(group, "s0", destination))
            await client.put_file(b"g", PayloadSource.of_bytes(os.urandom(150_000)))
            await client.set_key(b"k", b"w")
            only.kill()
            await group.start(only, **{ENVIRONMENT: failpoint})
            await eventually(lambda: serving(group), "it serves")
            request = taking(group, "s1", destination)
            if failpoint in WHILE_A_JOB_RUNS:
                await dies(group, only, request)
                assert only.wait_exit() == EXIT_CODE
            else:
                found = await outcome(group, only, request)
                assert (found.reason, found.retriable) == ("ProcessDied", True), found
                await client.set_key(b"meanwhile", b"v")
                only.kill()
            await group.start(only)
            await eventually(lambda: serving(group), "it serves")
            assert staged(only) == []
            again = await succeeded(group, only, request)
            await client.set_key(b"k", b"x")
        await succeeded(group, only, verifying(group, "s1", destination))
        arguments, environment = place.to_arguments()
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            await restore(group.root / "restored", group.cluster, "s1", arguments)
        check(group.root / "restored", group.root / "scratch")
        assert again.keys in (1, 2)
        # What the one before left goes with the next collection.

        async def collected() -> bool:
            found = await outcome(group, only, pruning(group, "s0", destination=destination))
            assert found.reason in ("", "StoreBusy")
            return not found.reason

        await eventually(collected, "markers of the dead count for nothing")
        await assert_no_orphan(place)
        await succeeded(group, only, verifying(group, "s1", destination))
        assert (staged(only), children(only)) == ([], [])


@pytest.mark.parametrize("failpoint", WHILE_DELETING)
async def test_while_snapshots_are_pruned(group: LocalGroup, failpoint: str) -> None:
    async with group:
        only = await one(group, *QUICKLY_STALE)
        async with group.client() as client:
            await succeeded(group, only, taking(group, "s0"))
            await client.put_file(b"f", PayloadSource.of_bytes(os.urandom(150_000)))
            await succeeded(group, only, taking(group, "s1"))
        only.kill()
        await group.start(only, **{ENVIRONMENT: failpoint})
        await eventually(lambda: serving(group), "it serves")
        found = await outcome(group, only, pruning(group, "s0"))
        assert (found.reason, found.retriable) == ("ProcessDied", True), found
        only.kill()
        await group.start(only)
        await eventually(lambda: serving(group), "it serves")

        async def pruned() -> bool:
            found = await outcome(group, only, pruning(group, "s0"))
            assert found.reason in ("", "StoreBusy")
            return not found.reason

        await eventually(pruned, "it is pruned")
        await assert_no_orphan(store_of(only))
        await succeeded(group, only, verifying(group, "s1"))


async def test_the_store_goes_away_and_comes_back(
    group: LocalGroup, server: ObjectStoreServer
) -> None:
    """Killed in the middle of a job: the job goes on when it is back."""
    port = free_port()
    async with group, ResettingProxy(port, server.port) as proxy:
        only = await one(group)
        async with group.client() as client:
            for number in range(60):
                await client.put_file(b"g%d" % number, PayloadSource.of_bytes(os.urandom(400_000)))
        destination = in_bucket(server)
        destination.s3.endpoint = f"http://127.0.0.1:{port}"
        request = taking(group, "s1", destination)
        # Less than half of the files' 24 MB is there by then.
        proxy.arm(to_target=10_000_000, then=server.kill)
        await start(group, only, request)

        async def killed() -> bool:
            return proxy.resets > 0

        await eventually(killed, "files are on their way")
        found = await get(group, only, request.job_id)
        assert found.state == admin.SNAPSHOT_JOB_STATE_RUNNING, found
        server.start()
        done = await ended(group, only, request.job_id)
        assert done.state == admin.SNAPSHOT_JOB_STATE_SUCCEEDED, done
        await succeeded(group, only, verifying(group, "s1", in_bucket(server)))
        await succeeded(group, only, pruning(group, "none", destination=in_bucket(server)))
        await assert_no_orphan(seen_from_here(server))
