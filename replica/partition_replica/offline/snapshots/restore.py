"""Restores a stored snapshot into a new volume of a new group: keys, files, modes, sessions, and
the LSN after which the log continues.

The volume is staged completely and moved into place at the end (`new_volume`). After an
interruption, the restore starts over. If the volume already belongs to the group, there is nothing
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
)
from partition_replica.storage.blobs import blob_path
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import disk, fatal_on_failure, sync_directory
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state_loading import StateLoader
from partition_replica.threads import both, run_to_end

TABLE_NAMES = dict(enumerate(TABLES, start=1))
"""Table names by the numbers that a snapshot's rows have."""

ACTION = "a restore"

Progress = Callable[[str, int, int], None]
"""("restoring", bytes done, total bytes), rows and files together."""


def completed(data: Path, cluster: ClusterID) -> LSN | None:
    """The last LSN of the volume `data`, if it already belongs to `cluster`: the restore is
    complete. None if the volume is new. Raises VolumeTaken if it belongs to another group,
    VolumeBusy, ImportRefused."""
    if not (data / LOG).exists():
        return None
    try:
        with NewVolume(data, ACTION):
            return None
    except VolumeTaken as error:
        if error.cluster != cluster or not error.founded:
            raise
        # The process that moved it into place may have ended before its fsync.
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
    """Restores the snapshot into the new volume `data`, as the sole voter of the new group
    `cluster` or, if `standalone`, as a standalone group. Returns the position after which the log
    continues.

    The volume is durable when this returns. If it is interrupted, the volume is still new, or
    complete (see `completed`). Raises SnapshotDamaged (which names the damage), StoreUnavailable,
    VolumeFull, VolumeTaken, VolumeBusy, StorageFailed; each leaves the volume unchanged.
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
    """The position after which the log of a restored volume begins: the snapshot's LSN and term.

    For a group it is at least (1, 1). `verify` takes a log that begins after (1, 1) as complete
    from an empty state. So a state with content gets term 2 there.
    """
    lsn, term = manifest.lsn, manifest.term
    if standalone:
        return Position(LSN(lsn), Term(term))
    lsn, term = max(lsn, 1), max(term, 1)
    if lsn == 1 and not empty:
        term = max(term, 2)
    return Position(LSN(lsn), Term(term))


class _Restorer:
    """Writes everything below volume.staged, durably."""

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
        # If cancelled, it waits for its threads: LMDB must not be closed while a thread uses it,
        # and no directory may be removed while a thread writes to it.
        state = self._volume.staged / STATE / GENERATION
        loader = await run_to_end(lambda: StateLoader(state, TABLES), undo=StateLoader.close)
        try:
            # At the same time: rows need a processor, files need the disk.
            start, count = await both(self._load_rows(loader, standalone), self._fetch_blobs())
            await run_to_end(partial(self._check_blobs, loader.blobs(), count))
        finally:
            loader.close()
        reach("restore.blobs_fetched")
        await run_to_end(partial(self._write_log, cluster, standalone, start))
        return start

    def _tell(self) -> None:
        """Reports progress. Rows count in their stored size, which may exceed that in the
        manifest, so their sum is capped."""
        rows = sum(run.size for run in self._manifest.runs)
        done = min(self._row_bytes, rows) + self._blob_bytes
        self._progress("restoring", done, rows + self._manifest.blob_bytes)

    async def _load_rows(self, loader: StateLoader, standalone: bool) -> Position:
        """Loads the state, durably, and returns the position after which the log continues."""
        try:
            async with aclosing(self._reader.take_rows(partial(_put, loader))) as sizes:
                async for size in sizes:
                    self._row_bytes += size
                    self._tell()
        except RowsRefused as error:
            raise self._damaged(str(error)) from error
        keys = loader.rows["value"]
        if keys != self._manifest.keys:
            raise self._damaged(f"it has {keys} keys, and its manifest has {self._manifest.keys}")
        empty = not any(loader.rows.values())
        start = start_of(self._manifest, standalone=standalone, empty=empty)
        # Entries that the old group acknowledged after the snapshot are lost. The new history ID
        # reports that to clients, and all of their sessions have to expire.
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
        # Rows that a later run replaces were not loaded, and count as done.
        self._row_bytes = sum(run.size for run in self._manifest.runs)
        self._tell()
        return start

    async def _fetch_blobs(self) -> int:
        """Fetches all blobs of the snapshot's lists; returns their number."""

        def progress(size: int) -> None:
            self._blob_bytes += size
            self._tell()

        try:
            count, _ = await self._reader.fetch_blobs(self._target, progress)
        except StoreFull as error:  # only the volume is written to
            raise VolumeFull(str(error)) from error
        return count

    def _target(self, digest: bytes) -> Path:
        """The path where a blob is staged, in an existing directory. May be called on any
        thread."""
        target = blob_path(self._blobs, Digest(digest))
        if target.parent not in self._directories:
            # Another thread may create it at the same time.
            with fatal_on_failure("creating a directory of blobs"), suppress(FileExistsError):
                disk.make_directory(target.parent)
            self._directories.add(target.parent)
        return target

    def _check_blobs(self, named: Iterator[tuple[Digest, int]], fetched: int) -> None:
        """Checks that exactly the blobs that rows name were fetched."""
        count = 0
        for digest, size in named:
            count += 1
            try:
                found = blob_path(self._blobs, digest).stat().st_size
            except FileNotFoundError:
                raise self._damaged(
                    f"a row names file {digest.hex()}, and no list contains it"
                ) from None
            if found != size:
                raise self._damaged(
                    f"file {digest.hex()} has {found} bytes, and its row has {size}"
                )
        if count != fetched:
            raise self._damaged(f"its lists contain {fetched} files, and its rows name {count}")

    def _write_log(self, cluster: ClusterID, standalone: bool, start: Position) -> None:
        """Creates the empty log that continues after the state, with this member as its sole
        voter."""
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
            f"snapshot {self._manifest.snapshot_id} is damaged: {what}; restore another snapshot"
        )


def _put(loader: StateLoader, batch: list[Row]) -> None:
    """Raises RowsRefused, StorageFailed."""
    whole = batch[0][0] == batch[-1][0]  # rows of one table, as in most batches
    for table, rows in [(batch[0][0], batch)] if whole else groupby(batch, key=itemgetter(0)):
        loader.put_rows(TABLE_NAMES.get(table, "?"), [(key, row) for _, key, row in rows])


def _check_room(volume: NewVolume, manifest: Manifest) -> None:
    """Raises VolumeFull if the snapshot does not fit. Called before anything is written."""
    free = volume.free_bytes()
    if free < manifest.size_bytes:
        raise VolumeFull(
            f"snapshot {manifest.snapshot_id} has {manifest.size_bytes} bytes and the volume has "
            f"{free} bytes free: give a larger volume"
        )
