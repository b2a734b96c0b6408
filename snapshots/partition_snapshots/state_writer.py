"""Writes the rows of a state into a store: a delta if a base allows it, else a full run."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain

from partition_snapshots import failpoints
from partition_snapshots.base import DeltaBase, LocalBase, delta_room
from partition_snapshots.digest import RowDigest
from partition_snapshots.errors import SnapshotError
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.merge import batched, difference
from partition_snapshots.model import ObjectName, Row, Run
from partition_snapshots.parallel import for_each, on_thread
from partition_snapshots.read import merged_batches
from partition_snapshots.segments import HEADER_BYTES, encode_run
from partition_snapshots.store import Store, object_name

REPORT_BATCHES = 64


class _NoDelta(Exception):
    """No delta can be written: it is too large, or does not match the base."""


class _BaseUnreadable(_NoDelta):
    """The base can't be read. If it is in the store, the store's segments can't be reused."""


@dataclass
class Sent:
    """The bytes and objects that were sent to the store so far."""

    transferred_bytes: int = 0
    objects_written: int = 0


@dataclass(frozen=True)
class WrittenState:
    """The runs of a state for its manifest, and the digest of the merged rows."""

    runs: tuple[Run, ...]
    digest: str

    @property
    def size(self) -> int:
        return sum(run.size for run in self.runs)


@dataclass
class StateWriter:
    """Writes one state. `scanned` is called on the loop's thread with the bytes of rows that were
    processed. `rewrite`: send objects even if the store has them."""

    store: Store
    rows: Callable[[], Iterator[Row]]
    limits: SnapshotLimits
    local: LocalBase | None
    sent: Sent
    scanned: Callable[[int], None]
    rewrite: bool = False
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    async def write(self, base: DeltaBase | None) -> WrittenState:
        """Writes the state, as a delta on `base` if possible. Raises the store's errors,
        SourceDamaged, and the errors of `rows`."""
        if base is not None:
            room = delta_room(base.manifest, self.limits)
            if room is not None:
                try:
                    return await self._delta(base, room)
                except _BaseUnreadable:
                    # A new segment may have the name of the one that can't be read.
                    self.rewrite = self.rewrite or self.local is None
                except _NoDelta:
                    pass
        return await self._full()

    async def _full(self) -> WrittenState:
        digest = RowDigest()

        def segments() -> Iterator[tuple[bytes, int]]:
            done = 0
            for data, count in encode_run(self.rows(), self.limits.segment_bytes):
                # A segment of a full run is a header and rows in their canonical encoding.
                digest.update_encoded(memoryview(data)[HEADER_BYTES:])
                done += len(data)
                self._loop.call_soon_threadsafe(self.scanned, done)
                yield data, count

        run = await self._put(segments, None)
        return WrittenState((run,) if run.segments else (), digest.hexdigest())

    async def _delta(self, base: DeltaBase, room: int) -> WrittenState:
        digest = RowDigest()

        def new_rows() -> Iterator[list[Row]]:
            done = 0
            for number, batch in enumerate(batched(self.rows())):
                done += digest.update(batch)
                if not number % REPORT_BATCHES:
                    self._loop.call_soon_threadsafe(self.scanned, done)
                yield batch

        def base_rows() -> Iterator[list[Row]]:
            try:
                yield from merged_batches(base.manifest.runs, base.source)
            except SnapshotError as error:
                # Any error is fine here: a full run needs no base, and reports the store's errors.
                raise _BaseUnreadable from error

        def segments() -> Iterator[tuple[bytes, int]]:
            olds, news = chain.from_iterable(base_rows()), chain.from_iterable(new_rows())
            yield from encode_run(difference(olds, news), self.limits.segment_bytes)

        run = await self._put(segments, room)
        runs = (*base.manifest.runs, run) if run.segments else base.manifest.runs
        if not run.segments and digest.hexdigest() != base.manifest.digest:
            raise _NoDelta
        return WrittenState(runs, digest.hexdigest())

    async def _put(self, make: Callable[[], Iterator[tuple[bytes, int]]], room: int | None) -> Run:
        """Stores segments as `make` yields them. Raises _NoDelta if they exceed `room` bytes."""
        names: dict[int, ObjectName] = {}

        def hashed() -> Iterator[tuple[int, ObjectName, bytes]]:
            for number, (data, count) in enumerate(make()):
                name = ObjectName(hashlib.sha256(data).hexdigest(), len(data), count)
                if self.local is not None:
                    self.local.keep(name.digest, data)
                yield number, name, data

        async def bounded() -> AsyncGenerator[tuple[int, ObjectName, bytes], None]:
            total = 0
            async with aclosing(on_thread(hashed)) as segments:
                async for segment in segments:
                    total += segment[1].size
                    if room is not None and total > room:
                        raise _NoDelta
                    yield segment

        async def put(segment: tuple[int, ObjectName, bytes]) -> None:
            number, name, data = segment
            await self.put_object(name, data)
            names[number] = name
            failpoints.reach("snapshot.segment.after")

        async with aclosing(bounded()) as segments:
            await for_each(segments, put, self.limits.streams_max)
        return Run(tuple(names[number] for number in sorted(names)))

    async def put_object(self, name: ObjectName, data: bytes) -> None:
        """Stores an object from memory, unless the store has it and `rewrite` is False."""
        place = object_name(name.digest)
        if not self.rewrite:
            there = await self.store.head(place)
            if there is not None and there.size == name.size:
                return
        failpoints.reach("snapshot.object.before")
        await self.store.put_bytes(place, data)
        failpoints.reach("snapshot.object.after")
        self.sent.transferred_bytes += name.size
        self.sent.objects_written += 1
