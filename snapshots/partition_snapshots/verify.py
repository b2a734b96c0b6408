"""Verification of a snapshot: reads all of its data and compares the digests."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from partition_snapshots.errors import SnapshotDamaged, SnapshotError, UnsupportedFormat
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import TABLE_NUMBERS, Manifest, StoreProgress
from partition_snapshots.parallel import for_each
from partition_snapshots.read import Blob, SnapshotReader, load
from partition_snapshots.segments import payload_blob
from partition_snapshots.store import Store

PROBLEMS_MAX = 5
"""After this many damages, the verification ends."""

_PAYLOAD = TABLE_NUMBERS["payload"]


async def verify(
    store: Store,
    snapshot_id: str,
    limits: SnapshotLimits | None = None,
    progress: Callable[[StoreProgress], None] = lambda _: None,
) -> Manifest:
    """Verifies a snapshot, and returns its manifest. Reads every byte of it.

    Manifest, segments, blob lists and blobs must have their size and SHA-256. The merged rows must
    have the recorded digest. The blob lists must name exactly the blobs that payload rows name.
    Raises SnapshotDamaged with up to PROBLEMS_MAX damages, SnapshotNotFound, UnsupportedFormat,
    StoreOfOtherCluster, StoreUnavailable, StoreRefused."""
    limits = limits or SnapshotLimits()
    manifest = await load(store, snapshot_id, limits)
    proof = _Proof(SnapshotReader(store, manifest, limits), manifest, limits, progress)
    await proof.run()
    if proof.problems:
        more = " (there may be more)" if len(proof.problems) == PROBLEMS_MAX else ""
        raise SnapshotDamaged(
            f"snapshot {manifest.snapshot_id} is damaged: {'; '.join(proof.problems)}{more}"
        )
    return manifest


class _Enough(Exception):
    """PROBLEMS_MAX were found."""


class _Proof:
    def __init__(
        self,
        reader: SnapshotReader,
        manifest: Manifest,
        limits: SnapshotLimits,
        progress: Callable[[StoreProgress], None],
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._limits = limits
        self._progress = progress
        self._done = 0
        self.problems: list[str] = []

    async def run(self) -> None:
        try:
            try:
                await self._state()
            except (SnapshotDamaged, UnsupportedFormat) as error:
                self._found(error)
            try:
                async with aclosing(self._reader.blob_groups()) as groups:
                    await for_each(groups, self._group, self._limits.streams_max)
            except (SnapshotDamaged, UnsupportedFormat) as error:
                self._found(error)
        except _Enough:
            pass

    def _found(self, error: SnapshotError) -> None:
        self.problems.append(str(error))
        if len(self.problems) >= PROBLEMS_MAX:
            raise _Enough

    async def _state(self) -> None:
        named = self._named_by_rows()
        listed = self._reader.blobs()
        async with aclosing(named), aclosing(listed):
            async for blob in named:
                entry = await anext(listed, None)
                if entry != blob:
                    # Read the other rows, too: their digest is checked at the end.
                    async for _ in named:
                        pass
                    raise SnapshotDamaged(
                        f"payload rows name blob {blob[0].hex()} of {blob[1]} bytes, but the blob "
                        f"lists name {'no more blobs' if entry is None else entry[0].hex()}"
                    )
            entry = await anext(listed, None)
            if entry is not None:
                raise SnapshotDamaged(
                    f"the blob lists name {entry[0].hex()}, which no payload row names"
                )

    async def _named_by_rows(self) -> AsyncGenerator[tuple[bytes, int], None]:
        async with aclosing(self._reader.rows()) as batches:
            async for batch, size in batches:
                if batch[0][0] <= _PAYLOAD <= batch[-1][0]:
                    for row in batch:
                        blob = payload_blob(row) if row[0] == _PAYLOAD else None
                        if blob is not None:
                            yield blob
                self._count(size)

    async def _group(self, group: list[Blob]) -> None:
        for damage in await self._reader.check_group(group, self._count):
            self._found(damage)

    def _count(self, size: int) -> None:
        self._done += size
        total = self._manifest.size_bytes
        self._progress(StoreProgress("verifying", min(self._done, total), total))
