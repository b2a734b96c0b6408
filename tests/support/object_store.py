"""Stores for tests: a directory, and a real S3 server (dev.object_store) that can be killed."""

import hashlib
import os
import random
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from partition_snapshots.destination import DirectoryDestination, S3Destination, open_store
from partition_snapshots.errors import SnapshotError
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.model import (
    TABLE_NUMBERS,
    RecordedConfiguration,
    Row,
    SnapshotSource,
    TakenSnapshot,
)
from partition_snapshots.read import SnapshotReader, list_snapshots
from partition_snapshots.store import OBJECTS, ObjectInfo, Store, Told, always, untold
from partition_snapshots.take import take_snapshot

from dev.object_store import ObjectStoreServer

CLUSTER = "6f0e7b1c-0000-4000-8000-000000000001"
BUCKET = "snapshots"

QUICK = SnapshotLimits(
    segment_bytes=4096,
    retries=20,
    retry_timeout_s=5.0,
    backoff_first_s=0.02,
    backoff_max_s=0.2,
    connect_timeout_s=1.0,
    request_timeout_s=20.0,
    busy_wait_s=10.0,
)
"""Small segments, short patience."""


def s3_destination(server: ObjectStoreServer, prefix: str, **changes: Any) -> S3Destination:
    return S3Destination(
        **{
            "bucket": BUCKET,
            "access_key_id": server.access_key_id,
            "secret_access_key": server.secret_access_key,
            "endpoint": server.endpoint,
            "prefix": prefix,
            "allow_http": True,
        }
        | changes
    )


@dataclass
class Place:
    """Where a store is, and its files as the backend keeps them."""

    destination: DirectoryDestination | S3Destination
    files: Path
    server: ObjectStoreServer | None = None

    def open(self, limits: SnapshotLimits = QUICK) -> Store:
        return open_store(self.destination, limits)

    def file(self, name: str) -> Path:
        return self.files / name

    def names(self) -> set[str]:
        """Every file of the store, also those that no store lists."""
        return {
            str(path.relative_to(self.files)) for path in self.files.rglob("*") if path.is_file()
        }


def sealed(key: bytes, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(key)).to_bytes(4, "big") + payload


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@dataclass
class Partition:
    """A state made up for tests: keys, files with content in rows, files as blobs on a volume."""

    volume: Path
    keys: dict[bytes, bytes] = field(default_factory=dict)
    small: dict[bytes, bytes] = field(default_factory=dict)
    large: dict[bytes, bytes] = field(default_factory=dict)
    lsn: int = 1

    def put_blob(self, path: bytes, content: bytes) -> None:
        digest = hashlib.sha256(content).digest()
        file = self.blob_path(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_bytes(content)
        self.large[path] = content

    def blob_path(self, digest: bytes) -> Path:
        return self.volume / "blobs" / digest.hex()[:2] / digest.hex()

    def blobs(self) -> list[tuple[bytes, int]]:
        return sorted({(hashlib.sha256(c).digest(), len(c)) for c in self.large.values()})

    def rows(self) -> Iterator[Row]:
        def row(table: str, key: bytes, payload: bytes) -> Row:
            return TABLE_NUMBERS[table], key, sealed(key, payload)

        for key in sorted(self.keys):
            yield row("value", key, self.keys[key])
        files = self.small | self.large
        for path in sorted(files):
            digest = hashlib.sha256(files[path]).digest()
            yield row("tree", path, digest + len(files[path]).to_bytes(8, "big"))
        inlined = {hashlib.sha256(content).digest(): content for content in self.small.values()}
        sizes = {digest: len(content) for digest, content in inlined.items()} | dict(self.blobs())
        for digest in sorted(sizes):
            mark = b"\x18\x01" if digest in inlined else b""
            payload = b"\x08\x01\x10" + varint(sizes[digest]) + mark
            yield row("payload", digest, payload)
        for digest in sorted(inlined):
            yield row("content", digest, inlined[digest])
        yield row("session", (7).to_bytes(8, "big"), b"session")
        yield row("result", (7).to_bytes(8, "big") + (1).to_bytes(8, "big"), b"result")

    def source(self, snapshot_id: str, **changes: Any) -> SnapshotSource:
        source = SnapshotSource(
            snapshot_id=snapshot_id,
            uid=f"uid-{snapshot_id}",
            partition="shop/orders",
            cluster_id=CLUSTER,
            lsn=self.lsn,
            term=3,
            time_ms=1_700_000_000_000,
            clock_ms=1_000,
            configuration=RecordedConfiguration(("00000000000000a1",), ()),
            keys=len(self.keys),
            files=len(self.small) + len(self.large),
            writer="test",
        )
        return replace(source, **changes)

    @classmethod
    def random(
        cls, volume: Path, seed: int, *, keys: int = 60, small: int = 20, large: int = 5
    ) -> "Partition":
        dice = random.Random(seed)
        made = cls(volume)
        for number in range(keys):
            made.keys[b"key-%06d" % number] = dice.randbytes(dice.randint(0, 200))
        for number in range(small):
            made.small[b"small/%06d" % number] = dice.randbytes(dice.randint(0, 900))
        for number in range(large):
            made.put_blob(b"large/%06d" % number, dice.randbytes(dice.randint(1000, 9000)))
        return made


async def put(store: Store, partition: Partition, name: str, **options: Any) -> TakenSnapshot:
    """Publishes the partition as it is, at its next LSN."""
    partition.lsn += 1
    options = {"limits": QUICK} | options
    return await take_snapshot(
        store,
        partition.source(name),
        partition.rows,
        partition.blobs(),
        partition.blob_path,
        **options,
    )


async def read_rows(store: Store, snapshot_id: str) -> list[Row]:
    """All rows of a snapshot, checked."""
    manifest = next(m for m in await list_snapshots(store) if m.snapshot_id == snapshot_id)
    batches = SnapshotReader(store, manifest).rows()  # type: ignore[arg-type]
    return [row async for batch, _ in batches for row in batch]


async def named_objects(store: Store) -> set[str]:
    """The digests that the store's manifests name, with their blobs."""
    named: set[str] = set()
    for manifest in await list_snapshots(store):
        named |= {name.digest for name in manifest.blob_lists}  # type: ignore[union-attr]
        named |= {s.digest for run in manifest.runs for s in run.segments}  # type: ignore[union-attr]
        reader = SnapshotReader(store, manifest)  # type: ignore[arg-type]
        named |= {digest.hex() async for digest, _ in reader.blobs()}
    return named


async def listed_objects(store: Store) -> set[str]:
    return {info.name[-64:] async for info in store.list(OBJECTS)}


class Died(BaseException):
    """The process would be gone."""


class Mortal:
    """A store that a process uses until it dies at a failpoint: afterwards nothing of that process
    reaches the store any more, as if it had been killed."""

    def __init__(self, store: Store, at: str = "", time: int = 1) -> None:
        self._store = store
        self.description = store.description
        self._at = at
        self._times = time
        self.reached: list[str] = []
        self.dead = False

    def hook(self, name: str) -> None:
        self.reached.append(name)
        if self.dead:
            raise Died(name)
        if name == self._at and self.reached.count(name) == self._times:
            self.dead = True
            raise Died(name)

    def _alive(self) -> Store:
        if self.dead:
            raise Died("gone")
        return self._store

    async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
        return await self._alive().put_bytes(name, data, create=create)

    async def put_file(
        self, name: str, path: Path, size: int, sent: Told = untold, check: bool = False
    ) -> int:
        return await self._alive().put_file(name, path, size, sent, check)

    async def flush(self) -> None:
        await self._alive().flush()

    async def get(self, name: str, size_max: int | None = None) -> bytes:
        return await self._alive().get(name, size_max)

    async def get_many(self, wanted: Sequence[tuple[str, int]]) -> Sequence[bytes | SnapshotError]:
        return await self._alive().get_many(wanted)

    async def stream(self, name: str, size: int) -> AsyncGenerator[bytes, None]:
        async for chunk in self._alive().stream(name, size):
            yield chunk

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        async for info in self._alive().list(prefix):
            yield info

    async def head(self, name: str) -> ObjectInfo | None:
        return await self._alive().head(name)

    async def delete(self, names: Iterable[str], may: Callable[[], None] = always) -> None:
        await self._alive().delete(names, may)

    async def sweep(self) -> int:
        return await self._alive().sweep()

    async def close(self) -> None:
        return


def age(place: Place, folder: str, seconds: float = 7200) -> int:
    """Makes markers older, as the store's clock tells it; returns how many."""
    files = [path for path in place.file(folder).glob("*") if path.is_file()]
    for path in files:
        found = path.stat()
        os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))
    return len(files)
