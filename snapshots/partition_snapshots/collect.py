"""Deletes snapshots, and the objects that no snapshot names."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from partition_snapshots import failpoints
from partition_snapshots.errors import SnapshotDamaged, StoreBusy
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.markers import Marker, collection_marker, forget_earlier, held, others
from partition_snapshots.model import Collected, DamagedManifest, Manifest, StoreProgress
from partition_snapshots.read import SnapshotReader, list_snapshots, manifest_name
from partition_snapshots.store import COLLECTING, OBJECTS, TAKES, ObjectInfo, Store

FOLDERS = 256
"""Objects are in directories by the first byte of their digest."""


async def delete_snapshots(
    store: Store,
    ids: Iterable[str],
    limits: SnapshotLimits | None = None,
    progress: Callable[[StoreProgress], None] = lambda _: None,
    *,
    owner: str = "",
) -> Collected:
    """Deletes snapshots, also damaged ones, and then collects garbage. Ignores snapshots that do
    not exist. Raises as `collect_garbage` does. The snapshots are deleted then, and the same call
    again collects the garbage."""
    limits = limits or SnapshotLimits()
    removed = 0
    for name in [manifest_name(snapshot_id) for snapshot_id in ids]:
        there = await store.head(name)
        failpoints.reach("snapshot.delete.before")
        await store.delete([name])
        failpoints.reach("snapshot.delete.after")
        removed += there is not None
    collected = await collect_garbage(store, limits, progress, owner=owner)
    return Collected(removed, collected.objects_deleted, collected.bytes_deleted)


async def collect_garbage(
    store: Store,
    limits: SnapshotLimits | None = None,
    progress: Callable[[StoreProgress], None] = lambda _: None,
    *,
    owner: str = "",
) -> Collected:
    """Deletes the objects that no snapshot names, and the unfinished files of dead writers.

    `owner`: as in `take_snapshot`. Raises StoreBusy while a take is in progress, and
    SnapshotDamaged if a manifest or blob list can't be read, because the objects of that snapshot
    are then unknown. Raises StoreUnavailable, StoreRefused."""
    limits = limits or SnapshotLimits()
    await forget_earlier(store, owner)
    marker = collection_marker(store, owner, limits)
    async with held(marker):
        failpoints.reach("snapshot.collect.before")
        await _no_take_runs(store, marker, limits)
        manifests = await _manifests(store, limits)
        collected = await _Collection(store, limits, marker, manifests, progress).run()
        await store.sweep()
        await marker.remove()
        failpoints.reach("snapshot.collect.after")
    return collected


async def _no_take_runs(store: Store, marker: Marker, limits: SnapshotLimits) -> None:
    """Raises StoreBusy for a live take. Deletes the markers of dead processes."""
    now = await marker.now()
    fresh, stale = await others(store, TAKES, now, limits)
    if fresh:
        raise StoreBusy(
            f"{store.description}: the marker {fresh[0].name} shows that a snapshot is being "
            "taken; retry when it is done"
        )
    _, dead = await others(store, COLLECTING, now, limits)
    await store.delete([found.name for found in stale + dead])


async def _manifests(store: Store, limits: SnapshotLimits) -> list[Manifest]:
    whole = []
    for found in await list_snapshots(store, limits):
        if isinstance(found, DamagedManifest):
            raise SnapshotDamaged(
                f"{found.message}; the objects of snapshot {found.snapshot_id} are unknown, so "
                "nothing is collected; delete that snapshot, or restore its manifest"
            )
        whole.append(found)
    return whole


class _Collection:
    def __init__(
        self,
        store: Store,
        limits: SnapshotLimits,
        marker: Marker,
        manifests: list[Manifest],
        progress: Callable[[StoreProgress], None],
    ) -> None:
        self._store = store
        self._limits = limits
        self._marker = marker
        self._manifests = manifests
        self._progress = progress
        self._objects = 0
        self._bytes = 0

    async def run(self) -> Collected:
        lists = {name.digest: name.rows for m in self._manifests for name in m.blob_lists}
        segments = {s.digest for m in self._manifests for run in m.runs for s in run.segments}
        total = sum(lists.values()) + len(segments)
        passes = min(max(1, -(-total // self._limits.references_max)), FOLDERS)
        for number in range(passes):
            folders = range(FOLDERS * number // passes, FOLDERS * (number + 1) // passes)
            await self._pass(folders)
        return Collected(0, self._objects, self._bytes)

    async def _pass(self, folders: range) -> None:
        """Deletes the unreferenced objects in a range of directories."""
        needed = await self._references(folders)
        batch: list[ObjectInfo] = []
        async with aclosing(self._unreferenced(folders, needed)) as found:
            async for info in found:
                batch.append(info)
                if len(batch) == self._limits.delete_batch:
                    await self._delete(batch)
                    batch = []
        if batch:
            await self._delete(batch)

    async def _references(self, folders: range) -> set[bytes]:
        needed: set[bytes] = set()
        read: set[str] = set()
        for manifest in self._manifests:
            reader = SnapshotReader(self._store, manifest, self._limits)
            names = [*manifest.blob_lists, *(s for run in manifest.runs for s in run.segments)]
            needed.update(bytes.fromhex(name.digest) for name in names)
            for name in manifest.blob_lists:
                if name.digest not in read:
                    read.add(name.digest)
                    blobs = await reader.blob_list(name)
                    needed.update(digest for digest, _ in blobs if digest[0] in folders)
        return needed

    async def _unreferenced(
        self, folders: range, needed: set[bytes]
    ) -> AsyncGenerator[ObjectInfo, None]:
        if len(folders) == FOLDERS:
            places = [OBJECTS]
        else:
            places = [f"{OBJECTS}{folder:02x}/" for folder in folders]
        for place in places:
            async with aclosing(self._store.list(place)) as objects:
                async for info in objects:
                    if bytes.fromhex(info.name[-64:]) not in needed:
                        yield info

    async def _delete(self, batch: list[ObjectInfo]) -> None:
        # A take waits while this marker is fresh. A process may be suspended at any point, so the
        # marker's age is checked before each deletion.
        await self._marker.check()
        await self._store.delete([info.name for info in batch], self._marker.check_age)
        self._objects += len(batch)
        self._bytes += sum(info.size for info in batch)
        self._progress(StoreProgress("deleting", self._bytes, 0))
