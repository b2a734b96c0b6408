"""Snapshot jobs of real replicas: started twice, found after a restart, cancelled, refused; and
what is said where one can't be done."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from partition_client.channels import open_channel
from partition_client.errors import detail_of
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_proto.v1 import replica_admin_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from dev.object_store import ObjectStoreServer
from dev.ports import free_port
from tests.support.local_group import LocalGroup, eventually
from tests.support.object_store import BUCKET
from tests.support.snapshot_jobs import (
    children,
    ended,
    get,
    in_bucket,
    one,
    outcome,
    pruning,
    serving,
    staged,
    start,
    succeeded,
    taking,
    verifying,
)


@pytest.fixture
def silence() -> Iterator[str]:
    """The endpoint of a store that takes connections and says nothing."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def endless(endpoint: str, **changes: object) -> admin.SnapshotDestination:
    s3 = admin.S3Destination(
        endpoint=endpoint,
        bucket=BUCKET,
        access_key_id="key",
        secret_access_key="not-to-be-seen",
        allow_http=True,
    )
    for name, value in changes.items():
        setattr(s3, name, value)
    return admin.SnapshotDestination(s3=s3)


async def test_a_job_is_the_same_job_and_is_found_after_a_restart(group: LocalGroup) -> None:
    async with group:
        only = await one(group)
        request = taking(group, "s1", job="the-job")
        first = await start(group, only, request)
        assert first.state in (
            admin.SNAPSHOT_JOB_STATE_QUEUED,
            admin.SNAPSHOT_JOB_STATE_RUNNING,
        )
        done = await ended(group, only, "the-job")
        assert await start(group, only, request) == done
        assert done.snapshot_id == "s1"
        assert (done.phase, done.percent, done.keys, done.files) == ("Committing", 100, 1, 1)
        assert 0 < done.started_ms <= done.completed_ms
        assert only.terminate() == 0
        await group.start(only)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await get(group, only, "the-job")
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        await eventually(lambda: serving(group), "it serves")
        again = await succeeded(group, only, request)
        for name in ("lsn", "term", "digest", "keys", "files", "size_bytes", "time_ms"):
            assert getattr(again, name) == getattr(done, name), name
        assert again.transferred_bytes == 0
        taken = await outcome(group, only, taking(group, "s1", uid="of-another"))
        assert (taken.reason, taken.retriable) == ("SnapshotExists", False)
        _, metrics = only.http("/metrics")
        assert 'logstore_snapshot_jobs_total{kind="take",result="succeeded"} 1.0' in metrics
        assert 'logstore_snapshot_jobs_total{kind="take",result="failed"} 1.0' in metrics


async def test_jobs_wait_are_cancelled_and_end_with_the_replica(
    group: LocalGroup, silence: str
) -> None:
    async with group:
        only = await one(group, "--limit", "snapshot_jobs_queued_max=2")
        destination = endless(silence)
        requests = [taking(group, f"s{n}", destination) for n in range(4)]
        await start(group, only, requests[0])

        async def runs() -> bool:
            found = await get(group, only, requests[0].job_id)
            return found.state == admin.SNAPSHOT_JOB_STATE_RUNNING and bool(children(only))

        await eventually(runs, "the first job runs")
        for request in requests[1:3]:
            queued = await start(group, only, request)
            assert queued.state == admin.SNAPSHOT_JOB_STATE_QUEUED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await start(group, only, requests[3])
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

        async def cancel(request: admin.StartSnapshotJobRequest) -> admin.SnapshotJob:
            wanted = admin.CancelSnapshotJobRequest(lease=group.lease, job_id=request.job_id)
            found: admin.SnapshotJob = await group.admin(only).CancelSnapshotJob(wanted, timeout=30)
            return found

        for request in (requests[1], requests[0]):
            cancelled = await cancel(request)
            assert cancelled.state == admin.SNAPSHOT_JOB_STATE_FAILED
            assert (cancelled.reason, cancelled.retriable) == ("Cancelled", False)
            assert await cancel(request) == cancelled
        # The third one has its turn now; the replica does not wait for it.
        await start(group, only, requests[3])

        async def third() -> list[int]:
            found = await get(group, only, requests[2].job_id)
            return children(only) if found.state == admin.SNAPSHOT_JOB_STATE_RUNNING else []

        processes = await eventually(third, "the third job runs")
        assert only.terminate() == 0
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
        assert staged(only) == []
        # Killed, it leaves no process either.
        await group.start(only)
        await eventually(lambda: serving(group), "it serves")
        await start(group, only, taking(group, "s9", destination))

        async def running() -> list[int]:
            return children(only)

        processes = await eventually(running, "it runs")
        only.kill()

        async def gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in processes)

        await eventually(gone, "the job's process ends with the replica")
        await group.start(only)
        assert staged(only) == []
        assert "not-to-be-seen" not in only.log.read_text()


async def test_what_can_not_be_done_is_said(group: LocalGroup, server: ObjectStoreServer) -> None:
    async with group:
        only = await one(
            group,
            *("--limit", "snapshot_store_retry_s=1"),
            *("--limit", "snapshot_job_stall_s=30"),
        )
        nobody = f"http://127.0.0.1:{free_port()}"
        good = in_bucket(server)
        for changes, reason, retriable in (
            ({"endpoint": nobody}, "StoreUnavailable", True),
            ({"bucket": "no-such-bucket"}, "StoreRefused", False),
            ({"bucket": "No_Bucket"}, "InvalidDestination", False),
            ({"secret_access_key": "not-to-be-seen"}, "StoreRefused", False),
            ({"secret_access_key": ""}, "InvalidDestination", False),
            ({"allow_http": False}, "InvalidDestination", False),
            ({"ca_certificate": b"none"}, "InvalidDestination", False),
        ):
            destination = admin.SnapshotDestination()
            destination.CopyFrom(good)
            for name, value in changes.items():
                setattr(destination.s3, name, value)
            found = await outcome(group, only, taking(group, "s1", destination))
            assert (found.reason, found.retriable) == (reason, retriable), found
            assert found.message
            assert "not-to-be-seen" not in found.message
        missing = await outcome(group, only, verifying(group, "none"))
        assert missing.reason == "SnapshotNotFound"
        for wrong in (
            taking(group, "No_ID"),
            taking(group, "latest"),
            taking(group, "s1", uid="a\nb"),
            taking(group, "s1", admin.SnapshotDestination()),
            taking(group, "s1", job="j" * 129),
            pruning(group),
            admin.StartSnapshotJobRequest(lease=group.lease, job_id="j"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await start(group, only, wrong)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert staged(only) == []
        assert "not-to-be-seen" not in only.log.read_text()


async def test_who_may_ask(group: LocalGroup) -> None:
    async with group:
        only = await one(group)
        assert group.tls is not None
        async with open_channel(only.address, group.tls["client"]) as channel:
            stub = replica_admin_pb2_grpc.ReplicaAdminStub(channel)
            for call, request in (
                (stub.StartSnapshotJob, taking(group, "s1")),
                (stub.GetSnapshotJob, admin.GetSnapshotJobRequest(job_id="j")),
                (stub.CancelSnapshotJob, admin.CancelSnapshotJobRequest(job_id="j")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(request)
                assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        newer = taking(group, "s1")
        newer.lease.transitions = 5
        await succeeded(group, only, newer)
        for deposed in (
            group.admin(only).StartSnapshotJob(taking(group, "s2")),
            group.admin(only).CancelSnapshotJob(
                admin.CancelSnapshotJobRequest(lease=group.lease, job_id=newer.job_id)
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await deposed
            detail = detail_of(refused.value)
            assert detail is not None
            assert detail.reason == types.REASON_DEPOSED


async def test_a_store_with_an_authority_of_its_own(group: LocalGroup, tmp_path: Path) -> None:
    folder = tmp_path / "pki" / "tls-0"
    certificate, key = folder / "tls.crt", folder / "tls.key"
    with ObjectStoreServer(
        tmp_path / "s3", address="localhost", certificate=certificate, key=key
    ) as server:
        server.make_bucket(BUCKET)
        async with group:
            only = await one(group, "--limit", "snapshot_store_retry_s=1")
            destination = in_bucket(server)
            destination.s3.allow_http = False
            distrusted = await outcome(group, only, taking(group, "s1", destination))
            assert (distrusted.reason, distrusted.retriable) == ("StoreRefused", False)
            destination.s3.ca_certificate = (folder / "ca.crt").read_bytes()
            await succeeded(group, only, taking(group, "s1", destination))
            assert staged(only) == []
