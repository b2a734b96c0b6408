"""Finds the objects of a snapshot that are missing in its store. It lists one directory of objects
at a time; the first two digits of a digest name the directory."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby

from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import Manifest, ObjectName
from partition_snapshots.parallel import ahead
from partition_snapshots.read import SnapshotReader
from partition_snapshots.segments import decode_blob_list
from partition_snapshots.store import OBJECTS, Store

Needed = tuple[str, int]
"""Digest in hex, size in bytes."""


@dataclass(frozen=True)
class BlobLists:
    """The blobs of a snapshot as encoded blob lists, 40 bytes per blob. `count` is the number of
    blobs, `total` their bytes."""

    lists: tuple[tuple[ObjectName, bytes], ...]
    count: int
    total: int

    @property
    def size(self) -> int:
        return sum(name.size for name, _ in self.lists)

    def blobs(self) -> Iterator[Needed]:
        """Yields the blobs, sorted by digest."""
        for _, data in self.lists:
            for digest, size in decode_blob_list(data):
                yield digest.hex(), size


def by_folder(needed: Iterable[Needed]) -> Iterator[tuple[str, list[Needed]]]:
    """Groups a sorted sequence: yields (first two digits, the objects of that directory)."""
    for folder, group in groupby(needed, key=lambda need: need[0][:2]):
        yield folder, list(group)


async def missing(
    store: Store, needed: Iterable[Needed], streams: int
) -> AsyncGenerator[tuple[Needed, bool], None]:
    """Yields (object, whether it is missing or has another size) for each of the sorted `needed`.
    At most `streams` directories are in memory."""

    async def present(group: tuple[str, list[Needed]]) -> dict[str, int]:
        folder, needs = group
        found: dict[str, int] = {}
        wanted = {digest for digest, _ in needs}
        async with aclosing(store.list(f"{OBJECTS}{folder}/")) as entries:
            async for info in entries:
                digest = info.name[-64:]
                if digest in wanted:
                    found[digest] = info.size
        return found

    async with aclosing(ahead(by_folder(needed), present, streams)) as folders:
        async for (_, needs), found in folders:
            for need in needs:
                yield need, found.get(need[0]) != need[1]


async def lacking(store: Store, manifest: Manifest, limits: SnapshotLimits) -> list[Needed]:
    """Returns the objects of a stored snapshot that its store lacks, or has with another size.
    Raises SnapshotDamaged if a blob list can't be read."""
    named = [*manifest.blob_lists, *(s for run in manifest.runs for s in run.segments)]
    found = await _lacks(store, sorted({(name.digest, name.size) for name in named}), limits)
    if found:
        return found
    reader = SnapshotReader(store, manifest, limits)
    for name in manifest.blob_lists:
        blobs = [(digest.hex(), size) for digest, size in await reader.blob_list(name)]
        found += await _lacks(store, blobs, limits)
    return found


async def _lacks(store: Store, needed: Iterable[Needed], limits: SnapshotLimits) -> list[Needed]:
    async with aclosing(missing(store, needed, limits.streams_max)) as objects:
        return [need async for need, lacks in objects if lacks]
