"""Takes a snapshot: objects first, the manifest last.

The snapshot exists once its manifest is written. If a take fails before, a garbage collection
deletes its objects. An interrupted take is repeated with the same ID and uid. It does not send the
objects again that the store has, and does not change a snapshot that exists.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from partition_snapshots import failpoints
from partition_snapshots.base import DeltaBase, LocalBase, find_base
from partition_snapshots.errors import StoreBusy, StoreUnavailable
from partition_snapshots.existing import (
    claim,
    existing_of,
    existing_whole,
    remove_markers,
    take_back,
)
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.manifests import encode_manifest
from partition_snapshots.markers import (
    Marker,
    forget_earlier,
    held,
    take_marker,
    wait_for_collection,
)
from partition_snapshots.model import (
    Manifest,
    ObjectName,
    Row,
    SnapshotSource,
    StoreProgress,
    TakenSnapshot,
    check_new_snapshot_id,
)
from partition_snapshots.parallel import for_each
from partition_snapshots.read import StoreSegments, manifest_name
from partition_snapshots.segments import encode_blob_lists
from partition_snapshots.state_writer import Sent, StateWriter, WrittenState
from partition_snapshots.store import Store, Told, object_name, untold
from partition_snapshots.wanted import BlobLists, Needed, missing

REPORT_S = 0.2
"""The least seconds between two progress reports within a phase."""


async def take_snapshot(  # noqa: PLR0913  # the parts of a snapshot, then a keyword for each option
    store: Store,
    source: SnapshotSource,
    rows: Callable[[], Iterator[Row]],
    blobs: Iterable[tuple[bytes, int]],
    blob_path: Callable[[bytes], Path],
    *,
    base_directory: Path | None = None,
    full: bool = False,
    owner: str = "",
    limits: SnapshotLimits | None = None,
    progress: Callable[[StoreProgress], None] = lambda _: None,
) -> TakenSnapshot:
    """Writes a snapshot into a store. When it returns, the snapshot is durable and complete there.

    rows: returns the state's rows from the start, in order. It is called once, or again if a delta
        was not possible, and runs on a thread.
    blobs: (digest, size), sorted by digest. blob_path: returns the file of a digest.
    base_directory: stores the state's segments for the next incremental snapshot. Without it, they
        are read from the store.
    full: uses nothing in the store. Writes a full run, and sends every object again.
    owner: the name of the caller, which does one thing at a time with the store. The markers of its
        earlier processes are deleted at once. Without a name, they expire after marker_stale_s.

    Raises SnapshotExists, StoreOfOtherCluster, SourceDamaged, StoreBusy, StoreUnavailable,
    StoreRefused, StoreFull, and the errors of `rows`. After each of them, the same call may be
    repeated."""
    limits = limits or SnapshotLimits()
    check_new_snapshot_id(source.snapshot_id)
    await claim(store, source.cluster_id)
    await forget_earlier(store, owner)
    there = await existing_of(store, source, limits) is not None
    local = None if base_directory is None else LocalBase(base_directory)
    if local is not None:
        local.collect_garbage(limits)
    marker = take_marker(store, source.snapshot_id, owner, limits)
    async with held(marker):
        failpoints.reach("snapshot.upload.begun")
        report = _Report(progress)
        await wait_for_collection(store, marker, limits, lambda: report.now("waiting", 0, 0))
        if there:
            report.now("checking", 0, 0)
            existing = await existing_whole(store, source, limits)
            if existing is not None:
                await marker.end()
                await remove_markers(store, source.snapshot_id)
                return TakenSnapshot(existing, 0, 0, existed=True)
            full = True  # an object was missing, so rely on none of them
        take = _Take(store, source, limits, marker, report, local, full, owner)
        try:
            return await take.run(rows, blobs, blob_path)
        except BaseException:
            if local is not None:
                local.collect_garbage(limits)
            raise


class _Report:
    """Reports progress, and limits how often."""

    def __init__(self, progress: Callable[[StoreProgress], None]) -> None:
        self._progress = progress
        self._last = 0.0

    def now(self, phase: str, done: int, total: int) -> None:
        self._last = time.monotonic()
        self._progress(StoreProgress(phase, done, total))

    def seldom(self, phase: str, done: int, total: int) -> None:
        if time.monotonic() - self._last >= REPORT_S:
            self.now(phase, done, total)


@dataclass(slots=True)
class _Take:
    """One take under its marker."""

    store: Store
    source: SnapshotSource
    limits: SnapshotLimits
    marker: Marker
    report: _Report
    local: LocalBase | None
    full: bool
    owner: str
    sent: Sent = field(default_factory=Sent)

    async def run(
        self,
        rows: Callable[[], Iterator[Row]],
        blobs: Iterable[tuple[bytes, int]],
        blob_path: Callable[[bytes], Path],
    ) -> TakenSnapshot:
        lists = _blob_lists(blobs, self.limits)
        writer = StateWriter(
            self.store,
            rows,
            self.limits,
            self.local,
            self.sent,
            lambda done: self.report.seldom("state", done, 0),
            rewrite=self.full,
        )
        self.report.now("state", 0, 0)
        state = await writer.write(await self._base())
        await self._send_blobs(lists, blob_path)
        for name, data in lists.lists:
            await writer.put_object(name, data)
        await self.store.flush()
        self.report.now("checking", 0, 0)
        await self._recheck(state, lists, blob_path)
        manifest = _manifest(self.source, state, lists)
        self.report.now("manifest", 0, 0)
        existing = await self._write_manifest(manifest, state, lists)
        await self.marker.end()
        await remove_markers(self.store, self.source.snapshot_id)
        if existing is not None:
            return TakenSnapshot(existing, self.sent.transferred_bytes, 0, existed=True)
        if self.local is not None:
            self.local.commit(manifest)
            failpoints.reach("snapshot.base.saved")
        return TakenSnapshot(
            manifest, self.sent.transferred_bytes, self.sent.objects_written, existed=False
        )

    async def _base(self) -> DeltaBase | None:
        if self.full:
            return None
        source = StoreSegments(self.store, asyncio.get_running_loop())
        return await find_base(self.store, self.source.cluster_id, self.local, source, self.limits)

    async def _send_blobs(self, lists: BlobLists, blob_path: Callable[[bytes], Path]) -> None:
        """Sends the missing blobs, and counts those that the store has."""
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            self.report.seldom("blobs", done, lists.total)

        async def needed() -> AsyncGenerator[Needed, None]:
            found = missing(self.store, lists.blobs(), self.limits.streams_max)
            async with aclosing(found) as objects:
                async for need, lacks in objects:
                    if lacks or self.full:
                        yield need
                    else:
                        count(need[1])

        async def send(need: Needed) -> None:
            await self._send_blob(need, blob_path, count)

        self.report.now("blobs", 0, lists.total)
        async with aclosing(needed()) as objects:
            await for_each(objects, send, self.limits.streams_max)
        self.report.now("blobs", done, lists.total)

    async def _send_blob(
        self, need: Needed, blob_path: Callable[[bytes], Path], told: Told = untold
    ) -> None:
        digest, size = need
        failpoints.reach("snapshot.object.before")
        path = blob_path(bytes.fromhex(digest))
        # A full snapshot also checks the content of files that are only linked.
        sent = await self.store.put_file(object_name(digest), path, size, told, self.full)
        failpoints.reach("snapshot.object.after")
        self.sent.transferred_bytes += sent
        self.sent.objects_written += 1

    async def _lacking(self, state: WrittenState, lists: BlobLists) -> list[Needed]:
        """Returns the objects of the new manifest that the store lacks."""
        others = {(s.digest, s.size) for run in state.runs for s in run.segments}
        others |= {(name.digest, name.size) for name, _ in lists.lists}
        lacking = []
        done = 0
        for needs in (lists.blobs(), sorted(others)):
            found = missing(self.store, needs, self.limits.streams_max)
            async with aclosing(found) as objects:
                async for need, lacks in objects:
                    done += need[1]
                    self.report.seldom("checking", done, 0)
                    if lacks:
                        lacking.append(need)
        return lacking

    async def _recheck(
        self, state: WrittenState, lists: BlobLists, blob_path: Callable[[bytes], Path]
    ) -> None:
        """Checks that the store has all objects, and sends missing blobs again. Raises
        StoreUnavailable if objects are still missing then."""
        lacking: list[Needed] = []
        for _ in range(self.limits.recheck_rounds):
            lacking = await self._lacking(state, lists)
            if not lacking:
                return
            blobs = set(lists.blobs())
            if not blobs.issuperset(lacking):
                break
            for need in lacking:
                await self._send_blob(need, blob_path)
            await self.store.flush()
        raise StoreUnavailable(
            f"{self.store.description}: {len(lacking)} objects disappeared after they were sent, "
            f"such as {lacking[0][0]}; find the other program that deletes there, then take the "
            "snapshot again"
        )

    async def _write_manifest(
        self, manifest: Manifest, state: WrittenState, lists: BlobLists
    ) -> Manifest | None:
        """Writes the manifest, by which the snapshot exists. If another try wrote it first, returns
        that try's manifest, otherwise None."""
        name = manifest_name(manifest.snapshot_id)
        await self.marker.check()
        failpoints.reach("snapshot.manifest.before")
        created = await self.store.put_bytes(name, encode_manifest(manifest), create=True)
        failpoints.reach("snapshot.manifest.after")
        if not created:
            existing = await existing_of(self.store, self.source, self.limits)
            if existing is None:
                raise StoreBusy(
                    f"snapshot {manifest.snapshot_id} was deleted while it was taken; take it again"
                )
            if existing != manifest:
                # The other try checked its objects before this process wrote its marker.
                await self._prove(self.marker)
                return existing
        try:
            await self.marker.check()
        except (StoreBusy, StoreUnavailable):
            # This process was suspended between its last check and the manifest, for longer than
            # markers are valid. A collection may have started meanwhile, and may still run.
            marker = take_marker(self.store, manifest.snapshot_id, self.owner, self.limits)
            try:
                async with held(marker):
                    await self._prove(marker)
                    await marker.end()
            except BaseException:
                await take_back(self.store, name)
                raise
        return None

    async def _prove(self, marker: Marker) -> None:
        """Waits for collections that started before the manifest, and checks that the store has all
        objects. If not, deletes the manifest and raises StoreBusy."""
        await wait_for_collection(
            self.store, marker, self.limits, lambda: self.report.now("waiting", 0, 0)
        )
        self.report.now("checking", 0, 0)
        if await existing_whole(self.store, self.source, self.limits) is None:
            raise StoreBusy(
                f"{self.store.description}: snapshot {self.source.snapshot_id} was deleted, or a "
                "garbage collection deleted objects of it while its writer was suspended; take it "
                "again"
            )


def _blob_lists(blobs: Iterable[tuple[bytes, int]], limits: SnapshotLimits) -> BlobLists:
    count = total = 0

    def counted() -> Iterator[tuple[bytes, int]]:
        nonlocal count, total
        for digest, size in blobs:
            count += 1
            total += size
            yield digest, size

    lists = tuple(
        (ObjectName(hashlib.sha256(data).hexdigest(), len(data), entries), data)
        for data, entries in encode_blob_lists(counted(), limits.segment_bytes)
    )
    return BlobLists(lists, count, total)


def _manifest(source: SnapshotSource, state: WrittenState, lists: BlobLists) -> Manifest:
    return Manifest(
        snapshot_id=source.snapshot_id,
        uid=source.uid,
        partition=source.partition,
        cluster_id=source.cluster_id,
        lsn=source.lsn,
        term=source.term,
        time_ms=source.time_ms,
        clock_ms=source.clock_ms,
        configuration=source.configuration,
        keys=source.keys,
        files=source.files,
        writer=source.writer,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251  # decides nothing
        blob_count=lists.count,
        blob_bytes=lists.total,
        blob_lists=tuple(name for name, _ in lists.lists),
        runs=state.runs,
        digest=state.digest,
        size_bytes=state.size + lists.size + lists.total,
    )
