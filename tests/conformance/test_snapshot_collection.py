"""Deletion and collection remove just what nobody needs, whatever runs at the same time; on both
kinds of store."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_snapshots import failpoints
from partition_snapshots.collect import collect_garbage, delete_snapshots
from partition_snapshots.errors import (
    SnapshotDamaged,
    StoreBusy,
    StoreUnavailable,
)
from partition_snapshots.model import Collected, StoreProgress
from partition_snapshots.read import list_snapshots, manifest_name
from partition_snapshots.store import COLLECTING, TAKES, Store, object_name
from partition_snapshots.verify import verify

from tests.support.object_store import (
    QUICK,
    Partition,
    Place,
    age,
    listed_objects,
    named_objects,
    put,
    read_rows,
)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("references_max", [1, 7, 500_000])
async def test_collection_removes_just_what_nobody_needs(
    store: Store, partition: Partition, references_max: int
) -> None:
    limits = replace(QUICK, references_max=references_max, delete_batch=3)
    states = {}
    for number in range(4):
        partition.keys[b"key-%06d" % number] = b"now %d" % number
        partition.put_blob(b"large/%06d" % number, b"now %d" % number * 500)
        await put(store, partition, f"s{number}")
        states[f"s{number}"] = list(partition.rows())
    before = await listed_objects(store)
    collected = await delete_snapshots(store, ["s0", "s2"], limits)
    assert collected.snapshots_deleted == 2
    needed = await named_objects(store)
    assert await listed_objects(store) == needed
    assert collected.objects_deleted == len(before - needed) > 0
    for name in ("s1", "s3"):
        assert await read_rows(store, name) == states[name]
        await verify(store, name, QUICK)
    assert await delete_snapshots(store, ["s0", "s2"], limits) == Collected(0, 0, 0)
    await delete_snapshots(store, ["s1", "s3"], limits)
    assert await listed_objects(store) == set()


async def test_nothing_is_collected_while_a_manifest_is_damaged(
    store: Store, place: Place, partition: Partition
) -> None:
    await put(store, partition, "one")
    partition.keys.clear()
    await put(store, partition, "two")
    flip(place.file(manifest_name("two")))
    before = await listed_objects(store)
    with pytest.raises(SnapshotDamaged, match="delete that snapshot"):
        await delete_snapshots(store, ["one"], QUICK)
    assert await listed_objects(store) == before
    assert (await delete_snapshots(store, ["two"], QUICK)).snapshots_deleted == 1
    assert await listed_objects(store) == set()


# --- markers ----------------------------------------------------------------------------------


async def test_a_collection_gives_up_while_a_publish_runs(
    store: Store, place: Place, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every point of a publish: either the collection refuses, or it harms nothing."""
    refused, collected = 0, 0
    loop = asyncio.get_running_loop()
    waiting = asyncio.Semaphore(0)
    go_on = asyncio.Semaphore(0)

    class Pausing:
        """A publisher's store, which stops before every call that changes it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def put_bytes(self, *args: Any, **options: Any) -> bool:
            waiting.release()
            await go_on.acquire()
            return await store.put_bytes(*args, **options)

        async def put_file(self, *args: Any) -> int:
            waiting.release()
            await go_on.acquire()
            return await store.put_file(*args)

        async def delete(self, names: Any, *may: Any) -> None:
            waiting.release()
            await go_on.acquire()
            await store.delete(names, *may)

    await put(store, partition, "zero")
    partition.keys[b"key-000001"] = b"x"
    partition.put_blob(b"large/000001", b"another" * 300)
    await delete_snapshots(store, [], QUICK)
    task = loop.create_task(put(Pausing(), partition, "one"))  # type: ignore[arg-type]
    while not task.done():
        step = loop.create_task(waiting.acquire())
        await asyncio.wait([step, task], return_when=asyncio.FIRST_COMPLETED)
        if not step.done():
            step.cancel()
            break
        try:
            await delete_snapshots(store, ["zero"], QUICK)
            collected += 1
        except StoreBusy:
            refused += 1
        go_on.release()
    await task
    assert refused >= 4
    assert collected >= 1
    await verify(store, "one", QUICK)
    await collect_garbage(store, QUICK)
    assert await listed_objects(store) == await named_objects(store)


async def test_a_publish_waits_for_a_collection(
    store: Store, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that began first goes on; the publish uses nothing that it removes."""
    await put(store, partition, "one")
    deleting = asyncio.Event()
    go_on = asyncio.Event()

    class Pausing:
        """A collector's store, which stops before its first deletion."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def delete(self, names: Any, *may: Any) -> None:
            names = list(names)
            if any(name.startswith("objects/") for name in names):
                deleting.set()
                await go_on.wait()
            await store.delete(names, *may)

    collecting = asyncio.ensure_future(
        delete_snapshots(Pausing(), ["one"], QUICK)  # type: ignore[arg-type]
    )
    await deleting.wait()
    phases: list[str] = []
    waits = asyncio.Event()

    def progress(found: StoreProgress) -> None:
        phases.append(found.phase)
        if found.phase == "waiting":
            waits.set()

    publishing = asyncio.ensure_future(put(store, partition, "two", progress=progress))
    await waits.wait()
    assert set(phases) == {"waiting"}
    go_on.set()
    assert (await collecting).objects_deleted > 0
    published = await publishing
    assert not published.manifest.incremental
    await verify(store, "two", QUICK)


async def test_a_publish_gives_up_on_a_collection_that_does_not_end(
    store: Store, place: Place, partition: Partition
) -> None:
    await store.put_bytes(f"{COLLECTING}{'0' * 16}", b"{}")
    with pytest.raises(StoreBusy, match="collection"):
        await put(store, partition, "one", limits=replace(QUICK, busy_wait_s=0.2))
    assert not any(name.startswith(TAKES) for name in place.names())


async def test_stale_markers_are_taken_over(
    store: Store, place: Place, partition: Partition
) -> None:
    await store.put_bytes(f"{COLLECTING}{'0' * 16}", b"{}")
    await store.put_bytes(f"{TAKES}lost.{'0' * 16}", b"{}")
    with pytest.raises(StoreBusy, match="lost"):
        await collect_garbage(store, QUICK)
    assert age(place, TAKES) == age(place, COLLECTING) == 1
    await put(store, partition, "one")
    await store.put_bytes(f"{COLLECTING}{'1' * 16}", b"{}")
    assert age(place, COLLECTING) == 1
    await collect_garbage(store, QUICK)
    assert not [n for n in place.names() if n.startswith((TAKES, COLLECTING))]


async def test_a_publish_whose_marker_was_taken_over_writes_no_manifest(
    store: Store, place: Place, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(name: str) -> None:
        if name == "snapshot.segment.after" and age(place, TAKES):
            for path in place.file(TAKES).iterdir():
                path.unlink()

    monkeypatch.setattr(failpoints, "hook", hook)
    with pytest.raises(StoreBusy, match="took over"):
        await put(store, partition, "one")
    monkeypatch.undo()
    assert await list_snapshots(store) == []
    await put(store, partition, "one")
    await verify(store, "one", QUICK)


@pytest.mark.parametrize("lost", [True, False])
async def test_a_process_that_stood_still_takes_its_manifest_back(
    store: Store, place: Place, partition: Partition, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Between its last look at its marker and the manifest a collection took place."""

    def hook(name: str) -> None:
        if name == "snapshot.manifest.before":
            for path in place.file(TAKES).iterdir():
                path.unlink()
            if lost:
                place.file(object_name(partition.blobs()[0][0].hex())).unlink()

    monkeypatch.setattr(failpoints, "hook", hook)
    if lost:
        with pytest.raises(StoreBusy, match="was suspended"):
            await put(store, partition, "one")
        assert await list_snapshots(store) == []
    else:
        await put(store, partition, "one")
        await verify(store, "one", QUICK)
    assert not [name for name in place.names() if name.startswith(TAKES)]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_process_that_stood_still_waits_for_the_collection_that_took_over(
    store: Store, place: Place, partition: Partition, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Nothing is missing yet when it comes back; the collection goes on."""
    victim = object_name(partition.blobs()[0][0].hex())
    marker = f"{COLLECTING}{'3' * 16}"
    phases: list[str] = []

    def hook(name: str) -> None:
        if name == "snapshot.manifest.before":
            for path in place.file(TAKES).iterdir():
                path.unlink()
            place.file(marker).parent.mkdir(exist_ok=True)
            place.file(marker).write_bytes(b"{}")

    def progress(found: StoreProgress) -> None:
        if found.phase == "waiting" and ends and place.file(marker).exists():
            place.file(victim).unlink()
            place.file(marker).unlink()
        phases.append(found.phase)

    monkeypatch.setattr(failpoints, "hook", hook)
    limits = replace(QUICK, busy_wait_s=10.0 if ends else 0.2)
    with pytest.raises(StoreBusy, match="was suspended" if ends else "collection"):
        await put(store, partition, "one", limits=limits, progress=progress)
    assert "waiting" in phases
    assert await list_snapshots(store) == []


async def test_a_manifest_that_an_earlier_try_could_not_take_back_is_looked_through(
    store: Store, place: Place, partition: Partition
) -> None:
    """That try was killed, or its store was gone, before it saw what a collection removed."""
    await put(store, partition, "one")
    place.file(object_name(partition.blobs()[0][0].hex())).unlink()
    again = await put(store, partition, "one")
    assert not again.existed
    await verify(store, "one", QUICK)


async def test_no_renewal_makes_a_marker_again_that_was_removed(store: Store) -> None:
    from partition_snapshots import markers

    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        """A store whose second write is on its way for long."""

        writes = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def put_bytes(self, *args: Any, **options: Any) -> bool:
            self.writes += 1
            if self.writes == 2:
                begun.set()
                await go_on.wait()
            return await store.put_bytes(*args, **options)

    limits = replace(QUICK, marker_stale_s=0.8)
    marker = markers.Marker(Slow(), f"{TAKES}one.{'0' * 16}", limits)  # type: ignore[arg-type]
    await marker.write()
    renewing = asyncio.ensure_future(marker.renewing())
    await begun.wait()
    removing = asyncio.ensure_future(marker.remove())
    done, _ = await asyncio.wait([removing], timeout=0.05)
    go_on.set()
    await removing
    assert not done
    await renewing
    assert await store.head(marker.name) is None


async def test_what_vanishes_is_sent_again(
    store: Store, place: Place, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = partition.blobs()[0][0]
    done: list[str] = []

    def hook(name: str) -> None:
        path = place.file(object_name(digest.hex()))
        if name == "snapshot.object.after" and path.exists() and not done:
            done.append(name)
            path.unlink()

    monkeypatch.setattr(failpoints, "hook", hook)
    await put(store, partition, "one")
    assert done
    await verify(store, "one", QUICK)


async def test_a_collection_that_stood_still_before_a_removal_removes_nothing(
    store: Store, partition: Partition
) -> None:
    """Others took its marker over meanwhile: what it found may be needed by now."""

    class Still:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def delete(self, names: Any, *may: Any) -> None:
            names = list(names)
            if any(name.startswith("objects/") for name in names):
                may[0].__self__._renewed -= QUICK.marker_stale_s
            await store.delete(names, *may)

    await put(store, partition, "one")
    before = await listed_objects(store)
    with pytest.raises(StoreUnavailable, match="could not be renewed"):
        await delete_snapshots(Still(), ["one"], QUICK)  # type: ignore[arg-type]
    assert await listed_objects(store) == before


async def test_an_old_marker_stops_a_collection(
    store: Store, place: Place, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    from partition_snapshots import markers

    await put(store, partition, "one")
    clock = [1000.0]
    marker = markers.Marker(store, f"{COLLECTING}{'2' * 16}", QUICK, lambda: clock[0])
    await marker.write()
    await marker.check()
    clock[0] += QUICK.marker_stale_s / 2 + 1
    with pytest.raises(Exception, match="could not be renewed"):
        await marker.check()
    with pytest.raises(Exception, match="could not be renewed"):
        await marker.write()
