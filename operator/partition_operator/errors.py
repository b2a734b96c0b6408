"""The operator's errors, and what the reconcile loop does after each.

OperatorError
├── InvalidSpec        report it in status and an event; do not retry until the spec changes
├── Conflict           the object has changed since it was observed: observe it again
├── ReplicaUnreachable retry soon: pods come and go
├── EvictionRefused    a PodDisruptionBudget protects the pod now: observe again soon
├── ReplicaRefused     the replica refused the request; `reason` is the replica's reason
├── AuthorityInvalid   the Secret with the authority can't be used; the message names it
└── Deposed            a replica has seen a higher fencing token: raise ours, unless another
                       operator holds the Lease
"""

from partition_proto.v1 import types_pb2 as types


class OperatorError(Exception):
    """Base class of the errors of this package."""


def text_of(error: BaseException) -> str:
    """Returns the error's text, for a log or a message. If it has none, such as TimeoutError,
    returns its repr."""
    return str(error).strip() or repr(error)


class InvalidSpec(OperatorError):
    """The operator can't follow the spec; the message contains what is allowed."""


class Conflict(OperatorError):
    pass


class ReplicaUnreachable(OperatorError):
    pass


class EvictionRefused(OperatorError):
    pass


class ReplicaRefused(OperatorError):
    def __init__(self, reason: types.Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AuthorityInvalid(OperatorError):
    pass


class Deposed(OperatorError):
    """A newer operator has acted. seen: the fencing token that the replica remembers."""

    def __init__(self, message: str, seen: int) -> None:
        super().__init__(message)
        self.seen = seen
