"""Translates our errors to gRPC's: a status code, a message, and an ErrorDetail for programs."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from partition_common import error_details
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.ports import PeerFailed
from partition_replica.errors import (
    Compacted,
    Deposed,
    Fatal,
    NotLeader,
    OutcomeUnknown,
    PayloadMissing,
    ReplicaError,
    WrongHistory,
)
from partition_replica.transport.requests import check_request, checked

CODES = {
    "NOT_LEADER": grpc.StatusCode.UNAVAILABLE,
    "NO_LEADER": grpc.StatusCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": grpc.StatusCode.ABORTED,
    "SESSION_EXPIRED": grpc.StatusCode.FAILED_PRECONDITION,
    "PAYLOAD_MISSING": grpc.StatusCode.FAILED_PRECONDITION,
    "PAYLOAD_MISMATCH": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "PRECONDITION_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DISK_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "COMPACTED": grpc.StatusCode.OUT_OF_RANGE,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "NOT_BOOTSTRAPPED": grpc.StatusCode.FAILED_PRECONDITION,
    "WRONG_CLUSTER": grpc.StatusCode.FAILED_PRECONDITION,
    "STOPPING": grpc.StatusCode.UNAVAILABLE,
    "MEMBERSHIP_REFUSED": grpc.StatusCode.ABORTED,
    "DEPOSED": grpc.StatusCode.PERMISSION_DENIED,
    "PAYLOAD_QUORUM": grpc.StatusCode.UNAVAILABLE,
    "WRONG_HISTORY": grpc.StatusCode.FAILED_PRECONDITION,
    "SEQUENCE_ACKNOWLEDGED": grpc.StatusCode.FAILED_PRECONDITION,
    "SEQUENCE_REUSED": grpc.StatusCode.FAILED_PRECONDITION,
    "SESSIONS_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RECOVERY_REFUSED": grpc.StatusCode.FAILED_PRECONDITION,
}

TEXT_BYTES_MAX = 1000
"""Maximum size of an error message as gRPC sends it. gRPC drops an answer whose metadata is larger
than a few KiB."""

F = TypeVar("F", bound=Callable[..., Any])


def text(error: Exception) -> str:
    """An error's message, truncated so that gRPC delivers it."""
    found = str(error)
    left = TEXT_BYTES_MAX
    for place, character in enumerate(found):
        # gRPC sends every other byte as %XX.
        plain = " " <= character <= "~" and character != "%"
        left -= 1 if plain else 3 * len(character.encode("utf-8", "replace"))
        if left < 0:
            return found[:place] + "…"
    return found


def detail(error: ReplicaError) -> types.ErrorDetail:
    """The error as the message that programs read."""
    message = types.ErrorDetail(reason=f"REASON_{error.reason}", message=text(error))
    if isinstance(error, NotLeader):
        message.leader.member_id, message.leader.address = error.leader
    if isinstance(error, Compacted):
        message.first_index, message.applied = error.first_index, error.applied
    if isinstance(error, PayloadMissing):
        message.missing_digests.extend(error.digests)
    if isinstance(error, Deposed):
        message.lease_transitions = error.seen
    if isinstance(error, OutcomeUnknown) and error.cause:
        message.cause = types.Reason.Value(f"REASON_{error.cause}")  # type: ignore[assignment]
    if isinstance(error, WrongHistory):
        message.history_id = error.history
    return message


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ReplicaError) -> None:
    """Ends the call with the error. Raises a Fatal again: it ends the process, not the call."""
    if isinstance(error, Fatal):
        raise error
    found = detail(error)
    await context.abort(CODES[error.reason], found.message, error_details.attach(found))


def unary(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wraps a method that returns one message: it answers our errors as gRPC errors."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, _checked(request), context)
        except ReplicaError as error:
            self.failures.refused(error)
            await abort(context, error)
        except PeerFailed as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    return wrapped


def stream(
    method: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncIterator[Any]]:
    """Wraps a method that yields messages: it answers our errors as gRPC errors."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(method(self, _checked(request), context)) as messages:
                async for message in messages:
                    yield message
        except ReplicaError as error:
            self.failures.refused(error)
            await abort(context, error)

    return wrapped


def _checked(request: Any) -> Any:
    """The request or stream of requests, checked for unknown values. Raises InvalidArgument."""
    if isinstance(request, Message):
        check_request(request)
        return request
    return checked(request)


class Failures:
    """Counts refused requests, and reports fatal errors to the process."""

    def __init__(
        self, count: Callable[[str], None], fatal: Callable[[BaseException], None]
    ) -> None:
        self._count = count
        self._fatal = fatal

    def refused(self, error: ReplicaError) -> None:
        if isinstance(error, Fatal):
            self._fatal(error)
        self._count(error.reason)
