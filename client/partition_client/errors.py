"""The errors of the client, by the caller's next step.

ClientError
├── DeadlineExceeded     no answer in time; the request may have taken effect
├── OutcomeUnknown       the request may have taken effect: read before you retry
├── DiskFull             a replica's volume is below its reserve: free space, then retry
├── ForkedProcess        a fork inherited the client, or gRPC that ran in the parent
├── InvalidEndpoint      an endpoint is not host:port; also a ValueError
├── StateLost            a pinned state ended, and the message says why: open a new one
├── SourceFailed         a local file became unreadable, or changed while it was sent
└── RequestRefused       correct the request; `reason` is the wire's Reason without its prefix
    ├── NotFound
    ├── PreconditionFailed
    ├── HistoryChanged   the group was restored or recreated: read its state first
    ├── TreeMismatch     the path exists, or its directory doesn't: the path was not written
    ├── TlsRefused       one side rejects the other's certificate, or only one side uses TLS
    └── TlsFilesInvalid  the file with our certificate, key or CA can't be used
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
"""Reasons after which the client retries on its own, until the deadline."""


class ClientError(Exception):
    """The base class of this package's errors."""


class DeadlineExceeded(ClientError):
    pass


class OutcomeUnknown(ClientError):
    """`history`: the group's new history ID if a restore is the cause, else ""."""

    def __init__(self, message: str, history: str = "") -> None:
        super().__init__(message)
        self.history = history


class DiskFull(ClientError):
    """The leader's volume is below its reserve, so nothing was written. Or the volume of the
    replica that reads a state has no room for the copy; another replica may have room.

    Remove files or keys, which a full volume still accepts, or follow
    docs/operations/full_disk.md."""


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
    """`history`: the ID of the group's current history. LSNs of the old history are not valid in
    it."""

    def __init__(self, message: str, reason: str, history: str) -> None:
        super().__init__(message, reason)
        self.history = history


class TreeMismatch(RequestRefused):
    pass


class TlsRefused(RequestRefused):
    """`reason`: one of partition_proto.connection.handshake.TlsRefusal, or PERMISSION_DENIED for a
    certificate of another partition or role, of a client that was revoked, or of one without the
    rights for the call."""


class TlsFilesInvalid(RequestRefused):
    def __init__(self, message: str) -> None:
        super().__init__(message, "TLS_FILES")


def client_closed() -> ClientError:
    """Returns the error of calls on a closed client, and of calls that `close` ends."""
    return ClientError("the client is closed")


def reason_name(detail: types.ErrorDetail) -> str:
    """Returns the wire's Reason without its prefix, or its number if this version does not know
    it."""
    if detail.reason not in types.Reason.values():
        return f"REASON {int(detail.reason)}"
    return types.Reason.Name(detail.reason).removeprefix("REASON_")


def not_written(path: bytes, outcome: int) -> TreeMismatch:
    """Returns the error for a path whose write had an outcome other than APPLIED."""
    name = types.Outcome.Name(types.Outcome.ValueType(outcome)).removeprefix("OUTCOME_")
    match outcome:
        case types.OUTCOME_PARENT_NOT_FOUND:
            why = "its parent is not a directory of the tree; create it, or remove that file"
        case types.OUTCOME_DESTINATION_EXISTS:
            why = "the path exists in the tree; remove it first"
        case _:
            why = "the replicas refused it"
    return TreeMismatch(f"{path!r} was not written: {why} ({name})", "TREE")


def from_detail(detail: types.ErrorDetail) -> ClientError:
    """The exception for an error that is not retried."""
    reason = reason_name(detail)
    match detail.reason:
        case types.REASON_DISK_FULL:
            return DiskFull(
                f"{detail.message} (remove files or keys; see docs/operations/full_disk.md)"
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
    """Returns the ErrorDetail that the replica sent, or None if the error is the network's or
    gRPC's."""
    return error_details.find(error.trailing_metadata())


def session_gone_unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "the session expired while this append was under way: it may have taken effect; read "
        "before writing it again"
    )
