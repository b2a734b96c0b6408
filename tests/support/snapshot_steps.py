"""The steps of stored snapshots that crash tests repeat, and what a clean store holds."""

from collections import Counter
from pathlib import Path

from partition_snapshots.collect import collect_garbage, delete_snapshots
from partition_snapshots.read import list_snapshots
from partition_snapshots.store import Store
from partition_snapshots.take import take_snapshot
from partition_snapshots.verify import verify

from tests.support.object_store import (
    QUICK,
    Place,
    listed_objects,
    named_objects,
    read_rows,
)
from tests.support.snapshot_process import OWNER, make_partition


async def check_clean(place: Place, volume: Path, steps: dict[str, int]) -> None:
    """Just these snapshots are there, whole, and nothing else is."""
    store = place.open()
    await collect_garbage(store, QUICK, owner=OWNER)
    found = await list_snapshots(store)
    assert sorted(one.snapshot_id for one in found) == sorted(steps)
    for name, step in steps.items():
        await verify(store, name, QUICK)
        assert await read_rows(store, name) == list(make_partition(volume, step).rows())
    assert await listed_objects(store) == await named_objects(store)
    kinds = Counter(name.split("/")[0] for name in place.names())
    assert set(kinds) <= {"format.json", "objects", "snapshots"}
    assert kinds["objects"] == len(await listed_objects(store))
    await store.close()


async def do_publish(store: Store, tmp_path: Path, step: int) -> None:
    partition = make_partition(tmp_path / "volume", step)
    await take_snapshot(
        store,
        partition.source(f"s{step}"),
        partition.rows,
        partition.blobs(),
        partition.blob_path,
        base_directory=tmp_path / "base",
        owner=OWNER,
        limits=QUICK,
    )


async def do_delete(store: Store, _: Path, step: int) -> None:
    await delete_snapshots(store, [f"s{step}"], QUICK, owner=OWNER)
