"""The result of a command on stored snapshots, for programs: a report and an exit code.

0    success
1    an unexpected error, a defect of the program
65   the snapshot or the volume is damaged or of another version; a retry does not help
69   the store or the volume is busy or unavailable; retry
73   the volume or the store is full
78   flags, credentials, bucket or cluster ID are wrong
"""

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
from partition_snapshots.errors import (
    EXIT_CONFIGURATION,
    EXIT_DAMAGED,
    EXIT_FULL,
    EXIT_UNAVAILABLE,
    SnapshotError,
    StoreFull,
)
from partition_snapshots.model import Collected

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
"""Kubernetes reads at most 4096 bytes of a container's termination message."""

EXIT_DONE, EXIT_DEFECT = 0, 1

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

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
    """reason: a word that programs may compare; message: what was wrong and what to do;
    retriable: whether a retry may succeed."""

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
    """Maps an error to what the command reports."""
    if any(_full(cause) for cause in _causes(error)) and not isinstance(error, StoreFull):
        return Failure("VolumeFull", f"the volume is full: {error}", False, EXIT_FULL)
    if isinstance(error, SnapshotError):
        return Failure(error.reason, str(error), error.retriable, error.exit_code)
    for kind, reason, code in _OURS:
        if isinstance(error, kind):
            return Failure(reason, str(error), code == EXIT_UNAVAILABLE, code)
    return Failure(type(error).__name__, f"{type(error).__name__}: {error}", False, EXIT_DEFECT)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its chain of causes."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _full(error: BaseException) -> bool:
    return isinstance(error, lmdb.DiskError) or (
        isinstance(error, OSError) and error.errno in _NO_ROOM
    )


def of_collection(collected: Collected) -> dict[str, Any]:
    """The report of a deletion. The last three keys are deprecated; they stay for one more minor
    version."""
    return {
        "snapshotsDeleted": collected.snapshots_deleted,
        "objectsDeleted": collected.objects_deleted,
        "bytesDeleted": collected.bytes_deleted,
        "snapshotsRemoved": collected.snapshots_deleted,
        "objectsRemoved": collected.objects_deleted,
        "bytesRemoved": collected.bytes_deleted,
    }


def encode(report: dict[str, Any]) -> bytes:
    """The report as JSON, at most REPORT_BYTES_MAX. A message that is too long is truncated."""
    encoded = json.dumps(report).encode()
    while len(encoded) > REPORT_BYTES_MAX:
        over = len(encoded) - REPORT_BYTES_MAX
        report = report | {"message": report["message"][: -(over + 1)].rstrip("…") + "…"}
        encoded = json.dumps(report).encode()
    return encoded


def write(path: Path, report: dict[str, Any]) -> None:
    """Writes the report to a file. It may exist, as a container's termination message does."""
    path.write_bytes(encode(report))
