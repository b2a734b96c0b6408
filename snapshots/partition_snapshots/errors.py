"""What can go wrong with stored snapshots, by what the caller does next.

SnapshotError
├── StoreUnavailable    the same call may succeed later (retriable)
├── StoreBusy           another process collects or takes a snapshot: later (retriable)
├── StoreRefused        credentials, bucket or permission: change something
├── StoreFull           no room, or over a quota
├── InvalidDestination  the description of the store is wrong
├── SnapshotNotFound    no such snapshot, or no such object
├── SnapshotExists      another snapshot has this ID already
├── SnapshotDamaged     bytes that are not what was written; says which
├── UnsupportedFormat   written by another version
├── StoreOfOtherCluster the store belongs to another cluster
└── SourceDamaged       what is to be stored is not what it says it is

Messages never hold a secret: they name bucket, endpoint and object, and the store's own code.
"""

from typing import ClassVar

EXIT_DAMAGED, EXIT_UNAVAILABLE, EXIT_FULL, EXIT_CONFIGURATION = 65, 69, 73, 78
"""Of commands that end by an error (sysexits.h): damaged or of another version; later; no room;
something that was given is wrong."""


class SnapshotError(Exception):
    """`reason` is a CamelCase word for conditions and reports; `retriable` tells whether the same
    call may succeed later without anybody changing anything; `exit_code` is that of a command that
    ends by it."""

    reason: ClassVar[str] = "SnapshotError"
    retriable: ClassVar[bool] = False
    exit_code: ClassVar[int] = EXIT_CONFIGURATION


class StoreUnavailable(SnapshotError):
    """The store did not answer, or failed, for longer than the limits of retries allow."""

    reason = "StoreUnavailable"
    retriable = True
    exit_code = EXIT_UNAVAILABLE


class StoreBusy(SnapshotError):
    """Another process's marker stands in the store, or ours was taken over."""

    reason = "StoreBusy"
    retriable = True
    exit_code = EXIT_UNAVAILABLE


class StoreRefused(SnapshotError):
    """The store answered, and refused: bucket, key, signature or permission."""

    reason = "StoreRefused"


class StoreFull(SnapshotError):
    """No room is left, or a quota is reached. Nothing half-written was left."""

    reason = "StoreFull"
    exit_code = EXIT_FULL


class InvalidDestination(SnapshotError):
    """A flag, an environment variable or a name of the destination is wrong."""

    reason = "InvalidDestination"


class SnapshotNotFound(SnapshotError):
    """There is no snapshot, or no object, of this name."""

    reason = "SnapshotNotFound"


class SnapshotExists(SnapshotError):
    """The ID is taken by a snapshot with another uid."""

    reason = "SnapshotExists"


class SnapshotDamaged(SnapshotError):
    """Something in the store is missing, cut off or changed. Says what."""

    reason = "SnapshotDamaged"
    exit_code = EXIT_DAMAGED


class UnsupportedFormat(SnapshotError):
    """Written in a format that this version does not know."""

    reason = "UnsupportedFormat"
    exit_code = EXIT_DAMAGED


class StoreOfOtherCluster(SnapshotError):
    """The store holds snapshots of another cluster."""

    reason = "WrongCluster"


class SourceDamaged(SnapshotError):
    """A row or file that is to be stored is not what it should be: the replica's volume is
    damaged, not the store."""

    reason = "SourceDamaged"
    exit_code = EXIT_DAMAGED
