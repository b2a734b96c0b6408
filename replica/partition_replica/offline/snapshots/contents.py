"""What a snapshot contains of a state: its rows, exactly as they are stored, and the blobs that the
rows name."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb
from partition_proto.v1 import storage_pb2 as rows
from partition_snapshots.destination import Destination, DirectoryDestination
from partition_snapshots.digest import RowDigest
from partition_snapshots.model import TABLE_NUMBERS, TABLES, Row

from partition_replica.errors import Damaged
from partition_replica.storage import codec
from partition_replica.storage.files import fatal_on_failure, make_directory
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import SNAPSHOT_BASE

DIGEST_ROWS = 1024
"""Rows per hash update."""


BASES_MAX = 2
"""The number of buckets whose last snapshot's rows stay on the volume, as the next one's base."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Counts of a state. blobs: (digest, size in bytes), in order of the digests."""

    keys: int
    files: int
    blobs: list[tuple[bytes, int]]


def survey(state: LmdbState) -> Contents:
    """Counts the keys and files of a state, and lists its blobs. Raises Damaged, StorageFailed."""
    files = 0
    blobs: list[tuple[bytes, int]] = []
    with state.environment.begin() as txn:
        keys = state.tables.values.count(txn)
        for key, row in txn.cursor(state.tables.payload):
            payload = codec.unseal_message("payload", key, row, rows.PayloadRow)
            files += payload.references
            if not payload.inlined:
                blobs.append((bytes(key), payload.size))
    return Contents(keys, files, blobs)


def iterate_rows(state: LmdbState) -> Iterator[Row]:
    """Every row of the replicated tables, in a snapshot's order. Raises Damaged."""
    with state.environment.begin() as txn:
        for name in TABLES:
            number = TABLE_NUMBERS[name]
            try:
                for key, row in state.tables.rows(txn, name):
                    yield number, key, row
            except lmdb.Error as error:
                raise Damaged(f"table {name} of the state: {error}") from error


def digest_of(state: LmdbState) -> str:
    """The digest of a state's rows, as in a manifest. Equal states have equal digests."""
    digest = RowDigest()
    batch: list[Row] = []
    for row in iterate_rows(state):
        batch.append(row)
        if len(batch) >= DIGEST_ROWS:
            digest.update(batch)
            batch = []
    digest.update(batch)
    return digest.hexdigest()


def base_directory(data: Path, destination: Destination) -> Path | None:
    """The directory on the volume with the rows of the last snapshot in this bucket, the base of
    the next one; None if the store is a directory, which has the base itself.

    The rows are as large as the state. So the bases of other buckets are deleted, except for the
    one used last."""
    if isinstance(destination, DirectoryDestination):
        return None
    bases = data / SNAPSHOT_BASE
    make_directory(bases)
    name = hashlib.sha256(str(destination).encode()).hexdigest()[:32]
    with fatal_on_failure("listing the bases of snapshots"):
        others = [path for path in bases.iterdir() if path.name != name]
        others.sort(key=lambda path: path.stat().st_mtime)
    for path in others[: max(0, len(others) - BASES_MAX + 1)]:
        shutil.rmtree(path, ignore_errors=True)
    return bases / name
