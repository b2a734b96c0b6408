"""A stored snapshot made into a new volume: keys, files, modes, sessions, and the LSN that the log
goes on from, in a cluster of its own.

The volume is staged whole and moved into place at the end, as an import's (`new_volume`). Where
that was cut off, it starts over; where the volume is the cluster's already, there is nothing left
to do.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from partition_snapshots.errors import SnapshotDamaged, StoreFull
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import TABLES, Manifest, Row
from partition_snapshots.read import SnapshotReader
from partition_snapshots.store import Store

from partition_replica.core.limits import SESSION_TTL_MS_MAX
from partition_replica.core.model import Configuration, Position
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import RowsRefused, VolumeFull, VolumeTaken
from partition_replica.ids import LSN, ClusterID, Digest, Term
from partition_replica.offline.new_volume import (
    BLOBS,
    GENERATION,
    LOG,
    STATE,
    NewVolume,
    free_bytes,
)
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import disk, fatal_on_failure, sync_directory
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state_loading import StateLoader
from partition_replica.storage.threads import both, run_to_end

TABLE_NAMES = dict(enumerate(TABLES, start=1))
"""By number, as rows of a snapshot name them."""

ACTION = "a restore"

Progress = Callable[[str, int, int], None]
"""("restoring", bytes done, bytes in all): rows and files, at the same time."""


def completed(data: Path, cluster: ClusterID) -> LSN | None:
    """The last LSN of a volume that belongs to `cluster` already: there is nothing to restore. None
    where it is new. Raises VolumeTaken for one of another cluster, VolumeBusy, ImportRefused."""
    if not (data / LOG).exists():
        return None
    try:
        with NewVolume(data, ACTION):
            return None
    except VolumeTaken as error:
        if error.cluster != cluster or not error.founded:
            raise
        # Whoever moved it into place may have been ended before this.
        sync_directory(data)
        return LSN(error.last)


async def restore(
    store: Store,
    manifest: Manifest,
    data: Path,
    *,
    cluster: ClusterID,
    standalone: bool,
    limits: SnapshotLimits,
    progress: Progress = lambda _step, _done, _total: None,
) -> Position:
    """Makes the snapshot the new volume `data`: the sole voter of the new group `cluster`, or an
    standalone partition. Returns where its log goes on behind.

    Durable when it returns; interrupted at any point the volume is still new, or complete
    (`completed` tells). Raises SnapshotDamaged (naming what), StoreUnavailable, VolumeFull,
    VolumeTaken, VolumeBusy, StorageFailed; all leave the volume as it was.
    """
    with NewVolume(data, ACTION) as volume:
        _check_room(volume, manifest)
        volume.stage()
        reach("restore.begun")
        restorer = _Restorer(store, manifest, volume, limits, progress)
        position = await restorer.write(cluster, standalone)
        volume.move_into_place()
    return position


def start_of(manifest: Manifest, *, standalone: bool, empty: bool) -> Position:
    """Where the log of a restored volume begins: behind the snapshot's LSN, whose term stays.

    A group begins at (1, 1) at least. There the state is an empty one, by which `verify` knows a
    log that is whole from its start; so one with content gets the next term.
    """
    lsn, term = manifest.lsn, manifest.term
    if standalone:
        return Position(LSN(lsn), Term(term))
    lsn, term = max(lsn, 1), max(term, 1)
    if lsn == 1 and not empty:
        term = max(term, 2)
    return Position(LSN(lsn), Term(term))


class _Restorer:
    """Everything below volume.staged, durably."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        volume: NewVolume,
        limits: SnapshotLimits,
        progress: Progress,
    ) -> None:
        self._manifest = manifest
        self._volume = volume
        self._limits = limits
        self._progress = progress
        self._reader = SnapshotReader(store, manifest, limits)
        self._row_bytes = self._blob_bytes = 0  # done
        self._blobs = volume.staged / BLOBS
        self._directories: set[Path] = set()

    async def write(self, cluster: ClusterID, standalone: bool) -> Position:
        # Cut off, it waits for what its threads do: LMDB must not be closed below one, and no
        # directory removed that another one writes to.
        state = self._volume.staged / STATE / GENERATION
        loader = await run_to_end(lambda: StateLoader(state, TABLES), undo=StateLoader.close)
        try:
            # Rows take a processor, files the disk.
            start, count = await both(self._load_rows(loader, standalone), self._fetch_blobs())
            await run_to_end(partial(self._check_blobs, loader.blobs(), count))
        finally:
            loader.close()
        reach("restore.blobs_fetched")
        await run_to_end(partial(self._write_log, cluster, standalone, start))
        return start

    def _tell(self) -> None:
        """Rows count as they are stored, where they may be smaller: never more than all of them."""
        rows = sum(run.size for run in self._manifest.runs)
        done = min(self._row_bytes, rows) + self._blob_bytes
        self._progress("restoring", done, rows + self._manifest.blob_bytes)

    async def _load_rows(self, loader: StateLoader, standalone: bool) -> Position:
        """Returns where the log goes on behind the state, which is whole and durable."""
        try:
            async with aclosing(self._reader.take_rows(partial(_put, loader))) as sizes:
                async for size in sizes:
                    self._row_bytes += size
                    self._tell()
        except RowsRefused as error:
            raise self._damaged(str(error)) from error
        keys = loader.rows["value"]
        if keys != self._manifest.keys:
            raise self._damaged(f"it has {keys} keys, its manifest says {self._manifest.keys}")
        empty = not any(loader.rows.values())
        start = start_of(self._manifest, standalone=standalone, empty=empty)
        # What the old group acknowledged behind the snapshot is gone: clients have to hear of it,
        # and no session of theirs may go on as if nothing was.
        history = str(uuid.uuid4())
        clock_ms = self._manifest.clock_ms
        if loader.rows["session"]:
            clock_ms += SESSION_TTL_MS_MAX + 1
        await run_to_end(
            partial(
                loader.finish,
                start,
                time_ms=self._manifest.time_ms,
                clock_ms=clock_ms,
                history=history,
            )
        )
        reach("restore.rows_loaded")
        # Rows that a later run took the place of were not loaded.
        self._row_bytes = sum(run.size for run in self._manifest.runs)
        self._tell()
        return start

    async def _fetch_blobs(self) -> int:
        """What the snapshot lists; returns how many."""

        def progress(size: int) -> None:
            self._blob_bytes += size
            self._tell()

        try:
            count, _ = await self._reader.fetch_blobs(self._target, progress)
        except StoreFull as error:  # nothing is written but here
            raise VolumeFull(str(error)) from error
        return count

    def _target(self, digest: bytes) -> Path:
        """Where a blob is staged. Its directory is synced with everything. On any thread."""
        target = blob_path(self._blobs, Digest(digest))
        if target.parent not in self._directories:
            # Another thread may make it at the same time.
            with fatal_on_failure("creating a directory of blobs"), suppress(FileExistsError):
                disk.make_directory(target.parent)
            self._directories.add(target.parent)
        return target

    def _check_blobs(self, named: Iterator[tuple[Digest, int]], fetched: int) -> None:
        """Each that a row names is there, and no other one is."""
        count = 0
        for digest, size in named:
            count += 1
            try:
                found = blob_path(self._blobs, digest).stat().st_size
            except FileNotFoundError:
                raise self._damaged(f"a row names file {digest.hex()}, no list does") from None
            if found != size:
                raise self._damaged(f"file {digest.hex()} has {found} bytes, a row says {size}")
        if count != fetched:
            raise self._damaged(f"its lists name {fetched} files, its rows {count}")

    def _write_log(self, cluster: ClusterID, standalone: bool, start: Position) -> None:
        """The log that goes on behind the state: empty, with a configuration of this member."""
        member = self._volume.member
        log = LmdbLog(self._volume.staged / LOG, member, blob_digests)
        try:
            if standalone:
                log.bootstrap_standalone(cluster, start)
            else:
                log.bootstrap(cluster, Configuration(voters=(member,)), start)
        finally:
            log.close()

    def _damaged(self, what: str) -> SnapshotDamaged:
        return SnapshotDamaged(
            f"snapshot {self._manifest.snapshot_id} is damaged: {what}; restore another one"
        )


def _put(loader: StateLoader, batch: list[Row]) -> None:
    """Raises RowsRefused, StorageFailed."""
    whole = batch[0][0] == batch[-1][0]  # as most are
    for table, rows in [(batch[0][0], batch)] if whole else groupby(batch, key=itemgetter(0)):
        loader.put_rows(TABLE_NAMES.get(table, "?"), [(key, row) for _, key, row in rows])


def _check_room(volume: NewVolume, manifest: Manifest) -> None:
    """Before anything is written: what a snapshot holds has to fit."""
    free = free_bytes(volume.root)
    if free < manifest.size_bytes:
        raise VolumeFull(
            f"snapshot {manifest.snapshot_id} holds {manifest.size_bytes} bytes and the volume has "
            f"{free} free: give a larger volume"
        )
