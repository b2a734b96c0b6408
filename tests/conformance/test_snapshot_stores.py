"""Stored snapshots on both kinds of store: what is published reads back, incrementally and in full;
what is wrong is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_snapshots import files, read
from partition_snapshots.base import LocalBase
from partition_snapshots.collect import collect_garbage, delete_snapshots
from partition_snapshots.errors import (
    InvalidDestination,
    SnapshotDamaged,
    SnapshotError,
    SnapshotExists,
    SnapshotNotFound,
    SourceDamaged,
    StoreOfOtherCluster,
    StoreRefused,
    StoreUnavailable,
)
from partition_snapshots.files import FileSystem
from partition_snapshots.manifests import encode_manifest
from partition_snapshots.model import (
    Collected,
    DamagedManifest,
    Manifest,
    Row,
    StoreProgress,
    TakenSnapshot,
)
from partition_snapshots.read import SnapshotReader, list_snapshots, load, manifest_name
from partition_snapshots.store import TAKES, Store, object_name
from partition_snapshots.take import take_snapshot
from partition_snapshots.verify import verify

from tests.support.object_store import (
    QUICK,
    Partition,
    Place,
    listed_objects,
    put,
    read_rows,
)


async def test_a_snapshot_reads_back(
    store: Store, place: Place, partition: Partition, tmp_path: Path
) -> None:
    seen: list[StoreProgress] = []
    published = await put(store, partition, "one", progress=seen.append)
    manifest = published.manifest
    assert not published.existed
    assert manifest == await load(store, "one") == await load(store, "latest")
    assert [manifest] == await list_snapshots(store)
    assert (manifest.keys, manifest.files, manifest.blob_count) == (60, 25, 5)
    assert len(manifest.runs[0].segments) > 2
    assert await read_rows(store, "one") == list(partition.rows())
    reader = SnapshotReader(store, manifest)
    assert [blob async for blob in reader.blobs()] == partition.blobs()
    (tmp_path / "out").mkdir()
    count, size = await reader.fetch_blobs(lambda digest: tmp_path / "out" / digest.hex())
    assert (count, size) == (5, sum(size for _, size in partition.blobs()))
    for digest, _ in partition.blobs():
        fetched = (tmp_path / "out" / digest.hex()).read_bytes()
        assert fetched == partition.blob_path(digest).read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert await verify(store, "one", QUICK) == manifest
    assert {found.phase for found in seen} >= {"state", "blobs", "checking", "manifest"}
    blobs = [found for found in seen if found.phase == "blobs"]
    assert blobs[-1].done_bytes == blobs[-1].total_bytes == size
    # Nothing but what the layout has, and no marker.
    assert {name.split("/")[0] for name in place.names()} == {
        "format.json",
        "objects",
        "snapshots",
    }


async def test_an_empty_state_is_a_snapshot(store: Store, tmp_path: Path) -> None:
    empty = Partition(tmp_path / "volume")
    empty_rows = iter(())
    published = await take_snapshot(
        store, empty.source("empty"), lambda: empty_rows, [], empty.blob_path, limits=QUICK
    )
    assert published.manifest.runs == ()
    assert await read_rows(store, "empty") == []
    await verify(store, "empty", QUICK)


async def test_one_per_cent_changed_costs_at_most_three(
    place: Place, store: Store, tmp_path: Path
) -> None:
    partition = Partition.random(tmp_path / "volume", 6, keys=4000, small=1000, large=200)
    limits = replace(QUICK, segment_bytes=64 * 1024)
    base = None if place.server is None else tmp_path / "base"
    first = await put(store, partition, "one", limits=limits, base_directory=base)
    logical = first.manifest.size_bytes
    for number in range(0, 4000, 100):
        partition.keys[b"key-%06d" % number] = b"changed"
    for number in range(0, 1000, 100):
        partition.small[b"small/%06d" % number] = b"changed %d" % number
    for number in range(0, 200, 100):
        partition.put_blob(b"large/%06d" % number, b"changed" * 500 + b"%d" % number)
    second = await put(store, partition, "two", limits=limits, base_directory=base)
    assert second.manifest.incremental
    assert 0 < second.transferred_bytes <= 0.03 * logical
    if place.server is not None:
        assert first.transferred_bytes == logical
        assert second.transferred_bytes <= 0.03 * first.transferred_bytes
    assert await read_rows(store, "two") == list(partition.rows())
    await verify(store, "one", QUICK)
    await verify(store, "two", QUICK)


async def test_latest_is_refused_while_a_manifest_is_damaged(
    store: Store, place: Place, partition: Partition
) -> None:
    """It may be the newest; nobody is given an older state in its place."""
    await put(store, partition, "one")
    await put(store, partition, "two")
    path = place.file(manifest_name("two"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SnapshotDamaged, match=r"two.*give the ID"):
        await load(store, "latest")
    assert (await load(store, "one")).snapshot_id == "one"
    await delete_snapshots(store, ["two"], QUICK)
    assert (await load(store, "latest")).snapshot_id == "one"


async def test_publishes_that_fail_leave_nothing_in_the_base(
    place: Place, partition: Partition, tmp_path: Path
) -> None:
    store, base = place.open(), tmp_path / "base"
    await put(store, partition, "one", base_directory=base)
    before = {path.name for path in base.iterdir()}

    def rows() -> Iterator[Row]:
        yield from list(partition.rows())[:-1]
        (base / ("0" * 64)).write_bytes(b"of one that was killed")
        raise RuntimeError("the state is gone")

    partition.keys = dict.fromkeys(partition.keys, b"x" * 300)
    with pytest.raises(RuntimeError):
        await take_snapshot(
            store,
            partition.source("two"),
            rows,
            partition.blobs(),
            partition.blob_path,
            base_directory=base,
            limits=QUICK,
        )
    assert {path.name for path in base.iterdir()} == before
    (base / ("0" * 64)).write_bytes(b"of one that was killed")
    assert (await put(store, partition, "one", base_directory=base)).existed
    assert {path.name for path in base.iterdir()} == before
    await store.close()


@pytest.mark.parametrize("why", [SnapshotDamaged, StoreUnavailable, StoreRefused])
async def test_a_base_that_cannot_be_read_costs_a_full_run(
    store: Store, partition: Partition, why: type[SnapshotError]
) -> None:
    """Which sends the unreadable segment again, though its name is there."""
    segment = object_name((await put(store, partition, "one")).manifest.runs[0].segments[0].digest)
    mended: list[str] = []

    class Unreadable:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def get(self, name: str, *size_max: int) -> bytes:
            if name == segment:
                raise why("unreadable")
            return await store.get(name, *size_max)

        async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
            if name == segment:
                mended.append(name)
            return await store.put_bytes(name, data, create=create)

    partition.keys[max(partition.keys)] = b"changed"
    two = await put(Unreadable(), partition, "two")  # type: ignore[arg-type]
    assert not two.manifest.incremental
    assert mended == [segment]
    await verify(store, "two", QUICK)


async def test_a_full_snapshot_reads_what_is_only_linked(
    store: Store, partition: Partition
) -> None:
    await put(store, partition, "one", full=True)
    digest, size = partition.blobs()[2]
    partition.blob_path(digest).write_bytes(b"\0" * size)
    with pytest.raises(SourceDamaged, match="volume is damaged"):
        await put(store, partition, "two", full=True)
    assert [found.snapshot_id for found in await list_snapshots(store)] == ["one"]  # type: ignore[union-attr]


async def test_blobs_are_synced_by_a_descriptor_that_is_older_than_they(
    store: Store, partition: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is opened later is told nothing of a failure before."""
    manifest = (await put(store, partition, "one")).manifest
    there: dict[str, int] = {}

    class Watching(FileSystem):
        def __init__(self, directory: Path) -> None:
            there["opened"] = len(list(directory.iterdir()))
            super().__init__(directory)

        def sync(self) -> None:
            there["synced"] = len(list(out.iterdir()))
            super().sync()

    monkeypatch.setattr(read, "FileSystem", Watching)
    out = tmp_path / "out"
    out.mkdir()
    sizes: list[int] = []
    await SnapshotReader(store, manifest, replace(QUICK, streams_max=2)).fetch_blobs(
        lambda digest: out / digest.hex(), sizes.append
    )
    assert there == {"opened": 0, "synced": 5}
    assert sum(sizes) == manifest.blob_bytes


async def test_where_a_sync_of_all_tells_nothing_each_is_synced(
    store: Store, partition: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = (await put(store, partition, "one")).manifest
    synced: list[Path] = []
    monkeypatch.setattr(files, "TELLS_FAILURES", False)
    monkeypatch.setattr(files, "sync_file", synced.append)
    targets = {digest: tmp_path / digest.hex() for digest, _ in partition.blobs()}
    await SnapshotReader(store, manifest, QUICK).fetch_blobs(targets.__getitem__)
    assert sorted(synced) == sorted({tmp_path, *targets.values()})


async def test_the_same_snapshot_again(store: Store, partition: Partition) -> None:
    first = await put(store, partition, "one")
    again = await put(store, partition, "one")
    assert again == TakenSnapshot(first.manifest, 0, 0, existed=True)
    with pytest.raises(SnapshotExists, match="uid-one"):
        await take_snapshot(
            store,
            partition.source("one", uid="another"),
            partition.rows,
            partition.blobs(),
            partition.blob_path,
            limits=QUICK,
        )


async def test_nothing_changed_costs_nothing(store: Store, partition: Partition) -> None:
    first = await put(store, partition, "one")
    second = await put(store, partition, "two")
    assert second.transferred_bytes == 0
    assert second.manifest.runs == first.manifest.runs
    await delete_snapshots(store, ["one"], QUICK)
    await verify(store, "two", QUICK)


@pytest.mark.parametrize("local", [True, False])
async def test_deltas_chain_and_roll_over(
    store: Store, partition: Partition, tmp_path: Path, local: bool
) -> None:
    base = tmp_path / "base" if local else None
    limits = replace(QUICK, runs_max=4)
    runs = []
    states = {}
    for number in range(9):
        partition.keys[b"key-%06d" % number] = b"now %d" % number
        partition.keys.pop(b"key-%06d" % (30 + number), None)
        partition.keys[b"new-%06d" % number] = b""
        published = await put(store, partition, f"s{number}", limits=limits, base_directory=base)
        runs.append(len(published.manifest.runs))
        states[f"s{number}"] = list(partition.rows())
    assert runs == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    for name, rows in states.items():
        assert await read_rows(store, name) == rows
        await verify(store, name, QUICK)
    if base is not None:
        kept = {path.name for path in base.iterdir()}
        last = await load(store, "s8")
        assert kept == {"id", "manifest.json"} | {s.digest for s in last.runs[0].segments}


async def test_a_large_delta_becomes_a_full_run(store: Store, partition: Partition) -> None:
    await put(store, partition, "one")
    for name in partition.keys:
        partition.keys[name] = b"another" * 20
    two = await put(store, partition, "two")
    assert not two.manifest.incremental
    assert await read_rows(store, "two") == list(partition.rows())


async def test_full_relies_on_nothing(
    store: Store, place: Place, partition: Partition, tmp_path: Path
) -> None:
    await put(store, partition, "one")
    first = await load(store, "one")
    victim = place.file(object_name(first.runs[0].segments[0].digest))
    damaged = bytearray(victim.read_bytes())
    damaged[50] ^= 1
    victim.write_bytes(damaged)
    published = await put(store, partition, "two", full=True)
    assert not published.manifest.incremental
    assert published.objects_written >= len(first.runs[0].segments) + first.blob_count
    # It was sent again, so the first snapshot is whole again, too.
    await verify(store, "two", QUICK)
    await verify(store, "one", QUICK)


@pytest.mark.parametrize("harm", ["segment", "manifest", "missing", "garbage"])
async def test_a_bad_local_base_costs_a_full_run(
    store: Store, partition: Partition, tmp_path: Path, harm: str
) -> None:
    base = tmp_path / "base"
    await put(store, partition, "one", base_directory=base)
    kept = LocalBase(base).load(QUICK)
    assert kept is not None
    segment = base / kept.manifest.runs[0].segments[-1].digest
    match harm:
        case "segment":
            data = bytearray(segment.read_bytes())
            data[20] ^= 4
            segment.write_bytes(data)
        case "manifest":
            (base / "manifest.json").write_bytes(b"{}")
        case "missing":
            segment.unlink()
        case _:
            (base / "id").write_bytes(b"\xff\xfe")
    partition.keys[b"key-000001"] = b"x"
    two = await put(store, partition, "two", base_directory=base)
    assert not two.manifest.incremental
    assert await read_rows(store, "two") == list(partition.rows())
    partition.keys[b"key-000002"] = b"x"
    assert (await put(store, partition, "three", base_directory=base)).manifest.incremental


async def test_a_base_that_was_collected_is_not_used(
    store: Store, partition: Partition, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    await put(store, partition, "one", base_directory=base)
    await delete_snapshots(store, ["one"], QUICK)
    assert await listed_objects(store) == set()
    partition.keys[b"key-000001"] = b"x"
    two = await put(store, partition, "two", base_directory=base)
    assert not two.manifest.incremental
    await verify(store, "two", QUICK)


# --- refusals ---------------------------------------------------------------------------------


async def test_another_cluster_is_refused(store: Store, partition: Partition) -> None:
    await put(store, partition, "one")
    with pytest.raises(StoreOfOtherCluster, match="a separate store"):
        await take_snapshot(
            store,
            partition.source("two", cluster_id="another"),
            partition.rows,
            partition.blobs(),
            partition.blob_path,
            limits=QUICK,
        )
    assert len(await list_snapshots(store)) == 1


async def test_a_manifest_of_another_cluster_is_refused(
    store: Store, place: Place, partition: Partition
) -> None:
    one = (await put(store, partition, "one")).manifest
    moved = replace(one, snapshot_id="moved", cluster_id="another")
    await store.put_bytes(manifest_name("moved"), encode_manifest(moved))
    with pytest.raises(StoreOfOtherCluster):
        await verify(store, "moved", QUICK)
    found = await list_snapshots(store)
    assert [type(one) for one in found] == [DamagedManifest, Manifest]


@pytest.mark.parametrize("snapshot_id", ["", "..", "a/b", "A", "a" * 64, "a.b", "latest", "ä"])
async def test_ids_that_are_none(store: Store, partition: Partition, snapshot_id: str) -> None:
    with pytest.raises(InvalidDestination):
        await put(store, partition, snapshot_id)
    if snapshot_id != "latest":
        with pytest.raises(InvalidDestination):
            await load(store, snapshot_id)


@pytest.mark.parametrize("name", ["objects/../format.json", "x", "objects/ab/cd", "/etc/passwd"])
async def test_names_outside_of_the_layout(store: Store, name: str) -> None:
    with pytest.raises(InvalidDestination):
        await store.put_bytes(name, b"")
    with pytest.raises(InvalidDestination):
        await store.get(name)


@pytest.mark.parametrize("harm", ["missing", "size", "content"])
async def test_a_damaged_source_is_never_published(
    store: Store, place: Place, partition: Partition, harm: str
) -> None:
    digest, size = partition.blobs()[2]
    path = partition.blob_path(digest)
    match harm:
        case "missing":
            path.unlink()
        case "size":
            path.write_bytes(path.read_bytes()[:-1])
        case _:
            path.write_bytes(b"\0" * size)
    if harm == "content" and place.server is None:
        # A hard link is not read; it is what verify is for.
        await put(store, partition, "one")
        with pytest.raises(SnapshotDamaged, match=digest.hex()):
            await verify(store, "one", QUICK)
        return
    with pytest.raises(SourceDamaged, match="volume is damaged"):
        await put(store, partition, "one")
    assert await list_snapshots(store) == []
    assert digest.hex() not in await listed_objects(store)
    assert not any(name.startswith(TAKES) for name in place.names())


async def test_rows_out_of_order_are_refused(store: Store, partition: Partition) -> None:
    rows = list(partition.rows())
    rows[3], rows[4] = rows[4], rows[3]
    with pytest.raises(SourceDamaged, match="order"):
        await take_snapshot(
            store,
            partition.source("one"),
            lambda: iter(rows),
            [],
            partition.blob_path,
            limits=QUICK,
        )


async def test_an_empty_store(store: Store) -> None:
    assert await list_snapshots(store) == []
    assert await collect_garbage(store, QUICK) == Collected(0, 0, 0)
    for name in ("latest", "one"):
        with pytest.raises(SnapshotNotFound):
            await verify(store, name, QUICK)
