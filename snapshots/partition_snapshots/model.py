"""What a snapshot is made of."""

import re
from dataclasses import dataclass, field
from functools import cached_property

from partition_snapshots.errors import InvalidDestination

Row = tuple[int, bytes, bytes]
"""Table number, key, value: as it stands in the state, sealed with its checksum."""

TABLES = ("value", "tree", "payload", "content", "session", "result")
"""Names of the tables that a snapshot holds, in its order. A table's number (`TABLE_NUMBERS`) is
part of the format."""

TABLE_NUMBERS = {name: number for number, name in enumerate(TABLES, start=1)}
"""Table name to its number in rows: value 1, tree 2, payload 3, content 4, session 5, result 6."""

FORMAT_NAME = "logstore-snapshots"
FORMAT_VERSION = 2
"""Of the manifests and segments that are written. 2: keys of rows may have more than 511 bytes."""

FORMATS_READ = (1, 2)

STORE_VERSION = 1
"""Of format.json: what lies where in a store."""

DIGEST_BYTES = 32
"""SHA-256."""

LATEST = "latest"
"""Names the newest snapshot where an existing one is meant: no snapshot has this ID."""

_SNAPSHOT_ID = re.compile(r"[a-z0-9-]{1,63}")


def check_snapshot_id(snapshot_id: str) -> str:
    """The ID itself. Raises InvalidDestination for anything but 1 to 63 of a-z, 0-9 and '-'."""
    if not _SNAPSHOT_ID.fullmatch(snapshot_id):
        raise InvalidDestination(
            f"{snapshot_id[:80]!r} is no snapshot ID: 1 to 63 characters of a-z, 0-9 and '-'"
        )
    return snapshot_id


def check_new_snapshot_id(snapshot_id: str) -> str:
    """The same, of a snapshot that is to be made: LATEST is none."""
    if check_snapshot_id(snapshot_id) == LATEST:
        raise InvalidDestination(f"{LATEST!r} names the newest snapshot: choose another ID")
    return snapshot_id


@dataclass(frozen=True)
class RecordedConfiguration:
    """The group's members when the snapshot was taken, as hex strings. Information only."""

    voters: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()


@dataclass(frozen=True)
class SnapshotSource:
    """What is taken: where the state stands. `time_ms` is the wall clock of its last entry,
    `clock_ms` the clock of its sessions. `keys` and `files` are counts; `writer` names the version
    that writes; `cluster_id` is the group's UUID; `partition` is "namespace/name";
    `uid` tells two snapshots with the same ID apart."""

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
    """An object of a store: its SHA-256 as 64 hex digits, and its size in bytes. `rows` is how
    many rows a segment, or entries a blob list, holds."""

    digest: str
    size: int
    rows: int


@dataclass(frozen=True)
class Run:
    """Segments with rows in order, each row once; the first run of a state is full."""

    segments: tuple[ObjectName, ...]

    @cached_property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)


@dataclass(frozen=True)
class Manifest:
    """One snapshot. `digest` is the SHA-256 (hex) of its merged rows; `size_bytes` is what it
    holds: segments, blob lists and blobs; `created_at` is RFC 3339 in UTC, by its writer."""

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
        """Whether its state stands on an earlier snapshot's run."""
        return len(self.runs) > 1


@dataclass(frozen=True)
class DamagedManifest:
    """A manifest that can't be read, and why. `reason` is that of the error."""

    snapshot_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class StoreProgress:
    """`phase` is one word: waiting, state, blobs, checking, manifest; listing, deleting. Bytes are
    of the phase; total_bytes is 0 where it is not known."""

    phase: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TakenSnapshot:
    """`transferred_bytes` is what was really sent or written: hard links cost nothing. `existed`:
    the snapshot was there already, whole."""

    manifest: Manifest
    transferred_bytes: int
    objects_written: int
    existed: bool


@dataclass(frozen=True)
class Collected:
    """What a deletion or collection removed."""

    snapshots_deleted: int
    objects_deleted: int
    bytes_deleted: int
