"""The base of an incremental snapshot: an earlier snapshot's runs, and where to read them.

For a bucket the writer keeps the last snapshot's segments in a directory of its own. Nothing
there is needed: what is missing or damaged costs a full run. So nothing is synced, and failures of
that disk are passed over.
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
    """Runs to write a delta against; `source` reads a segment of them, on a thread."""

    manifest: Manifest
    source: SegmentSource


class LocalBase:
    """`directory` holds the last snapshot's manifest, its ID, and its segments by digest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._usable = True

    def load(self, limits: SnapshotLimits) -> DeltaBase | None:
        """None where there is none that can be read."""
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
            raise SnapshotNotFound(f"segment {segment.digest} is not kept") from error

    def keep(self, digest: str, data: bytes) -> None:
        """Keeps a segment for the next snapshot."""
        if not self._usable:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = self._directory / f"{digest}.partial"
            partial.write_bytes(data)
            partial.rename(self._directory / digest)
        except OSError:
            # Most often no room. What was kept so far would not be enough.
            self._usable = False
            self.discard()

    def collect_garbage(self, limits: SnapshotLimits) -> None:
        """Removes what the base doesn't name: segments of a take that failed or died."""
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
        """Makes it the base; forgets segments that it doesn't name."""
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
        """Removes what it can."""
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
    """The newest base that the store still holds whole; None for none. Without a local copy, the
    store's newest snapshot. Raises StoreUnavailable, StoreRefused."""
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
    """How many bytes another delta may have; None where a full run is due."""
    if len(manifest.runs) >= limits.runs_max:
        return None
    full, *deltas = manifest.runs
    room = int(full.size * limits.delta_ratio_max) - sum(delta.size for delta in deltas)
    return room if room > 0 else None
