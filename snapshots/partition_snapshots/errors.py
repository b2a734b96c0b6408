"""Errors of stored snapshots, by the caller's next step.

SnapshotError
├── StoreUnavailable    the same call may succeed later (retriable)
├── StoreBusy           another process takes a snapshot or collects garbage (retriable)
├── StoreRefused        correct the credentials, the bucket or the permissions
├── StoreFull           the store is full, or a quota is reached
├── InvalidDestination  the description of the store is wrong
├── SnapshotNotFound    the snapshot or object does not exist
├── SnapshotExists      another snapshot has this ID already
├── SnapshotDamaged     data differs from what was written; the message names it
├── UnsupportedFormat   written by a version that this one does not know
├── StoreOfOtherCluster the store belongs to another cluster ID
└── SourceDamaged       a row or file of the replica is damaged

Messages never contain a secret. They contain bucket, endpoint, object and the store's error code.
"""

from typing import ClassVar

EXIT_DAMAGED, EXIT_UNAVAILABLE, EXIT_FULL, EXIT_CONFIGURATION = 65, 69, 73, 78
"""Exit codes of commands (sysexits.h): damaged or of an unknown version; unavailable, retry later;
full; an argument or setting is wrong."""


class SnapshotError(Exception):
    """The base class. `reason` is a CamelCase word for conditions and reports. `retriable` is True
    if the same call may succeed later without a change of the setup. `exit_code` is the exit code
    of a command that fails with this error."""

    reason: ClassVar[str] = "SnapshotError"
    retriable: ClassVar[bool] = False
    exit_code: ClassVar[int] = EXIT_CONFIGURATION


class StoreUnavailable(SnapshotError):
    """The store did not answer, or failed, for longer than the limits of retries allow."""

    reason = "StoreUnavailable"
    retriable = True
    exit_code = EXIT_UNAVAILABLE


class StoreBusy(SnapshotError):
    """The store has a marker of another process, or another process took over ours."""

    reason = "StoreBusy"
    retriable = True
    exit_code = EXIT_UNAVAILABLE


class StoreRefused(SnapshotError):
    """The store refused the request: wrong bucket, key or signature, or no permission."""

    reason = "StoreRefused"


class StoreFull(SnapshotError):
    """The store is full, or a quota is reached. No incomplete object was left."""

    reason = "StoreFull"
    exit_code = EXIT_FULL


class InvalidDestination(SnapshotError):
    """A flag, an environment variable or a name of the destination is wrong."""

    reason = "InvalidDestination"


class SnapshotNotFound(SnapshotError):
    """The snapshot or object does not exist."""

    reason = "SnapshotNotFound"


class SnapshotExists(SnapshotError):
    """A snapshot with another uid has this ID."""

    reason = "SnapshotExists"


class SnapshotDamaged(SnapshotError):
    """Data in the store is missing, truncated or changed. The message names it."""

    reason = "SnapshotDamaged"
    exit_code = EXIT_DAMAGED


class UnsupportedFormat(SnapshotError):
    """The data has a format that this version does not know."""

    reason = "UnsupportedFormat"
    exit_code = EXIT_DAMAGED


class StoreOfOtherCluster(SnapshotError):
    """The store has snapshots of another cluster ID."""

    reason = "WrongCluster"


class SourceDamaged(SnapshotError):
    """A row or file that is to be stored is damaged. The replica's volume is damaged, not the
    store."""

    reason = "SourceDamaged"
    exit_code = EXIT_DAMAGED
