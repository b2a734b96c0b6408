"""What can go wrong, by what the reconcile loop does about it.

OperatorError
├── InvalidSpec        say it in status and an event; nothing is retried until the spec changes
├── Conflict           the object changed since it was seen: look again
├── ReplicaUnreachable retry soon: pods come and go
├── ReplicaRefused     a replica said no; `reason` is its own word for why
├── AuthorityInvalid   the Secret with the authority can't be used; the message names it
└── Deposed            a replica saw a higher fencing token: raise ours, or another one leads
"""

from partition_proto.v1 import types_pb2 as types


class OperatorError(Exception):
    """Base of what this package raises on purpose."""


def text_of(error: BaseException) -> str:
    """What an error says, for a log or a message. Some say nothing, such as TimeoutError: those are
    named."""
    return str(error).strip() or repr(error)


class InvalidSpec(OperatorError):
    """The spec says something that can't be done; the message says what is allowed."""


class Conflict(OperatorError):
    pass


class ReplicaUnreachable(OperatorError):
    pass


class ReplicaRefused(OperatorError):
    def __init__(self, reason: types.Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AuthorityInvalid(OperatorError):
    pass


class Deposed(OperatorError):
    """`seen`: the token that the replica remembers."""

    def __init__(self, message: str, seen: int) -> None:
        super().__init__(message)
        self.seen = seen
