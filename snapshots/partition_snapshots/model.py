"""The parts of a snapshot, and the results of actions on a store."""

import re
from dataclasses import dataclass, field
from functools import cached_property

from partition_snapshots.errors import InvalidDestination

Row = tuple[int, bytes, bytes]
"""Table number, key, value. The value is as in the replica's state, with its checksum."""

TABLES = ("value", "tree", "payload", "content", "session", "result")
"""The tables in a snapshot, in its order. A table's number (`TABLE_NUMBERS`) is part of the
format."""

TABLE_NUMBERS = {name: number for number, name in enumerate(TABLES, start=1)}
"""Table name to table number: value 1, tree 2, payload 3, content 4, session 5, result 6."""

FORMAT_NAME = "logstore-snapshots"
FORMAT_VERSION = 2
"""The version of new manifests and segments. In 2, keys of rows may have more than 511 bytes."""

FORMATS_READ = (1, 2)

STORE_VERSION = 1
"""The version in format.json: that of a store's layout."""

DIGEST_BYTES = 32
"""SHA-256."""

LATEST = "latest"
"""In place of an ID, this word means the newest snapshot. No snapshot may have it as its ID."""

_SNAPSHOT_ID = re.compile(r"[a-z0-9-]{1,63}")


def check_snapshot_id(snapshot_id: str) -> str:
    """Returns the ID. Raises InvalidDestination unless it has 1 to 63 of a-z, 0-9 and '-'."""
    if not _SNAPSHOT_ID.fullmatch(snapshot_id):
        raise InvalidDestination(
            f"{snapshot_id[:80]!r} is not a snapshot ID; use 1 to 63 of a-z, 0-9 and '-'"
        )
    return snapshot_id


def check_new_snapshot_id(snapshot_id: str) -> str:
    """As `check_snapshot_id`, for the ID of a new snapshot: LATEST is not allowed."""
    if check_snapshot_id(snapshot_id) == LATEST:
        raise InvalidDestination(f"{LATEST!r} means the newest snapshot; choose another ID")
    return snapshot_id


@dataclass(frozen=True)
class RecordedConfiguration:
    """The group's members when the snapshot was taken, as hex strings. Information only."""

    voters: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()


@dataclass(frozen=True)
class SnapshotSource:
    """The description of a snapshot to take.

    uid: distinguishes two snapshots with the same ID.
    partition: "namespace/name".
    cluster_id: the group's UUID.
    lsn, term: of the last entry in the state. time_ms: that entry's wall clock.
    clock_ms: the session clock.
    keys, files: counts.
    writer: the version of the program that writes.
    """

    snapshot_id: str
    uid: str
    partition: str
    cluster_id: str
    lsn: int
    term: int
    time_ms: int
    clock_ms: int
    configuration: RecordedConfiguration = field(default_factory=RecordedConfiguration)
    keys: int = 0
    files: int = 0
    writer: str = ""


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object of a store: its SHA-256 as 64 hex digits, and its size in bytes. `rows` is the
    number of rows of a segment, or of entries of a blob list."""

    digest: str
    size: int
    rows: int


@dataclass(frozen=True)
class Run:
    """Segments with rows in order, each row once. The first run of a state is full, the others are
    deltas."""

    segments: tuple[ObjectName, ...]

    @cached_property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)


@dataclass(frozen=True)
class Manifest:
    """One snapshot. `digest` is the SHA-256 of its merged rows, in hex. `size_bytes` counts
    segments, blob lists and blobs. `created_at` is the writer's time, as RFC 3339 in UTC."""

    snapshot_id: str
    uid: str
    partition: str
    cluster_id: str
    lsn: int
    term: int
    time_ms: int
    clock_ms: int
    configuration: RecordedConfiguration
    keys: int
    files: int
    writer: str
    created_at: str
    blob_count: int
    blob_bytes: int
    blob_lists: tuple[ObjectName, ...]
    runs: tuple[Run, ...]
    digest: str
    size_bytes: int

    @property
    def incremental(self) -> bool:
        """Whether its state builds on runs of an earlier snapshot."""
        return len(self.runs) > 1


@dataclass(frozen=True)
class DamagedManifest:
    """A manifest that can't be read, with the reason and message of the error."""

    snapshot_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class StoreProgress:
    """The progress of an action. `phase` is one of: waiting, state, blobs, checking, manifest,
    verifying, deleting. Bytes are of the phase; total_bytes is 0 if it is unknown."""

    phase: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TakenSnapshot:
    """The result of a take. `transferred_bytes` were sent or written; a hard link counts as 0.
    `existed`: an earlier try had stored the snapshot completely."""

    manifest: Manifest
    transferred_bytes: int
    objects_written: int
    existed: bool


@dataclass(frozen=True)
class Collected:
    """The numbers of snapshots, objects and bytes that were deleted."""

    snapshots_deleted: int
    objects_deleted: int
    bytes_deleted: int
