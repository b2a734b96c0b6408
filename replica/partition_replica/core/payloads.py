"""Distinguishes an entry's blobs, which are files, from its inline payloads."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry
from partition_replica.errors import Damaged
from partition_replica.ids import Digest

CompletePayloads = Sequence[tuple[bytes, bytes]]
"""Payloads that travel whole: (digest, content) of each."""


def is_blob(payload: types.Payload) -> bool:
    """Whether a payload is a blob: it has a size and no data. In clients' proposals, these are the
    payloads above the inline limit (`validation.check_payload`). In imported entries, smaller ones
    may be blobs, too."""
    return payload.size > 0 and not payload.data


def may_name_blobs(body: bytes) -> bool:
    """Whether an encoded EntryBody may name a payload. False is certain, True is not. A payload
    begins with its digest, field 1 of 32 bytes, so most entries need no parsing."""
    return b"\x0a\x20" in body


def payloads_of(body: types.EntryBody) -> Sequence[types.Payload]:
    if body.HasField("imported"):
        return body.imported.payloads
    return body.proposal.payloads


def decode_body(entry: LogEntry) -> types.EntryBody:
    """Decodes the data of a normal entry. Raises Damaged if it is not valid, because it was checked
    before it was written to the log."""
    try:
        return types.EntryBody.FromString(entry.data)
    except DecodeError as error:
        raise Damaged(
            f"the data of log entry {entry.index} is not a valid EntryBody ({error}): the volume "
            "is damaged; keep it"
        ) from error


def blob_digests(entry: LogEntry) -> list[Digest]:
    """The digests of the blobs that an entry names."""
    if entry.kind or not may_name_blobs(entry.data):
        return []
    body = decode_body(entry)
    return [Digest(payload.digest) for payload in payloads_of(body) if is_blob(payload)]
