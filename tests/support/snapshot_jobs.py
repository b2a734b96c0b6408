"""Snapshot jobs of real replicas, and what is restored of them, in a few words."""

import asyncio
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from partition_client import AsyncClient, PayloadSource
from partition_proto.v1 import replica_admin_pb2 as admin
from partition_snapshots.destination import (
    Destination,
    DirectoryDestination,
    S3Destination,
    open_store,
)
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import Manifest
from partition_snapshots.read import SnapshotReader, list_snapshots

from dev.object_store import ObjectStoreServer
from tests.support import certificates
from tests.support.local_group import (
    PARTITION,
    LocalGroup,
    LocalReplica,
    eventually,
)
from tests.support.object_store import BUCKET
from tests.support.writing import Writing

VOLUME = admin.SnapshotDestination(volume=admin.VolumeDestination())
QUICKLY_STALE = ("--limit", "snapshot_marker_stale_s=2")
"""What a killed process left in a store counts for nothing soon."""

_serial = itertools.count(1)
_ENDED = (admin.SNAPSHOT_JOB_STATE_SUCCEEDED, admin.SNAPSHOT_JOB_STATE_FAILED)


def in_bucket(server: ObjectStoreServer, prefix: str = "p") -> admin.SnapshotDestination:
    return admin.SnapshotDestination(
        s3=admin.S3Destination(
            endpoint=server.endpoint,
            bucket=BUCKET,
            prefix=prefix,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            allow_http=True,
        )
    )


def seen_from_here(server: ObjectStoreServer, prefix: str = "p") -> S3Destination:
    return S3Destination(
        BUCKET,
        server.access_key_id,
        server.secret_access_key,
        server.endpoint,
        prefix=prefix,
        allow_http=True,
    )


def store_of(replica: LocalReplica) -> DirectoryDestination:
    return DirectoryDestination(replica.data / "snapshots")


async def one(group: LocalGroup, *arguments: str) -> LocalReplica:
    """A group of one, with a key and a file."""
    only = group.replicas[0]
    group.replicas = [only]
    only.arguments += arguments
    await group.bootstrap()
    async with group.client() as client:
        await client.set_key(b"k", b"v")
        await client.put_file(b"f", PayloadSource.of_bytes(os.urandom(100_000)))
    return only


async def serving(group: LocalGroup) -> bool:
    status = await group.status(group.replicas[0])
    return status is not None and bool(status.serving)


def taking(
    group: LocalGroup,
    snapshot: str,
    destination: admin.SnapshotDestination = VOLUME,
    *,
    job: str = "",
    full: bool = False,
    uid: str = "",
) -> admin.StartSnapshotJobRequest:
    return admin.StartSnapshotJobRequest(
        lease=group.lease,
        job_id=job or f"job-{next(_serial)}",
        take=admin.TakeSnapshot(
            snapshot_id=snapshot, uid=uid or snapshot, destination=destination, full=full
        ),
    )


def pruning(
    group: LocalGroup, *snapshots: str, destination: admin.SnapshotDestination = VOLUME
) -> admin.StartSnapshotJobRequest:
    return admin.StartSnapshotJobRequest(
        lease=group.lease,
        job_id=f"job-{next(_serial)}",
        delete=admin.DeleteSnapshots(destination=destination, snapshot_ids=snapshots),
    )


def verifying(
    group: LocalGroup, snapshot: str, destination: admin.SnapshotDestination = VOLUME
) -> admin.StartSnapshotJobRequest:
    return admin.StartSnapshotJobRequest(
        lease=group.lease,
        job_id=f"job-{next(_serial)}",
        verify=admin.VerifySnapshot(destination=destination, snapshot_id=snapshot),
    )


async def start(
    group: LocalGroup, replica: LocalReplica, request: admin.StartSnapshotJobRequest
) -> admin.SnapshotJob:
    found: admin.SnapshotJob = await group.admin(replica).StartSnapshotJob(
        request, timeout=30, wait_for_ready=True
    )
    return found


async def get(group: LocalGroup, replica: LocalReplica, job: str) -> admin.SnapshotJob:
    request = admin.GetSnapshotJobRequest(job_id=job)
    found: admin.SnapshotJob = await group.admin(replica).GetSnapshotJob(
        request, timeout=30, wait_for_ready=True
    )
    return found


async def ended(group: LocalGroup, replica: LocalReplica, job: str) -> admin.SnapshotJob:
    """Waits until it has. One channel asks: each has its own handshake."""
    stub = group.admin(replica)

    async def is_over() -> admin.SnapshotJob | None:
        request = admin.GetSnapshotJobRequest(job_id=job)
        found: admin.SnapshotJob = await stub.GetSnapshotJob(
            request, timeout=30, wait_for_ready=True
        )
        return found if found.state in _ENDED else None

    return await eventually(is_over, f"job {job} ends")


async def outcome(
    group: LocalGroup, replica: LocalReplica, request: admin.StartSnapshotJobRequest
) -> admin.SnapshotJob:
    await start(group, replica, request)
    return await ended(group, replica, request.job_id)


async def succeeded(
    group: LocalGroup, replica: LocalReplica, request: admin.StartSnapshotJobRequest
) -> admin.SnapshotJob:
    found = await outcome(group, replica, request)
    assert found.state == admin.SNAPSHOT_JOB_STATE_SUCCEEDED, found
    assert found.percent == 100
    return found


async def dies(
    group: LocalGroup, replica: LocalReplica, request: admin.StartSnapshotJobRequest
) -> None:
    """Starts a job in which the replica ends."""
    assert replica.process is not None
    try:
        await start(group, replica, request)
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error


async def restore(data: Path, cluster: str, snapshot: str, arguments: list[str]) -> None:
    """`partition-replica snapshot restore`, as the operator's pod runs it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "partition_replica",
        "snapshot",
        "restore",
        "--data",
        str(data),
        "--cluster-id",
        cluster,
        "--snapshot",
        snapshot,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def children(replica: LocalReplica) -> list[int]:
    """Processes that a replica's process started and that still are."""
    assert replica.process is not None
    found: list[int] = []
    tasks = Path(f"/proc/{replica.process.pid}/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        found += map(int, (task / "children").read_text().split())
    return found


def staged(replica: LocalReplica) -> list[str]:
    """What snapshot jobs have on the volume."""
    return [name for name in os.listdir(replica.data / "staging") if "snapshot" in name]


@asynccontextmanager
async def opened(
    destination: Destination,
) -> AsyncIterator[tuple[list[Manifest], set[str], list[str]]]:
    """(snapshots, objects that they name, every name there is) of a store."""
    store = open_store(destination, SnapshotLimits())
    try:
        manifests: list[Manifest] = []
        named: set[str] = set()
        for found in await list_snapshots(store):
            assert isinstance(found, Manifest), found
            manifests.append(found)
            named |= {segment.digest for run in found.runs for segment in run.segments}
            named |= {listed.digest for listed in found.blob_lists}
            async for digest, _ in SnapshotReader(store, found).blobs():
                named.add(digest.hex())
        names = []
        for folder in ("objects/", "uploads/", "collecting/"):
            async for info in store.list(folder):
                names.append(info.name)
        yield manifests, named, sorted(names)
    finally:
        await store.close()


async def assert_no_orphan(destination: Destination) -> None:
    """Nothing is in the store but what its snapshots name."""
    async with opened(destination) as (_, named, names):
        assert [name.rpartition("/")[2] for name in names if name.startswith("objects/")] == sorted(
            named
        )
        assert [name for name in names if not name.startswith("objects/")] == []


def new_group(root: Path, size: int = 3) -> LocalGroup:
    root.mkdir()
    tls, folders = certificates.make(root / "pki", PARTITION, size)
    return LocalGroup(root, size=size, tls=tls, tls_directories=folders)


def make_tree(root: Path, seed: int, files: int = 60) -> Path:
    dice = random.Random(seed)
    for number in range(files):
        path = root / f"dir{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(dice.choice([0, 10, 5_000, 64 * 1024, 70_000, 200_000])))
        path.chmod(dice.choice([0o600, 0o644, 0o755]))
    return root


class Journal(Writing):
    """Writers of keys, and what was acknowledged at which LSN."""

    def __init__(self, client: AsyncClient, count: int = 3) -> None:
        self.lines: list[tuple[int, bytes, bytes | None]] = []
        super().__init__(client, count)

    async def write(self, client: AsyncClient, number: int, sequence: int) -> None:
        # Keys are written again, and some are removed: a state, not a log, is compared.
        key = b"w%d/%03d" % (number, sequence % 150)
        value = None if sequence % 7 == 6 else os.urandom(20)
        done = await (client.delete_key(key) if value is None else client.set_key(key, value))
        self.lines.append((done.lsn, key, value))

    def at(self, lsn: int) -> dict[bytes, bytes]:
        """The keys as of an LSN."""
        found = {key: value for at, key, value in sorted(self.lines) if at <= lsn}
        return {key: value for key, value in found.items() if value is not None}


async def follower_of(group: LocalGroup) -> LocalReplica:
    leader = await group.leader()
    return next(r for r in group.replicas if r is not leader and r.running)
