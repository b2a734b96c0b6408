"""The base of an incremental snapshot: an earlier snapshot's runs, and where to read them.

For a bucket, the writer keeps the last snapshot's segments in a local directory. That directory is
only a cache: if a file is missing or damaged, the next snapshot is full. So this module never calls
fsync on it, and ignores errors of its disk.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from partition_snapshots.errors import SnapshotError, SnapshotNotFound
from partition_snapshots.limits import SEGMENT_BYTES_MAX, SnapshotLimits
from partition_snapshots.manifests import decode_manifest, encode_manifest
from partition_snapshots.model import DamagedManifest, Manifest, ObjectName
from partition_snapshots.read import SegmentSource, list_snapshots
from partition_snapshots.store import Store
from partition_snapshots.wanted import missing

MANIFEST = "manifest.json"
ID = "id"


@dataclass(frozen=True)
class DeltaBase:
    """The runs that a delta builds on. `source` reads one of their segments, on a thread."""

    manifest: Manifest
    source: SegmentSource


class LocalBase:
    """A local copy of the last snapshot's runs. `directory` contains its manifest, its ID, and its
    segments by digest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._usable = True

    def load(self, limits: SnapshotLimits) -> DeltaBase | None:
        """Returns the base, or None if its manifest or ID is absent or can't be read."""
        try:
            snapshot_id = (self._directory / ID).read_text()[:64]
            with (self._directory / MANIFEST).open("rb") as file:
                data = file.read(limits.manifest_bytes_max)
            return DeltaBase(decode_manifest(data, snapshot_id), self._segment)
        except (OSError, ValueError, SnapshotError):
            return None

    def _segment(self, segment: ObjectName) -> bytes:
        try:
            with (self._directory / segment.digest).open("rb") as file:
                return file.read(SEGMENT_BYTES_MAX + 1)
        except OSError as error:
            raise SnapshotNotFound(
                f"segment {segment.digest} is not in the local copy of the base"
            ) from error

    def keep(self, digest: str, data: bytes) -> None:
        """Stores a segment for the next snapshot. Discards the base if that fails."""
        if not self._usable:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = self._directory / f"{digest}.partial"
            partial.write_bytes(data)
            partial.rename(self._directory / digest)
        except OSError:
            # Most often a full disk. An incomplete base is useless.
            self._usable = False
            self.discard()

    def collect_garbage(self, limits: SnapshotLimits) -> None:
        """Deletes segments that the base doesn't name: those of a failed or interrupted take."""
        base = self.load(limits)
        if base is None:
            self.discard()
            return
        with suppress(OSError):
            self._keep_only(base.manifest)

    def _keep_only(self, manifest: Manifest) -> None:
        names = {segment.digest for run in manifest.runs for segment in run.segments}
        for path in list(self._directory.iterdir()):
            if path.name not in names | {ID, MANIFEST}:
                path.unlink()

    def commit(self, manifest: Manifest) -> None:
        """Makes the snapshot the base, and deletes segments that it doesn't name."""
        if not self._usable:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, data in (
                (ID, manifest.snapshot_id.encode()),
                (MANIFEST, encode_manifest(manifest)),
            ):
                partial = self._directory / f"{name}.partial"
                partial.write_bytes(data)
                partial.rename(self._directory / name)
            self._keep_only(manifest)
        except OSError:
            self.discard()

    def discard(self) -> None:
        """Deletes the base, as far as the disk allows."""
        with suppress(OSError):
            for name in [MANIFEST, *os.listdir(self._directory)]:
                with suppress(OSError):
                    (self._directory / name).unlink()


async def find_base(
    store: Store,
    cluster_id: str,
    local: LocalBase | None,
    source: SegmentSource,
    limits: SnapshotLimits,
) -> DeltaBase | None:
    """Returns the base for an incremental snapshot: the local copy, or the store's newest snapshot
    if `local` is None. Returns None if there is no base, or the store lacks a segment of it. Raises
    StoreUnavailable, StoreRefused."""
    if local is not None:
        base = local.load(limits)
    else:
        found = [
            one
            for one in await list_snapshots(store, limits)
            if not isinstance(one, DamagedManifest)
        ]
        base = DeltaBase(found[-1], source) if found else None
    if base is None or base.manifest.cluster_id != cluster_id or not base.manifest.runs:
        return None
    segments = {(s.digest, s.size) for run in base.manifest.runs for s in run.segments}
    async for _, lacks in missing(store, sorted(segments), limits.streams_max):
        if lacks:
            return None
    return base


def delta_room(manifest: Manifest, limits: SnapshotLimits) -> int | None:
    """Returns the bytes that another delta may have, or None if a full run is due."""
    if len(manifest.runs) >= limits.runs_max:
        return None
    full, *deltas = manifest.runs
    room = int(full.size * limits.delta_ratio_max) - sum(delta.size for delta in deltas)
    return room if room > 0 else None
