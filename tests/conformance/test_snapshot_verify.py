"""Every damage of a stored snapshot is found and named, on both kinds of store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_snapshots.collect import collect_garbage
from partition_snapshots.errors import (
    SnapshotDamaged,
    SnapshotNotFound,
    UnsupportedFormat,
)
from partition_snapshots.manifests import encode_manifest
from partition_snapshots.read import manifest_name
from partition_snapshots.store import Store, object_name
from partition_snapshots.take import take_snapshot
from partition_snapshots.verify import verify

from tests.support.object_store import (
    QUICK,
    Partition,
    Place,
    listed_objects,
    put,
)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("harm", [flip, cut, grow, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", ["first segment", "delta", "blob", "blob list", "manifest"])
async def test_verify_finds(
    store: Store, place: Place, partition: Partition, tmp_path: Path, harm: Any, what: str
) -> None:
    await put(store, partition, "one")
    partition.keys[b"key-000001"] = b"x"
    manifest = (await put(store, partition, "two")).manifest
    assert len(manifest.runs) == 2
    digest, name = {
        "first segment": (manifest.runs[0].segments[0].digest, None),
        "delta": (manifest.runs[1].segments[0].digest, None),
        "blob": (partition.blobs()[1][0].hex(), None),
        "blob list": (manifest.blob_lists[0].digest, None),
        "manifest": ("", manifest_name("two")),
    }[what]
    path = place.file(name or object_name(digest))
    # The volume's blobs are the same files: damage a copy.
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    harm(path)
    expected = SnapshotNotFound if (what, harm) == ("manifest", Path.unlink) else SnapshotDamaged
    with pytest.raises(expected, match=digest or None):
        await verify(store, "two", QUICK)
    if what == "manifest":
        await verify(store, "one", QUICK)


async def test_verify_names_the_first_few(store: Store, place: Place, partition: Partition) -> None:
    await put(store, partition, "one")
    for digest, _ in partition.blobs():
        place.file(object_name(digest.hex())).unlink()
    with pytest.raises(SnapshotDamaged, match="there may be more") as caught:
        await verify(store, "one", QUICK)
    assert all(digest.hex() in str(caught.value) for digest, _ in partition.blobs())


async def test_verify_compares_blob_lists_with_rows(store: Store, partition: Partition) -> None:
    partition.lsn = 9
    await take_snapshot(
        store,
        partition.source("fewer"),
        partition.rows,
        partition.blobs()[:-1],
        partition.blob_path,
        limits=QUICK,
    )
    with pytest.raises(SnapshotDamaged, match="no more blobs"):
        await verify(store, "fewer", QUICK)
    rows = [row for row in partition.rows() if row[0] != 3]
    await take_snapshot(
        store,
        partition.source("more"),
        lambda: iter(rows),
        partition.blobs(),
        partition.blob_path,
        limits=QUICK,
    )
    with pytest.raises(SnapshotDamaged, match="no payload row"):
        await verify(store, "more", QUICK)


async def test_rows_of_another_state_are_found(store: Store, partition: Partition) -> None:
    one = (await put(store, partition, "one")).manifest
    wrong = replace(one, snapshot_id="wrong", digest="0" * 64)
    await store.put_bytes(manifest_name("wrong"), encode_manifest(wrong))
    with pytest.raises(SnapshotDamaged, match="its rows have SHA-256"):
        await verify(store, "wrong", QUICK)


@pytest.mark.parametrize("where", ["manifest", "store"])
async def test_another_version_is_refused(
    store: Store, place: Place, partition: Partition, where: str
) -> None:
    await put(store, partition, "one")
    path = place.file(manifest_name("one") if where == "manifest" else "format.json")
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps(fields | {"version": 3}))
    with pytest.raises(UnsupportedFormat, match="version 3"):
        await verify(store, "one", QUICK)
    with pytest.raises((UnsupportedFormat, SnapshotDamaged), match="version 3"):
        await collect_garbage(store, QUICK)
    assert await listed_objects(store) != set()
