"""Uploads to an S3 server of the test's own, large enough to be cut off."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from partition_snapshots.collect import collect_garbage
from partition_snapshots.limits import MIB
from partition_snapshots.read import list_snapshots
from partition_snapshots.take import take_snapshot
from partition_snapshots.verify import verify

from dev.object_store import ObjectStoreServer
from tests.support.object_store import (
    BUCKET,
    QUICK,
    Partition,
    Place,
    listed_objects,
    named_objects,
    s3_destination,
)

PARTS = replace(
    QUICK, part_bytes=5 * MIB, retry_timeout_s=20.0, retries=200, connect_timeout_s=10.0
)
BIG = 40 * MIB


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ObjectStoreServer]:
    server = ObjectStoreServer(tmp_path / "server")
    server.make_bucket(BUCKET)
    with server:
        yield server


def place_on(server: ObjectStoreServer) -> Place:
    return Place(s3_destination(server, "p"), server.buckets / BUCKET / "p", server)


def big_partition(tmp_path: Path) -> Partition:
    partition = Partition.random(tmp_path / "volume", 3, keys=20, small=3, large=2)
    partition.put_blob(b"big", os.urandom(BIG))
    return partition


def parts(server: ObjectStoreServer) -> list[Path]:
    """Parts of multipart uploads under way, as the server keeps them."""
    return [path for path in server.buckets.rglob(".sgwtmp/multipart/*/*/*") if path.is_file()]


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


def publishing(place: Place, partition: Partition, name: str) -> Awaitable[object]:
    return asyncio.ensure_future(
        take_snapshot(
            place.open(PARTS),
            partition.source(name),
            partition.rows,
            partition.blobs(),
            partition.blob_path,
            owner="a",
            limits=PARTS,
        )
    )


async def check_clean(place: Place, *names: str) -> None:
    store = place.open(PARTS)
    await collect_garbage(store, PARTS, owner="a")
    assert sorted(m.snapshot_id for m in await list_snapshots(store)) == sorted(names)
    for name in names:
        await verify(store, name, PARTS)
    assert await listed_objects(store) == await named_objects(store)
    assert place.server is not None
    assert parts(place.server) == []
