"""A power failure while snapshots are published, deleted or collected in a directory: each snapshot
that is listed afterwards is whole.

A name is certain from the fsync of its directory on. Until then an object may be gone, and a
manifest is taken to be there, whether it was just written or just removed.
"""

from pathlib import Path

import pytest
from partition_snapshots.collect import delete_snapshots
from partition_snapshots.directory_store import DirectoryStore
from partition_snapshots.model import Manifest
from partition_snapshots.read import list_snapshots
from partition_snapshots.verify import verify

from tests.support.object_store import QUICK, Partition, put
from tests.support.uncertain_names import Disk


async def test_what_is_listed_is_whole_whenever_the_power_fails(
    tmp_path: Path, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    store = DirectoryStore(tmp_path / "store", QUICK)
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path / "store", left, patch)
        await put(store, partition, "one")
        partition.put_blob(b"large/new", b"new" * 1000)
        partition.keys[b"key-000003"] = b"changed"
        await put(store, partition, "two")
        for path in list(partition.large):
            del partition.large[path]
        await put(store, partition, "three", full=True)
        await delete_snapshots(store, ["one", "two"], QUICK)
        await store.close()

    counts = []
    for moment in disk.moments:
        after = DirectoryStore(moment, QUICK)
        found = await list_snapshots(after)
        for one in found:
            assert isinstance(one, Manifest)
            await verify(after, one.snapshot_id, QUICK)
        counts.append(len(found))
        await after.close()
    assert {1, 2, 3} == set(counts)
