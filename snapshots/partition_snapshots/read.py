"""Lists and reads snapshots. Uses data only after its digest was checked."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from functools import reduce
from pathlib import Path
from typing import TypeVar

from partition_snapshots import files
from partition_snapshots.blob_files import (
    check_blob,
    check_digest,
    full_disk,
    keep_blob,
    keeping,
)
from partition_snapshots.digest import RowDigest
from partition_snapshots.errors import (
    SnapshotDamaged,
    SnapshotError,
    SnapshotNotFound,
    StoreOfOtherCluster,
)
from partition_snapshots.files import FileSystem, write_all
from partition_snapshots.limits import SEGMENT_BYTES_MAX, SnapshotLimits
from partition_snapshots.manifests import decode_format, decode_manifest
from partition_snapshots.merge import combine, overlay
from partition_snapshots.model import (
    LATEST,
    DamagedManifest,
    Manifest,
    ObjectName,
    Row,
    Run,
    check_snapshot_id,
)
from partition_snapshots.parallel import ByteBudget, ahead, for_each, on_thread, run_to_end
from partition_snapshots.segments import Change, decode_blob_list, decode_segment
from partition_snapshots.store import FORMAT_OBJECT, SNAPSHOTS, Store, object_name

GROUP_BYTES = 4 << 20
"""Blobs up to this size are read in one piece, several together."""

GROUP_BLOBS = 32

Blob = tuple[bytes, int]
"""Digest, size in bytes."""

T = TypeVar("T")

SegmentSource = Callable[[ObjectName], bytes]
"""Returns a segment's bytes; runs on a thread. Raises SnapshotNotFound."""


def manifest_name(snapshot_id: str) -> str:
    """Returns the name of a snapshot's manifest. Raises InvalidDestination for an invalid ID."""
    return f"{SNAPSHOTS}{check_snapshot_id(snapshot_id)}.json"


async def store_cluster(store: Store) -> str | None:
    """Returns the cluster ID of a store, or None if the store is empty. Raises UnsupportedFormat,
    SnapshotDamaged."""
    try:
        return decode_format(await store.get(FORMAT_OBJECT, 4096))
    except SnapshotNotFound:
        return None


async def list_snapshots(
    store: Store, limits: SnapshotLimits | None = None
) -> list[Manifest | DamagedManifest]:
    """Returns all snapshots of a store: damaged ones first, then the others by LSN and ID. Leaves
    out snapshots that are deleted meanwhile. Raises UnsupportedFormat and SnapshotDamaged if the
    store itself can't be read."""
    limits = limits or SnapshotLimits()
    cluster = await store_cluster(store)
    ids: list[str] = []
    async for found in store.list(SNAPSHOTS):
        if len(ids) == limits.snapshots_max:
            raise SnapshotDamaged(
                f"{store.description} has more than {limits.snapshots_max} snapshots, the most "
                "that this program lists; delete some of them, or use another store"
            )
        ids.append(found.name[len(SNAPSHOTS) : -len(".json")])

    async def one(snapshot_id: str) -> Manifest | DamagedManifest | None:
        try:
            return await _load(store, snapshot_id, cluster, limits)
        except SnapshotNotFound:
            return None
        except SnapshotError as error:
            if error.retriable:
                raise
            return DamagedManifest(snapshot_id, error.reason, str(error))

    damaged: list[Manifest | DamagedManifest] = []
    whole: list[Manifest] = []
    async with aclosing(ahead(sorted(ids), one, limits.streams_max)) as answers:
        async for _, answer in answers:
            if isinstance(answer, Manifest):
                whole.append(answer)
            elif answer is not None:
                damaged.append(answer)
    return damaged + sorted(whole, key=lambda found: (found.lsn, found.snapshot_id))


async def load(store: Store, snapshot_id: str, limits: SnapshotLimits | None = None) -> Manifest:
    """Returns one snapshot's manifest; "latest" is the snapshot with the highest LSN.

    "latest" raises SnapshotDamaged if any manifest in the store can't be read, because that
    snapshot may be the newest. Raises SnapshotNotFound, SnapshotDamaged, UnsupportedFormat, and
    StoreOfOtherCluster if the snapshot's cluster ID is not the store's."""
    limits = limits or SnapshotLimits()
    if snapshot_id != LATEST:
        return await _load(store, snapshot_id, await store_cluster(store), limits)
    found = await list_snapshots(store, limits)
    if not found:
        raise SnapshotNotFound(f"{store.description} has no snapshot")
    damaged = found[0]  # they come first
    if isinstance(damaged, DamagedManifest):
        raise SnapshotDamaged(
            f"{damaged.message}; snapshot {damaged.snapshot_id} may be the {LATEST} one; give the "
            f"ID of a snapshot, or delete {damaged.snapshot_id}"
        )
    newest = found[-1]
    assert isinstance(newest, Manifest)
    return newest


async def _load(
    store: Store, snapshot_id: str, cluster: str | None, limits: SnapshotLimits
) -> Manifest:
    data = await store.get(manifest_name(snapshot_id), limits.manifest_bytes_max)
    manifest = decode_manifest(data, snapshot_id)
    if cluster is None:
        raise SnapshotDamaged(f"{store.description}: {FORMAT_OBJECT} is missing")
    if manifest.cluster_id != cluster:
        raise StoreOfOtherCluster(
            f"snapshot {snapshot_id} belongs to cluster {manifest.cluster_id}, but its store to "
            f"cluster {cluster}"
        )
    return manifest


def check_object(data: bytes, name: ObjectName, what: str) -> bytes:
    """Returns the data. Raises SnapshotDamaged if its size or digest is not that of `name`."""
    if len(data) != name.size:
        raise SnapshotDamaged(f"{what} {name.digest} has {len(data)} bytes instead of {name.size}")
    actual = hashlib.sha256(data).hexdigest()
    if actual != name.digest:
        raise SnapshotDamaged(f"{what} {name.digest} is changed: its SHA-256 is {actual}")
    return data


def run_batches(run: Run, source: SegmentSource, *, full: bool) -> Iterator[list[Change]]:
    """Yields a run's rows in batches, with one segment in memory. Raises SnapshotDamaged."""
    last: tuple[int, bytes] = (0, b"")
    for segment in run.segments:
        data = check_object(source(segment), segment, "segment")
        try:
            rows = decode_segment(data, full=full)
            rows.last = last
            yield from rows
        except SnapshotDamaged as error:
            raise SnapshotDamaged(f"segment {segment.digest}: {error}") from error
        if rows.rows != segment.rows:
            raise SnapshotDamaged(
                f"segment {segment.digest} has {rows.rows} rows instead of {segment.rows}"
            )
        last = rows.last


def merged_batches(runs: tuple[Run, ...], source: SegmentSource) -> Iterator[list[Row]]:
    """Returns the rows of a state from its merged runs, with one segment per run in memory."""
    if not runs:
        return iter(())

    def changes(run: Run) -> Iterator[Change]:
        for batch in run_batches(run, source, full=False):
            yield from batch

    # A full run has no tombstones, so its changes are rows.
    full: Iterator[list[Row]] = run_batches(runs[0], source, full=True)  # type: ignore[assignment]
    if len(runs) == 1:
        return full
    deltas: Iterator[Change] = reduce(
        lambda newer, older: combine(changes(older), newer),
        reversed(runs[1:-1]),
        changes(runs[-1]),
    )
    return overlay(full, deltas)


class StoreSegments:
    """A SegmentSource that reads from a store, for one thread other than the loop's."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._asked: Future[bytes] | None = None
        self._ended = False

    def __call__(self, segment: ObjectName) -> bytes:
        """Returns a segment's bytes. Raises concurrent.futures.CancelledError after `end`."""
        asked = self._store.get(object_name(segment.digest), SEGMENT_BYTES_MAX)
        self._asked = asyncio.run_coroutine_threadsafe(asked, self._loop)
        if self._ended:
            self._asked.cancel()
        return self._asked.result()

    def end(self) -> None:
        """Cancels the read in progress, so that a store that does not answer can't block the
        thread."""
        self._ended = True
        if self._asked is not None:
            self._asked.cancel()


class SnapshotReader:
    """Reads the objects that a manifest names, and checks each against its digest. Raises
    SnapshotDamaged, also for missing objects."""

    def __init__(
        self, store: Store, manifest: Manifest, limits: SnapshotLimits | None = None
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._limits = limits or SnapshotLimits()
        self._budget = ByteBudget(self._limits.inflight_bytes_max)

    async def rows(self) -> AsyncGenerator[tuple[list[Row], int], None]:
        """Yields (batch, its encoded size in bytes): the merged rows in order, in batches of some
        hundred. Each segment is checked before its rows are yielded. The digest of all merged rows
        is checked at the end."""
        async with aclosing(self._rows(lambda rows, size: (rows, size))) as batches:
            async for batch in batches:
                yield batch

    async def take_rows(self, take: Callable[[list[Row]], None]) -> AsyncGenerator[int, None]:
        """Calls `take` for each batch on the thread that reads the rows, which saves a change of
        threads. Yields the encoded size of each batch. If the caller stops early, the running
        `take` returns first."""

        def taken(rows: list[Row], size: int) -> int:
            take(rows)
            return size

        async with aclosing(self._rows(taken)) as sizes:
            async for size in sizes:
                yield size

    async def _rows(self, made: Callable[[list[Row], int], T]) -> AsyncGenerator[T, None]:
        """Yields the results of `made`, which a thread calls with each batch and its encoded
        size."""
        digest = RowDigest()
        source = StoreSegments(self._store, asyncio.get_running_loop())

        def batches() -> Iterator[T]:
            for batch in merged_batches(self._manifest.runs, source):
                yield made(batch, digest.update(batch))

        try:
            async with aclosing(on_thread(batches, source.end)) as found:
                async for batch in found:
                    yield batch
        except SnapshotNotFound as error:
            raise SnapshotDamaged(str(error)) from error
        if digest.hexdigest() != self._manifest.digest:
            raise SnapshotDamaged(
                f"snapshot {self._manifest.snapshot_id}: its rows have SHA-256 "
                f"{digest.hexdigest()} instead of {self._manifest.digest}"
            )

    async def blobs(self) -> AsyncGenerator[tuple[bytes, int], None]:
        """Yields (digest, size) of all blobs, sorted by digest."""
        last, count, total = b"", 0, 0
        for name in self._manifest.blob_lists:
            for digest, size in await self.blob_list(name):
                if digest <= last:
                    raise SnapshotDamaged(
                        f"blob list {name.digest} is not in order after the previous list"
                    )
                last = digest
                count += 1
                total += size
                yield digest, size
        if (count, total) != (self._manifest.blob_count, self._manifest.blob_bytes):
            raise SnapshotDamaged(
                f"snapshot {self._manifest.snapshot_id}: its blob lists name {count} blobs of "
                f"{total} bytes instead of {self._manifest.blob_count} of "
                f"{self._manifest.blob_bytes}"
            )

    async def blob_list(self, name: ObjectName) -> list[tuple[bytes, int]]:
        """Returns one blob list's entries, (digest, size). Raises SnapshotDamaged."""
        try:
            data = await self._store.get(object_name(name.digest), SEGMENT_BYTES_MAX)
        except SnapshotNotFound as error:
            raise SnapshotDamaged(f"a blob list is missing: {error}") from error
        found = decode_blob_list(check_object(data, name, "blob list"))
        if len(found) != name.rows:
            raise SnapshotDamaged(
                f"blob list {name.digest} has {len(found)} entries instead of {name.rows}"
            )
        return found

    async def fetch_blob(self, digest: bytes, size: int, target: Path) -> None:
        """Writes one blob to the new file `target`, whose directory must exist.

        When this returns, the content is verified, and durable with its name. Until then, the file
        is `<target>.partial`. Raises SnapshotDamaged, StoreFull if the target's disk is full, and
        OSError."""
        await self._fetch([(digest, size)], lambda _: target, lambda _: None, sync=True)

    async def fetch_blobs(
        self, target: Callable[[bytes], Path], progress: Callable[[int], None] = lambda _: None
    ) -> tuple[int, int]:
        """Writes all blobs to the files that `target` returns, all on one file system, with
        `streams_max` at a time. Returns (count, bytes). Raises as `fetch_blob`.

        `progress` receives the bytes written since its last call. When this returns, the blobs are
        verified and durable. They are synced together, which is much faster than one by one."""
        written: list[tuple[Path, FileSystem]] = []
        one_by_one: set[Path] = set()

        async def some(group: list[Blob]) -> None:
            if not written:
                place = target(group[0][0])
                written.append((place, FileSystem(place.parent)))
            await self._fetch(group, target, progress, sync=False)
            if not files.TELLS_FAILURES:
                targets = {target(digest) for digest, _ in group}
                one_by_one.update(targets | {path.parent for path in targets})

        try:
            async with aclosing(self.blob_groups()) as groups:
                await for_each(groups, some, self._limits.streams_max)
            for place, file_system in written:
                with full_disk(place):
                    await run_to_end(file_system.sync)
                    for path in sorted(one_by_one):
                        await run_to_end(files.sync_file, path)
        finally:
            for _, file_system in written:
                file_system.close()
        return self._manifest.blob_count, self._manifest.blob_bytes

    async def blob_groups(self) -> AsyncGenerator[list[Blob], None]:
        """Yields the blobs in groups that are read together, because a change of threads costs more
        than the read of a small blob. A group has at most GROUP_BYTES, or is one larger blob."""
        group: list[Blob] = []
        total = 0
        async with aclosing(self.blobs()) as blobs:
            async for blob in blobs:
                total += blob[1]
                if group and (total > GROUP_BYTES or len(group) == GROUP_BLOBS):
                    yield group
                    group, total = [], blob[1]
                group.append(blob)
        if group:
            yield group

    async def check_group(
        self, group: list[Blob], done: Callable[[int], None]
    ) -> list[SnapshotDamaged]:
        """Reads a group's blobs. Returns the damages. `done` receives the bytes that were read."""
        if group[0][1] <= GROUP_BYTES:
            found = await self._small(group, lambda blob, data: check_blob(*blob, data))
            done(sum(size for _, size in group))
            return found
        try:
            async with aclosing(self._chunks(*group[0])) as chunks:
                async for chunk in chunks:
                    done(len(chunk))
        except SnapshotDamaged as error:
            return [error]
        return []

    async def _fetch(
        self,
        group: list[Blob],
        target: Callable[[bytes], Path],
        done: Callable[[int], None],
        *,
        sync: bool,
    ) -> None:
        if group[0][1] <= GROUP_BYTES:
            damaged = await self._small(
                group, lambda blob, data: keep_blob(*blob, data, target(blob[0]), sync=sync)
            )
            if damaged:
                raise damaged[0]
            done(sum(size for _, size in group))
            return
        digest, size = group[0]
        with keeping(target(digest), sync=sync) as descriptor:
            async with aclosing(self._chunks(digest, size)) as chunks:
                async for chunk in chunks:
                    await run_to_end(write_all, descriptor, chunk)
                    done(len(chunk))
            if sync:
                await run_to_end(os.fsync, descriptor)

    async def _small(
        self, group: list[Blob], work: Callable[[Blob, bytes], None]
    ) -> list[SnapshotDamaged]:
        """Does `work` on a thread for each blob of a group. Returns the damages."""

        def all_of_it(contents: Sequence[bytes | SnapshotError]) -> list[SnapshotDamaged]:
            damaged = []
            for blob, data in zip(group, contents, strict=True):
                try:
                    if isinstance(data, SnapshotError):
                        raise SnapshotDamaged(f"blob {blob[0].hex()} can't be read: {data}")
                    work(blob, data)
                except SnapshotDamaged as error:
                    damaged.append(error)
            return damaged

        async with self._budget.take(sum(size for _, size in group)):
            wanted = [(object_name(digest.hex()), size) for digest, size in group]
            return await run_to_end(all_of_it, await self._store.get_many(wanted))

    async def _chunks(self, digest: bytes, size: int) -> AsyncGenerator[bytes, None]:
        """Yields a large blob's content. Raises SnapshotDamaged at the end if the digest differs.
        Concurrent reads share inflight_bytes_max."""
        found = hashlib.sha256()
        # Up to three chunks are in memory: at the caller, in flight, and in the store's client.
        async with self._budget.take(min(size, 3 * self._limits.part_bytes)):
            try:
                name = object_name(digest.hex())
                async with aclosing(self._store.stream(name, size)) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(found.update, chunk)
                        yield chunk
            except SnapshotNotFound as error:
                raise SnapshotDamaged(f"blob {digest.hex()} can't be read: {error}") from error
        check_digest(digest, found.digest())
