"""What a caller of the client has to tell apart.

ClientError
├── DeadlineExceeded     nobody answered in time; what was sent may have taken effect
├── OutcomeUnknown       it may have taken effect, and nobody can tell: read before a retry
├── DiskFull             a replica's volume is below its reserve: make room, then try again
├── ForkedProcess        the client, or an open one of the parent, was inherited by a fork
├── InvalidEndpoint      an endpoint is not host:port; also a ValueError
├── StateLost            a pinned state is gone, and the message says why: begin anew
├── SourceFailed         a local file can't be read any more, or changed while it was sent
└── RequestRefused       mend the request; `reason` is the wire's Reason without prefix
    ├── NotFound
    ├── PreconditionFailed
    ├── HistoryChanged   the group was restored or made anew: start from its state
    ├── TreeMismatch     a destination exists, or its directory doesn't: nothing of it written
    ├── TlsRefused       one side does not accept the other's certificate, or one speaks no TLS
    └── TlsFilesInvalid  a file with our certificate, key or authority can't be used
"""

import grpc
from partition_common import error_details
from partition_proto.v1 import types_pb2 as types

RETRIED = frozenset(
    {
        types.REASON_NOT_LEADER,
        types.REASON_NO_LEADER,
        types.REASON_OUTCOME_UNKNOWN,
        types.REASON_OVERLOADED,
        types.REASON_STOPPING,
        types.REASON_PAYLOAD_QUORUM,
        types.REASON_NOT_BOOTSTRAPPED,
    }
)
"""Reasons that the client meets by itself, until the deadline."""


class ClientError(Exception):
    """Base of what this package raises."""


class DeadlineExceeded(ClientError):
    pass


class OutcomeUnknown(ClientError):
    """`history`: the group's new history ID, if a restore is why nobody can tell."""

    def __init__(self, message: str, history: str = "") -> None:
        super().__init__(message)
        self.history = history


class DiskFull(ClientError):
    """The volume of the leader is below its reserve and nothing was written, or that of the replica
    which reads a state has no room for the copy. Remove files or keys, which a full volume still
    takes, or follow docs/operations/full_disk.md. A state may be read from another replica."""


class ForkedProcess(ClientError):
    pass


class InvalidEndpoint(ClientError, ValueError):
    pass


class StateLost(ClientError):
    pass


class SourceFailed(ClientError):
    pass


class RequestRefused(ClientError):
    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NotFound(RequestRefused):
    pass


class PreconditionFailed(RequestRefused):
    pass


class HistoryChanged(RequestRefused):
    """`history`: the ID of the group's history now. LSNs of the old one mean nothing in it."""

    def __init__(self, message: str, reason: str, history: str) -> None:
        super().__init__(message, reason)
        self.history = history


class TreeMismatch(RequestRefused):
    pass


class TlsRefused(RequestRefused):
    """`reason`: one of partition_proto.connection.handshake.TlsRefusal, or PERMISSION_DENIED for a
    certificate of another partition or role."""


class TlsFilesInvalid(RequestRefused):
    def __init__(self, message: str) -> None:
        super().__init__(message, "TLS_FILES")


def client_closed() -> ClientError:
    """For every call of a closed client, and for those that `close` ends."""
    return ClientError("the client is closed")


def reason_name(detail: types.ErrorDetail) -> str:
    """The wire's Reason without prefix; its number if a later version made it."""
    if detail.reason not in types.Reason.values():
        return f"REASON {int(detail.reason)}"
    return types.Reason.Name(detail.reason).removeprefix("REASON_")


def not_written(path: bytes, outcome: int) -> TreeMismatch:
    """What an outcome other than APPLIED says about a path that was to be written."""
    name = types.Outcome.Name(types.Outcome.ValueType(outcome)).removeprefix("OUTCOME_")
    match outcome:
        case types.OUTCOME_PARENT_NOT_FOUND:
            why = "its parent is no directory of the tree: make it, or remove the file in its place"
        case types.OUTCOME_DESTINATION_EXISTS:
            why = "something is in its place: remove that first"
        case _:
            why = "the replicas refused it"
    return TreeMismatch(f"{path!r} was not written: {why} ({name})", "TREE")


def from_detail(detail: types.ErrorDetail) -> ClientError:
    """The exception for an error that is not retried."""
    reason = reason_name(detail)
    match detail.reason:
        case types.REASON_DISK_FULL:
            return DiskFull(
                f"{detail.message} (remove files or keys; docs/operations/full_disk.md says more)"
            )
        case types.REASON_NOT_FOUND:
            return NotFound(detail.message, reason)
        case types.REASON_PRECONDITION_FAILED:
            return PreconditionFailed(detail.message, reason)
        case types.REASON_WRONG_HISTORY:
            return HistoryChanged(detail.message, reason, detail.history_id)
        case _:
            return RequestRefused(f"{reason}: {detail.message}", reason)


def detail_of(error: grpc.aio.AioRpcError) -> types.ErrorDetail | None:
    """What a replica said beside the status; None if the error is the network's."""
    return error_details.find(error.trailing_metadata())
