"""How a command on stored snapshots ended, as programs read it: a report, and an exit code.

0 done; 65 the snapshot, or the volume, is damaged or of another version: trying again changes
nothing; 69 a store or volume is busy or away: try again; 73 a volume or store is full; 78 flags,
credentials, bucket or cluster are wrong; 1 a defect.
"""

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
from partition_snapshots import errors as stored
from partition_snapshots.model import Collected, Manifest

from partition_replica.errors import (
    Cancelled,
    Damaged,
    InvalidArgument,
    NotBootstrapped,
    RequestRefused,
    VolumeBusy,
    VolumeFull,
    VolumeTaken,
)

REPORT_BYTES_MAX = 4000
"""A container's termination message holds 4096."""

EXIT_DONE, EXIT_DEFECT = 0, 1
EXIT_DAMAGED, EXIT_UNAVAILABLE, EXIT_FULL, EXIT_CONFIGURATION = 65, 69, 73, 78

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_STORED: dict[type[stored.SnapshotError], int] = {
    stored.SnapshotDamaged: EXIT_DAMAGED,
    stored.SourceDamaged: EXIT_DAMAGED,
    stored.UnsupportedFormat: EXIT_DAMAGED,
    stored.StoreFull: EXIT_FULL,
}
_OURS: tuple[tuple[type[Exception], str, int], ...] = (
    (Damaged, "VolumeDamaged", EXIT_DAMAGED),
    (VolumeBusy, "VolumeBusy", EXIT_UNAVAILABLE),
    (VolumeFull, "VolumeFull", EXIT_FULL),
    (VolumeTaken, "VolumeTaken", EXIT_CONFIGURATION),
    (NotBootstrapped, "NotBootstrapped", EXIT_CONFIGURATION),
    (InvalidArgument, "InvalidArgument", EXIT_CONFIGURATION),
    (RequestRefused, "VolumeRefused", EXIT_CONFIGURATION),
    (Cancelled, "Cancelled", EXIT_UNAVAILABLE),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """reason: a word that callers may compare; message: a sentence that says what to do."""

    reason: str
    message: str
    retriable: bool
    exit_code: int

    def report(self) -> dict[str, Any]:
        return {
            "state": "failed",
            "reason": self.reason,
            "message": self.message,
            "retriable": self.retriable,
        }


def failure(error: BaseException) -> Failure:
    """What an error means to whoever started the command."""
    if any(_full(cause) for cause in _causes(error)) and not isinstance(error, stored.StoreFull):
        return Failure("VolumeFull", f"no room is left: {error}", False, EXIT_FULL)
    if isinstance(error, stored.SnapshotError):
        code = EXIT_UNAVAILABLE if error.retriable else _STORED.get(type(error), EXIT_CONFIGURATION)
        return Failure(error.reason, str(error), error.retriable, code)
    for kind, reason, code in _OURS:
        if isinstance(error, kind):
            return Failure(reason, str(error), code == EXIT_UNAVAILABLE, code)
    return Failure(type(error).__name__, f"{type(error).__name__}: {error}", False, EXIT_DEFECT)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """It, and what it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _full(error: BaseException) -> bool:
    return isinstance(error, lmdb.DiskError) or (
        isinstance(error, OSError) and error.errno in _NO_ROOM
    )


def of_manifest(manifest: Manifest) -> dict[str, Any]:
    """What a report says of a snapshot."""
    return {
        "snapshotID": manifest.snapshot_id,
        "uid": manifest.uid,
        "partition": manifest.partition,
        "clusterID": manifest.cluster_id,
        "lsn": manifest.lsn,
        "term": manifest.term,
        "timeMs": manifest.time_ms,
        "keys": manifest.keys,
        "files": manifest.files,
        "sizeBytes": manifest.size_bytes,
        "digest": manifest.digest,
        "createdAt": manifest.created_at,
        "incremental": manifest.incremental,
        "writer": manifest.writer,
    }


def of_collection(collected: Collected) -> dict[str, Any]:
    return {
        "snapshotsRemoved": collected.snapshots_removed,
        "objectsRemoved": collected.objects_removed,
        "bytesRemoved": collected.bytes_removed,
    }


def encode(report: dict[str, Any]) -> bytes:
    """As JSON, at most REPORT_BYTES_MAX: a message that is too long is cut."""
    encoded = json.dumps(report).encode()
    while len(encoded) > REPORT_BYTES_MAX:
        over = len(encoded) - REPORT_BYTES_MAX
        report = report | {"message": report["message"][: -(over + 1)].rstrip("…") + "…"}
        encoded = json.dumps(report).encode()
    return encoded


def write(path: Path, report: dict[str, Any]) -> None:
    """Into a file that may be there already, such as a container's termination message."""
    path.write_bytes(encode(report))
