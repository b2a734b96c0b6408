"""A process that publishes, deletes or collects, and ends itself at a failpoint: for crash tests.

Its job is JSON on standard input. It prints the failpoints that it reached.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from partition_snapshots import failpoints
from partition_snapshots.collect import collect_garbage, delete_snapshots
from partition_snapshots.destination import DirectoryDestination, S3Destination
from partition_snapshots.process import leave
from partition_snapshots.take import take_snapshot

from tests.support.object_store import QUICK, Partition, Place

EXIT_CODE = 86
OWNER = "member-1"


def make_partition(volume: Path, step: int) -> Partition:
    """The state at a step: each changes a little of the one before."""
    partition = Partition.random(volume, 11, keys=25, small=4, large=3)
    for number in range(step):
        partition.keys[b"key-%06d" % number] = b"step"
        partition.keys.pop(b"key-%06d" % (20 - number), None)
        partition.put_blob(b"large/new", b"step %d" % number * 400)
    partition.lsn = 2 + step
    return partition


def destination(fields: dict[str, Any]) -> DirectoryDestination | S3Destination:
    if "path" in fields:
        return DirectoryDestination(Path(fields["path"]))
    return S3Destination(**fields)


async def act(job: dict[str, Any]) -> None:
    store = Place(destination(job["destination"]), Path()).open()
    base = Path(job["base"]) if job.get("base") else None
    match job["action"]:
        case "take":
            partition = make_partition(Path(job["volume"]), job["step"])
            await take_snapshot(
                store,
                partition.source(job["snapshot"]),
                partition.rows,
                partition.blobs(),
                partition.blob_path,
                base_directory=base,
                owner=OWNER,
                limits=QUICK,
            )
        case "delete":
            await delete_snapshots(store, job["snapshots"], QUICK, owner=OWNER)
        case "collect":
            await collect_garbage(store, QUICK, owner=OWNER)


def main() -> None:
    job = json.load(sys.stdin)
    reached: list[str] = []

    def hook(name: str) -> None:
        reached.append(name)
        print(name, flush=True)
        if name == job.get("at") and reached.count(name) == job.get("time", 1):
            os._exit(EXIT_CODE)

    failpoints.hook = hook
    asyncio.run(act(job))
    leave(0)


if __name__ == "__main__":
    main()
