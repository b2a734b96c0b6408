"""What can go wrong, by the next move of whoever catches it.

    ReplicaError
    ├── Cancelled              the caller asked for it to end
    ├── RetryLater             back off, same request, same replica
    │   ├── PruneFailed
    │   ├── NoLeader
    │   ├── Overloaded
    │   ├── DiskFull
    │   ├── SessionsFull       wait until a session expires, or close one
    │   ├── PayloadQuorum
    │   └── OutcomeUnknown     it may have taken effect: retry under the same sequence
    ├── GoElsewhere            another replica can serve it
    │   ├── NotLeader
    │   └── Stopping
    ├── RequestRefused         mend the request, or give up
    │   ├── InvalidArgument
    │   ├── ImportRefused      a log of directories, or what goes with it
    │   ├── VolumeTaken        where a new volume is to be made, one is
    │   ├── VolumeBusy         a process uses the volume: wait, or stop it
    │   ├── VolumeFull         what is to be written there does not fit
    │   ├── RowsRefused        rows to make a state of are damaged
    │   ├── NotFound
    │   ├── SessionExpired
    │   ├── SequenceAcknowledged
    │   ├── SequenceReused
    │   ├── WrongHistory       the group was restored or made anew: start from its state
    │   ├── PreconditionFailed
    │   ├── PayloadMissing
    │   ├── PayloadMismatch
    │   ├── Compacted
    │   ├── Unavailable
    │   ├── NotBootstrapped
    │   ├── WrongCluster
    │   ├── MembershipRefused
    │   └── Deposed
    └── Fatal                  end the process; a human has to look
        ├── StorageFailed      a write or fsync failed: the page cache can't be trusted after one
        └── Damaged            what was read is not what was written

`reason` is the name of the wire's Reason without its prefix; the transport maps it.
"""

from typing import ClassVar


class ReplicaError(Exception):
    """Base of everything that this package raises on purpose."""

    reason: ClassVar[str] = "UNSPECIFIED"


class Cancelled(ReplicaError):
    """It was ended at its caller's wish; nothing is half-done."""


class RetryLater(ReplicaError):
    """The same request may succeed here later."""


class PruneFailed(RetryLater):
    """Rows that nobody needs could not be deleted; nothing changed."""


class NoLeader(RetryLater):
    reason = "NO_LEADER"


class Overloaded(RetryLater):
    reason = "OVERLOADED"


class DiskFull(RetryLater):
    reason = "DISK_FULL"


class PayloadQuorum(RetryLater):
    reason = "PAYLOAD_QUORUM"


class OutcomeUnknown(RetryLater):
    """`cause`: the reason of the refusal that this try met, if it met one."""

    reason = "OUTCOME_UNKNOWN"

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class SessionsFull(RetryLater):
    reason = "SESSIONS_FULL"


class GoElsewhere(ReplicaError):
    """Another replica can serve the request."""


class NotLeader(GoElsewhere):
    """Only the leader can, which is `leader`: (member ID, address). See `not_leading`."""

    reason = "NOT_LEADER"

    def __init__(self, message: str, leader: tuple[int, str]) -> None:
        assert all(leader), "without a leader to go to it is NoLeader"
        super().__init__(message)
        self.leader = leader


class Stopping(GoElsewhere):
    reason = "STOPPING"


class RequestRefused(ReplicaError):
    """The request as it stands will not succeed."""


class InvalidArgument(RequestRefused):
    reason = "INVALID_ARGUMENT"


class ImportRefused(RequestRefused):
    """A log of directories is damaged, incomplete or not allowed, or the volume is not new: nothing
    was imported. The message names the entry and the file, and what to do."""

    reason = "INVALID_ARGUMENT"


class VolumeTaken(ImportRefused):
    """The volume belongs to `cluster`, and its log ends at `last`: it is not new. founded: it does
    not wait for the cluster's first snapshot."""

    def __init__(self, message: str, cluster: str, last: int, *, founded: bool) -> None:
        super().__init__(message)
        self.cluster = cluster
        self.last = last
        self.founded = founded


class VolumeBusy(ImportRefused):
    """Another process holds the volume's lock."""


class VolumeFull(RequestRefused):
    """It was found before anything was written, or everything was taken back."""

    reason = "DISK_FULL"


class RowsRefused(RequestRefused):
    """Rows that a state is to be made of are damaged, or in no order."""

    reason = "INVALID_ARGUMENT"


class NotFound(RequestRefused):
    reason = "NOT_FOUND"


class SessionExpired(RequestRefused):
    reason = "SESSION_EXPIRED"


class SequenceAcknowledged(RequestRefused):
    """The caller said that it has this sequence's answer: the result is forgotten."""

    reason = "SEQUENCE_ACKNOWLEDGED"


class SequenceReused(RequestRefused):
    """The sequence was used for another content."""

    reason = "SEQUENCE_REUSED"


class WrongHistory(RequestRefused):
    """`history`: the ID of the group's history now."""

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
    """The entries wanted are gone: read state at `applied`, go on behind it."""

    reason = "COMPACTED"

    def __init__(self, message: str, first_index: int, applied: int) -> None:
        super().__init__(message)
        self.first_index = first_index
        self.applied = applied


class Unavailable(RequestRefused):
    """Entries behind the log's end (etcd/raft's ErrUnavailable)."""

    reason = "NOT_FOUND"


class NotBootstrapped(RequestRefused):
    reason = "NOT_BOOTSTRAPPED"


class WrongCluster(RequestRefused):
    reason = "WRONG_CLUSTER"


class MembershipRefused(RequestRefused):
    reason = "MEMBERSHIP_REFUSED"


class Deposed(RequestRefused):
    """`seen`: the highest token so far."""

    reason = "DEPOSED"

    def __init__(self, message: str, seen: int) -> None:
        super().__init__(message)
        self.seen = seen


class Fatal(ReplicaError):
    """The process must end; nothing more may be acknowledged."""


class StorageFailed(Fatal):
    """A write, an fsync or a commit failed."""


class Damaged(Fatal):
    """Stored data fails its checksum or contradicts itself; the message names the row."""


def wrong_history(asked: str, own: str) -> WrongHistory:
    return WrongHistory(
        f"the group's history is {own}, not {asked}: it was restored, or made anew; acknowledged "
        "writes may be gone: open a new session, and read from the state on",
        own,
    )


def no_state_yet() -> NoLeader:
    """What a member answers that has none of its group's state: it joins, or installs a state
    transfer. Not NotBootstrapped: another replica can answer now, and this one soon."""
    return NoLeader(
        "this replica waits for its first state, or is about to open another one: retry with "
        "back-off, or ask another replica"
    )


def not_leading(why: str, leader: tuple[int, str]) -> NotLeader | NoLeader:
    """What a replica that does not lead answers: where the leader is, or NoLeader if it knows of no
    leader or of no address. `leader` is (member ID, address) as far as known."""
    member, address = leader
    if member and address:
        return NotLeader(f"{why}: member {member:x} at {address} leads; go there", leader)
    if member:
        return NoLeader(
            f"{why}: member {member:x} leads, and its address is not known here yet; retry with "
            "back-off, or ask another replica"
        )
    return NoLeader(f"{why}: no leader is known here; retry with back-off, or ask another replica")
