"""Which payloads of an entry are blobs, files beside the log, and which it carries itself."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry
from partition_replica.errors import Damaged
from partition_replica.ids import Digest


def is_blob(payload: types.Payload) -> bool:
    """A payload without data that is not empty. Of clients' proposals these are the ones above the
    inline limit (`validation.check_payload`); of imported entries others may be, too."""
    return payload.size > 0 and not payload.data


def may_name_blobs(body: bytes) -> bool:
    """Whether an encoded EntryBody may name a payload: False is certain. A payload begins with
    its digest, field 1 of 32 bytes, so most entries need no parsing."""
    return b"\x0a\x20" in body


def payloads_of(body: types.EntryBody) -> Sequence[types.Payload]:
    if body.HasField("imported"):
        return body.imported.payloads
    return body.proposal.payloads


def decode_body(entry: LogEntry) -> types.EntryBody:
    """Of a normal entry with data. Raises Damaged where it is none: what is in the log was checked
    before it came there."""
    try:
        return types.EntryBody.FromString(entry.data)
    except DecodeError as error:
        raise Damaged(f"the data of log entry {entry.index} is no EntryBody: {error}") from error


def blob_digests(entry: LogEntry) -> list[Digest]:
    """The blobs that an entry names. Bodies are small (a few MiB at most) and were checked."""
    if entry.kind or not may_name_blobs(entry.data):
        return []
    body = decode_body(entry)
    return [Digest(payload.digest) for payload in payloads_of(body) if is_blob(payload)]
