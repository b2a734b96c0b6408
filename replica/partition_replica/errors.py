"""Errors of a replica, grouped by what the caller should do next.

    ReplicaError
    ├── Cancelled              the caller cancelled the work
    ├── RetryLater             back off, same request, same replica
    │   ├── PruneFailed
    │   ├── NoLeader
    │   ├── Overloaded
    │   ├── DiskFull
    │   ├── SessionsFull       wait until a session expires, or close one
    │   ├── PayloadQuorum
    │   └── OutcomeUnknown     it may have taken effect: retry the same sequence
    ├── GoElsewhere            another replica can serve it
    │   ├── NotLeader
    │   └── Stopping
    ├── RequestRefused         change the request, or abandon it
    │   ├── InvalidArgument
    │   ├── ImportRefused      the source of an import is damaged or not allowed
    │   ├── VolumeTaken        the volume already belongs to a cluster
    │   ├── VolumeBusy         another process uses the volume: wait, or stop it
    │   ├── VolumeFull         the data does not fit on the volume
    │   ├── RowsRefused        rows for a new state are damaged
    │   ├── NotFound
    │   ├── SessionExpired
    │   ├── SequenceAcknowledged
    │   ├── SequenceReused
    │   ├── WrongHistory       the group was restored or recreated: start from its state
    │   ├── PreconditionFailed
    │   ├── PayloadMissing
    │   ├── PayloadMismatch
    │   ├── Compacted
    │   ├── Unavailable
    │   ├── NotBootstrapped
    │   ├── WrongCluster
    │   ├── MembershipRefused
    │   ├── RecoveryRefused    a lost quorum cannot be recovered so, or the loss is not accepted
    │   └── Deposed
    └── Fatal                  end the process; a person has to investigate
        ├── StorageFailed      a write or fsync failed: the page cache can't be trusted any more
        └── Damaged            data read back differs from the data written

`reason` is the name of the wire's Reason without its prefix; the transport maps it.
"""

from typing import ClassVar


class ReplicaError(Exception):
    """Base class of all errors that this package raises on purpose."""

    reason: ClassVar[str] = "UNSPECIFIED"


class Cancelled(ReplicaError):
    """The caller cancelled the work. Nothing is half-done."""


class RetryLater(ReplicaError):
    """The same request may succeed here later."""


class PruneFailed(RetryLater):
    """Unneeded log rows could not be deleted. Nothing changed."""


class NoLeader(RetryLater):
    reason = "NO_LEADER"


class Overloaded(RetryLater):
    reason = "OVERLOADED"


class DiskFull(RetryLater):
    reason = "DISK_FULL"


class PayloadQuorum(RetryLater):
    reason = "PAYLOAD_QUORUM"


class OutcomeUnknown(RetryLater):
    """The write may have taken effect. `cause`: why this try was refused, or ""."""

    reason = "OUTCOME_UNKNOWN"

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class SessionsFull(RetryLater):
    reason = "SESSIONS_FULL"


class GoElsewhere(ReplicaError):
    """Another replica can serve the request."""


class NotLeader(GoElsewhere):
    """Only the leader can serve the request. `leader`: its (member ID, address), both known. See
    `not_leading`."""

    reason = "NOT_LEADER"

    def __init__(self, message: str, leader: tuple[int, str]) -> None:
        assert all(leader), "raise NoLeader if no leader or address is known"
        super().__init__(message)
        self.leader = leader


class Stopping(GoElsewhere):
    reason = "STOPPING"


class RequestRefused(ReplicaError):
    """The same request will not succeed, not even later."""


class InvalidArgument(RequestRefused):
    reason = "INVALID_ARGUMENT"


class ImportRefused(RequestRefused):
    """The source of an import (a log of directories) is damaged, incomplete or not allowed, or the
    volume is not new. Nothing was imported. The message names the entry, the file and the next
    step."""

    reason = "INVALID_ARGUMENT"


class VolumeTaken(ImportRefused):
    """The volume is not new: it belongs to `cluster`, and its log ends at `last`. founded: whether
    the volume has a state; False if it still waits for the cluster's first state transfer."""

    def __init__(self, message: str, cluster: str, last: int, *, founded: bool) -> None:
        super().__init__(message)
        self.cluster = cluster
        self.last = last
        self.founded = founded


class VolumeBusy(ImportRefused):
    """Another process holds the volume's lock."""


class VolumeFull(RequestRefused):
    """The data does not fit on the volume. Nothing of it is left there."""

    reason = "DISK_FULL"


class RowsRefused(RequestRefused):
    """Rows for a new state are damaged or out of order."""

    reason = "INVALID_ARGUMENT"


class NotFound(RequestRefused):
    reason = "NOT_FOUND"


class SessionExpired(RequestRefused):
    reason = "SESSION_EXPIRED"


class SequenceAcknowledged(RequestRefused):
    """The caller acknowledged this sequence earlier, so its result is deleted."""

    reason = "SEQUENCE_ACKNOWLEDGED"


class SequenceReused(RequestRefused):
    """The sequence was used before with different content."""

    reason = "SEQUENCE_REUSED"


class WrongHistory(RequestRefused):
    """The caller names another history. `history`: the group's current history ID."""

    reason = "WRONG_HISTORY"

    def __init__(self, message: str, history: str) -> None:
        super().__init__(message)
        self.history = history


class PreconditionFailed(RequestRefused):
    reason = "PRECONDITION_FAILED"


class PayloadMissing(RequestRefused):
    reason = "PAYLOAD_MISSING"

    def __init__(self, message: str, digests: list[bytes]) -> None:
        super().__init__(message)
        self.digests = digests


class PayloadMismatch(RequestRefused):
    reason = "PAYLOAD_MISMATCH"


class Compacted(RequestRefused):
    """The requested entries are compacted. Read the state, which is at `applied`, then continue at
    `applied` + 1. `first_index`: the first LSN that is still stored."""

    reason = "COMPACTED"

    def __init__(self, message: str, first_index: int, applied: int) -> None:
        super().__init__(message)
        self.first_index = first_index
        self.applied = applied


class Unavailable(RequestRefused):
    """The requested entries lie after the end of the log (etcd/raft's ErrUnavailable)."""

    reason = "NOT_FOUND"


class NotBootstrapped(RequestRefused):
    reason = "NOT_BOOTSTRAPPED"


class WrongCluster(RequestRefused):
    reason = "WRONG_CLUSTER"


class MembershipRefused(RequestRefused):
    reason = "MEMBERSHIP_REFUSED"


class RecoveryRefused(RequestRefused):
    """The recovery of a lost quorum is refused. Nothing was changed."""

    reason = "RECOVERY_REFUSED"


class Deposed(RequestRefused):
    """Another operator leads. `seen`: the highest fencing token so far."""

    reason = "DEPOSED"

    def __init__(self, message: str, seen: int) -> None:
        super().__init__(message)
        self.seen = seen


class Fatal(ReplicaError):
    """The process must end and must not acknowledge anything more."""


class StorageFailed(Fatal):
    """A write, an fsync or a commit failed."""


class Damaged(Fatal):
    """Stored data fails its checksum or contradicts itself; the message names the row."""


def wrong_history(asked: str, own: str) -> WrongHistory:
    return WrongHistory(
        f"the group's history is {own}, not {asked}: the group was restored or recreated, and "
        "acknowledged writes may be lost. Open a new session and read the state again",
        own,
    )


def no_state_yet() -> NoLeader:
    """The answer of a member that has no state of its group, because it joins or installs a state
    transfer. It is not NotBootstrapped: another replica can answer now, and this one soon."""
    return NoLeader(
        "this replica has no state yet, or is about to open a new one: retry with backoff, or ask "
        "another replica"
    )


def not_leading(why: str, leader: tuple[int, str]) -> NotLeader | NoLeader:
    """The answer of a replica that does not lead: NotLeader with the leader's address, or NoLeader
    if the leader or its address is not known. leader: (member ID or 0, address or "")."""
    member, address = leader
    if member and address:
        return NotLeader(
            f"{why}: member {member:x} at {address} leads: send the request there", leader
        )
    if member:
        return NoLeader(
            f"{why}: member {member:x} leads, but its address is not known here yet: retry with "
            "backoff, or ask another replica"
        )
    return NoLeader(f"{why}: no leader is known here; retry with backoff, or ask another replica")


def of_retry(error: ReplicaError) -> ReplicaError:
    """The error to answer if the request was a retry. It must not say that nothing was written if
    that holds for this try only."""
    if not isinstance(error, (SessionExpired, DiskFull)):
        return error
    return OutcomeUnknown(
        f"an earlier try of this sequence may have taken effect; this try failed: {error}",
        error.reason,
    )
