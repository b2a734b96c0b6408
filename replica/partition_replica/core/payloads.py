"""Distinguishes an entry's blobs, which are files, from its inline payloads."""

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import LogEntry
from partition_replica.errors import Damaged
from partition_replica.ids import Digest

T = TypeVar("T")

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


class ArrivingPayload(Protocol):
    """A payload that is still arriving here. On the event loop."""

    @property
    def path(self) -> Path:
        """Its file, which has another name once it is complete, and none once it is given up."""
        ...

    async def beyond(self, done: int) -> int:
        """Waits until the file has more than `done` bytes; returns how many it has. Returns `done`
        if no more will come."""
        ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yields the content as it arrives. Ends early if no more comes, and raises nothing."""
        ...


class MovedContent(Protocol):
    """A payload's content on a connection of another member, which writes it into a file without
    passing it through Python. One user; after an error its connection ends."""

    async def run(self, body: Callable[[], T]) -> T:
        """Runs a blocking body on the connection's thread, and returns its result. A cancelled
        caller ends the connection and waits for the body."""
        ...

    def accept(self) -> None:
        """Asks the sender for the content. For `run`. Raises PeerFailed."""
        ...

    def move(self, descriptor: int, count: int) -> None:
        """Writes the next `count` bytes to an open file. For `run`. Raises PeerFailed, OSError."""
        ...

    def digest(self) -> bytes:
        """The SHA-256 of what was moved."""
        ...
