"""What a store has before a take: its cluster ID, and the results of earlier tries."""

import asyncio
from contextlib import suppress

from partition_snapshots import failpoints
from partition_snapshots.errors import (
    SnapshotDamaged,
    SnapshotError,
    SnapshotExists,
    SnapshotNotFound,
    StoreOfOtherCluster,
    UnsupportedFormat,
)
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.manifests import encode_format
from partition_snapshots.markers import CLEANUP_S
from partition_snapshots.model import Manifest, SnapshotSource
from partition_snapshots.read import load, manifest_name, store_cluster
from partition_snapshots.store import FORMAT_OBJECT, TAKES, Store
from partition_snapshots.wanted import lacking


async def claim(store: Store, cluster_id: str) -> None:
    """Binds a new store to this cluster ID. Raises StoreOfOtherCluster."""
    found = await store_cluster(store)
    if found is None:
        await store.put_bytes(FORMAT_OBJECT, encode_format(cluster_id), create=True)
        found = await store_cluster(store)
    if found != cluster_id:
        raise StoreOfOtherCluster(
            f"{store.description} belongs to cluster {found}, not to {cluster_id}; use a separate "
            "store for each cluster"
        )


async def existing_of(
    store: Store, source: SnapshotSource, limits: SnapshotLimits
) -> Manifest | None:
    try:
        found = await load(store, source.snapshot_id, limits)
    except SnapshotNotFound:
        return None
    if found.uid != source.uid:
        raise SnapshotExists(
            f"{store.description} has another snapshot {source.snapshot_id} (uid {found.uid}); "
            "choose another ID, or delete that snapshot"
        )
    return found


async def existing_whole(
    store: Store, source: SnapshotSource, limits: SnapshotLimits
) -> Manifest | None:
    """Returns the snapshot of an earlier try, durable and complete, or None.

    A garbage collection may have run between the earlier try's last check and its manifest. If an
    object is missing, this deletes the manifest and returns None. The caller's marker must prevent
    collections meanwhile."""
    existing = await existing_of(store, source, limits)
    if existing is None:
        return None
    try:
        lacks = bool(await lacking(store, existing, limits))
    except (SnapshotDamaged, UnsupportedFormat):
        lacks = True
    if lacks:
        await store.delete([manifest_name(source.snapshot_id)])
        return None
    await store.flush()
    return existing


async def remove_markers(store: Store, snapshot_id: str) -> None:
    """Deletes the markers of this and earlier tries, after the snapshot exists."""
    begin = f"{TAKES}{snapshot_id}."
    names = [found.name async for found in store.list(TAKES) if found.name.startswith(begin)]
    await store.delete(names)
    failpoints.reach("snapshot.marker.removed")


async def take_back(store: Store, name: str) -> None:
    """Deletes a manifest whose objects may be missing. If that fails, the next try of the same
    snapshot checks the objects."""
    with suppress(SnapshotError, TimeoutError):
        await asyncio.wait_for(asyncio.shield(store.delete([name])), CLEANUP_S)
