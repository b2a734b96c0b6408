"""Validates proposals. The leader does it before anything is written. Every replica can apply a
valid proposal without another check."""

import hashlib

from partition_proto.v1 import types_pb2 as types

from partition_replica.core import limits
from partition_replica.core.paths import check_name, check_path
from partition_replica.errors import InvalidArgument, PayloadMismatch
from partition_replica.ids import DIGEST_BYTES


def check_proposal(proposal: types.Proposal) -> None:
    """Raises InvalidArgument or PayloadMismatch, which name the operation or payload by its
    number."""
    check_sequences(proposal.session_id, proposal.sequence, 1, proposal.acknowledged_below)
    check_content(proposal, proposal.ByteSize())


def check_sequences(session: int, first: int, count: int, acknowledged_below: int) -> None:
    """Checks `count` consecutive sequences, from `first` on. Raises InvalidArgument."""
    if session < 1:
        raise InvalidArgument("session_id is 0: open a session first")
    if first < 1:
        raise InvalidArgument("sequence is 0: begin a session's sequences at 1")
    last = first + count - 1
    if last > limits.SEQUENCE_MAX:
        raise InvalidArgument(f"sequence {last} is above the highest one, {limits.SEQUENCE_MAX}")
    if last >= acknowledged_below + limits.SESSION_WINDOW:
        raise InvalidArgument(
            f"sequence {last} is {limits.SESSION_WINDOW} or more above acknowledged_below "
            f"{acknowledged_below}: wait for earlier answers and acknowledge them first"
        )
    if first < acknowledged_below:
        raise InvalidArgument(
            f"sequence {first} is below acknowledged_below {acknowledged_below}: its answer is "
            "already acknowledged; use a new sequence"
        )


def check_content(proposal: types.Proposal, size: int) -> None:
    """Checks what a proposal asks for; `size` is its encoded size in bytes. Raises InvalidArgument
    or PayloadMismatch, which name the operation or payload by its number."""
    if size > limits.PROPOSAL_BYTES_MAX:
        raise InvalidArgument(
            f"the proposal has {size} encoded bytes; allowed are {limits.PROPOSAL_BYTES_MAX}: "
            "split it, or upload large payloads (UploadPayload)"
        )
    operations, payloads = proposal.operations, proposal.payloads
    _check_count("operations", len(operations), limits.PROPOSAL_OPERATIONS_MAX)
    _check_count("payloads", len(payloads), limits.PROPOSAL_PAYLOADS_MAX)
    _check_count("preconditions", len(proposal.preconditions), limits.PROPOSAL_PRECONDITIONS_MAX)
    for number, payload in enumerate(payloads, 1):
        check_payload(payload, f"payload {number}")
    for number, operation in enumerate(operations, 1):
        check_operation(operation, number, len(payloads))
        _check_new_name(operation, number)
    for number, precondition in enumerate(proposal.preconditions, 1):
        _check_precondition(precondition, number)


def passes_full_disk(body: types.EntryBody) -> bool:
    """Whether an entry adds no data except its own row. A replica with a full disk accepts such
    entries, out of its reserve."""
    if body.WhichOneof("body") in ("close_session", "open_session"):
        return True  # a client needs a session to delete anything
    proposal = body.proposal
    return (
        body.WhichOneof("body") == "proposal"
        and not proposal.payloads
        and all(
            operation.WhichOneof("operation") in ("delete_key", "remove_directory_entry")
            for operation in proposal.operations
        )
    )


def check_payload(payload: types.Payload, what: str) -> None:
    check_digest(payload.digest, what)
    if payload.mode > limits.MODE_MAX:
        raise InvalidArgument(f"{what} has mode {payload.mode:#o}; allowed are 0 to 0777")
    if payload.size > limits.PAYLOAD_BYTES_MAX:
        raise InvalidArgument(
            f"{what} has {payload.size} bytes; allowed are {limits.PAYLOAD_BYTES_MAX}"
        )
    if payload.size > limits.PAYLOAD_INLINE_BYTES_MAX:
        if payload.data:
            raise InvalidArgument(
                f"{what} has {payload.size} bytes and inline data; payloads above "
                f"{limits.PAYLOAD_INLINE_BYTES_MAX} bytes must be uploaded (UploadPayload)"
            )
        return
    if len(payload.data) != payload.size:
        raise PayloadMismatch(
            f"{what} has size {payload.size} and {len(payload.data)} bytes of data; payloads up to "
            f"{limits.PAYLOAD_INLINE_BYTES_MAX} bytes must be inline, with all of their data"
        )
    actual = hashlib.sha256(payload.data).digest()
    if actual != payload.digest:
        raise PayloadMismatch(
            f"{what} has SHA-256 {actual.hex()}, but its digest is {payload.digest.hex()}"
        )


def check_digest(digest: bytes, what: str) -> None:
    if len(digest) != DIGEST_BYTES:
        raise InvalidArgument(
            f"{what} has a digest of {len(digest)} bytes; give a SHA-256 of {DIGEST_BYTES} bytes"
        )


def check_key(key: bytes, what: str) -> None:
    if not 1 <= len(key) <= limits.KEY_BYTES_MAX:
        raise InvalidArgument(
            f"{what}: key has {len(key)} bytes; allowed are 1 to {limits.KEY_BYTES_MAX}"
        )


def session_time_to_live_ms(requested: int) -> int:
    """The time to live of a session in milliseconds; `requested` 0 stands for the default."""
    if requested == 0:
        return limits.SESSION_TTL_MS_DEFAULT
    if not limits.SESSION_TTL_MS_MIN <= requested <= limits.SESSION_TTL_MS_MAX:
        raise InvalidArgument(
            f"time_to_live_ms is {requested}; allowed are {limits.SESSION_TTL_MS_MIN} to "
            f"{limits.SESSION_TTL_MS_MAX}, or 0 for the default, {limits.SESSION_TTL_MS_DEFAULT}"
        )
    return requested


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidArgument(f"the proposal has {count} {what}; allowed are {most}")


def check_operation(operation: types.Operation, number: int, payload_count: int) -> None:
    """Raises InvalidArgument, which names the operation by its number in the entry, from 1."""
    what = f"operation {number}"
    match operation.WhichOneof("operation"):
        case "set_key":
            check_key(operation.set_key.key, what)
            _check_value(operation.set_key.value, what)
        case "delete_key":
            check_key(operation.delete_key.key, what)
        case "create_hard_link":
            _check_link(operation.create_hard_link, what, payload_count)
        case "create_directory":
            check_path(operation.create_directory.path, f"{what}: path")
            if operation.create_directory.mode > limits.MODE_MAX:
                raise InvalidArgument(
                    f"{what} has mode {operation.create_directory.mode:#o}; allowed are 0 to 0777"
                )
        case "remove_directory_entry":
            check_path(operation.remove_directory_entry.path, f"{what}: path")
        case _:
            raise InvalidArgument(
                f"{what} is of a kind that this replica does not know; allowed are "
                "create_hard_link, remove_directory_entry, create_directory, set_key and delete_key"
            )


def _check_new_name(operation: types.Operation, number: int) -> None:
    """Checks the name of a new path. Not for imported entries: a log of format 1 may contain longer
    names."""
    match operation.WhichOneof("operation"):
        case "create_hard_link":
            path, name = operation.create_hard_link.destination_path, "destination_path"
        case "create_directory":
            path, name = operation.create_directory.path, "path"
        case _:
            return
    check_name(path, f"operation {number}: {name}")


def _check_link(link: types.CreateHardLink, what: str, payload_count: int) -> None:
    check_path(link.destination_path, f"{what}: destination_path")
    match link.WhichOneof("source"):
        case "payload":
            if not 1 <= link.payload <= payload_count:
                raise InvalidArgument(
                    f"{what} links payload {link.payload}; the proposal has {payload_count} "
                    "payloads, numbered from 1"
                )
        case "source_path":
            check_path(link.source_path, f"{what}: source_path")
        case _:
            raise InvalidArgument(f"{what} has no source: set payload or source_path")


def _check_value(value: bytes, what: str) -> None:
    if len(value) > limits.VALUE_BYTES_MAX:
        raise InvalidArgument(
            f"{what}: value has {len(value)} bytes; allowed are {limits.VALUE_BYTES_MAX}: "
            "store it as a file"
        )


def _check_precondition(precondition: types.Precondition, number: int) -> None:
    what = f"precondition {number}"
    match precondition.WhichOneof("precondition"):
        case "key_equals":
            check_key(precondition.key_equals.key, what)
            _check_value(precondition.key_equals.value, what)
        case "key_absent":
            check_key(precondition.key_absent, what)
        case "path_absent":
            check_path(precondition.path_absent, what)
        case "path_digest_equals":
            check_path(precondition.path_digest_equals.path, what)
            check_digest(precondition.path_digest_equals.digest, what)
        case _:
            raise InvalidArgument(
                f"{what} is of a kind that this replica does not know; allowed are key_equals, "
                "key_absent, path_absent and path_digest_equals"
            )
