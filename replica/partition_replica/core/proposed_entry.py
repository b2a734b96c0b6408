"""An entry as its caller proposes it, and its encoding. Pure.

The entry's data is an EntryBody. Its parts are concatenated instead of built as a message: protobuf
reads concatenated fields like one message, and the bytes of the caller stay as they are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from partition_proto.v1 import log_store_pb2
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.payloads import may_name_blobs
from partition_replica.core.sessions import CONTENT_DIGEST_BYTES, content_digest
from partition_replica.errors import InvalidArgument

# Tags of the encoding: field number * 8 + wire type.
_PROPOSAL = b"\x0a"
_SESSION_ID, _SEQUENCE, _ACKNOWLEDGED_BELOW = b"\x08", b"\x10", b"\x18"
_BODY = b"\x1a"  # of ReadResponse
_TIME_MS, _ELAPSED_MS, _CONTENT_DIGEST, _TERM = b"\x20", b"\x30", b"\x3a", b"\x40"
_MORE = 0x80
_SMALL_VARINTS = tuple(bytes([value]) for value in range(_MORE))


@dataclass(slots=True)  # not frozen, as model.LogEntry
class ProposedEntry:
    """What an entry will hold, without what the leader adds: times and term.

    `session`, `sequence`, `acknowledged_below`, `content_digest`: of a proposal. For an entry that
    opens or closes a session, only `session` is set, and `sequence` is 0. `encoded`: the body as a
    field of EntryBody.
    """

    kind: str
    session: int
    sequence: int
    acknowledged_below: int
    content_digest: bytes
    encoded: bytes

    @property
    def body(self) -> types.EntryBody:
        """The body, decoded again."""
        return types.EntryBody.FromString(self.encoded)

    def data(self, head: bytes, tail: bytes) -> bytes:
        """The entry's data, with head and tail of a `Stamp`."""
        digest = self.content_digest
        if digest:
            return b"".join(
                (self.encoded, head, _CONTENT_DIGEST, _SMALL_VARINTS[len(digest)], digest, tail)
            )
        return self.encoded + head + tail


class Stamp:
    """What a leader adds to the entries of one batch. `time_ms`: its wall clock. `elapsed_ms`: the
    time since its previous entry; the first entry of the batch carries it for all of them."""

    def __init__(self, *, time_ms: int, elapsed_ms: int, term: int) -> None:
        time = _TIME_MS + varint(time_ms) if time_ms else b""
        self._first = time + _ELAPSED_MS + varint(elapsed_ms)
        self._others = time + _ELAPSED_MS + _SMALL_VARINTS[0]
        self._tail = _TERM + varint(term) if term else b""

    def batch(self, entries: Sequence[ProposedEntry]) -> list[bytes]:
        """The data of the batch's entries, in their order."""
        head, others, tail = self._first, self._others, self._tail
        data = []
        for entry in entries:
            data.append(entry.data(head, tail))
            head = others
        return data


class ProposalEncoder:
    """Puts session, sequence and acknowledgement behind the contents of one session's proposals. Of
    a field that is there twice, protobuf takes the last one. The result is decoded, and refused if
    it names another session or sequence than those that the leader checks."""

    def __init__(self, session: int, acknowledged_below: int) -> None:
        self._session = session
        self._acknowledged_below = acknowledged_below
        self._before = _SESSION_ID + varint(session) + _SEQUENCE
        self._after = _ACKNOWLEDGED_BELOW + varint(acknowledged_below)

    def fields_bytes(self, sequence: int) -> int:
        """The size of what `encode` puts behind the content."""
        return len(self._before) + len(varint(sequence)) + len(self._after)

    def encode(self, sequence: int, content: bytes) -> tuple[bytes, types.Proposal]:
        """Returns (the proposal as a field of EntryBody, the same decoded). `content`: an encoded
        Proposal whose session_id, sequence and acknowledged_below do not count. `sequence` is at
        least 1. Raises InvalidArgument."""
        fields = self._before + varint(sequence) + self._after
        size = varint(len(fields) + len(content))
        encoded = b"".join((_PROPOSAL, size, content, fields))
        proposal = decode_stored(encoded).proposal
        found = proposal.session_id, proposal.sequence, proposal.acknowledged_below
        if found != (self._session, sequence, self._acknowledged_below):
            # For example, the content ends in the middle of a field, which swallows ours.
            raise InvalidArgument(
                f"the proposal of sequence {sequence} is not an encoded Proposal: what is behind "
                "it in the log is not read as session, sequence and acknowledgement"
            )
        return encoded, proposal

    def entry(
        self, sequence: int, content: bytes, encoded: bytes, proposal: types.Proposal
    ) -> ProposedEntry:
        """The entry of `encode`'s result, once the proposal is checked. A proposal whose payloads
        `may_name_blobs` would not find is encoded anew: protobuf reads bytes that it would not
        write."""
        if not proposal.payloads:
            # A caller that sends bytes which protobuf would not write gets the digest of its bytes,
            # which its retries repeat.
            digest = hashlib.sha256(content).digest()[:CONTENT_DIGEST_BYTES]
        elif may_name_blobs(content):
            digest = content_digest(proposal)
        else:
            return proposed(types.EntryBody(proposal=proposal))
        return ProposedEntry(
            "proposal", self._session, sequence, self._acknowledged_below, digest, encoded
        )


def proposed(body: types.EntryBody) -> ProposedEntry:
    """An entry whose caller sent one message: `body` without times, term and content digest.
    Raises InvalidArgument for a proposal that readers of the log could not decode."""
    encoded = body.SerializeToString(deterministic=True)
    if body.HasField("proposal"):
        decode_stored(encoded)
    match body.WhichOneof("body"):
        case "proposal":
            proposal = body.proposal
            return ProposedEntry(
                "proposal",
                proposal.session_id,
                proposal.sequence,
                proposal.acknowledged_below,
                content_digest(proposal),
                encoded,
            )
        case "open_session":
            return ProposedEntry("open_session", body.open_session.session_id, 0, 0, b"", encoded)
        case _:
            return ProposedEntry("close_session", body.close_session.session_id, 0, 0, b"", encoded)


def decode_stored(encoded: bytes) -> types.EntryBody:
    """Decodes an EntryBody as deep inside other messages as any reader of the log gets it. Unknown
    fields of a caller may be nested so deep that they can be decoded alone, and not there. Raises
    InvalidArgument."""
    try:
        read = log_store_pb2.ReadResponse.FromString(_BODY + varint(len(encoded)) + encoded)
    except DecodeError as error:
        raise InvalidArgument(
            f"the proposal is not an encoded Proposal, or is nested too deep: {error}"
        ) from error
    return read.body


def varint(value: int) -> bytes:
    """The encoding of an unsigned number below 2^64 in protobuf: seven bits per byte, the lowest
    ones first, and the highest bit of a byte says that another one follows."""
    if value < _MORE:
        return _SMALL_VARINTS[value]
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value % _MORE | _MORE)
        value //= _MORE
    encoded.append(value)
    return bytes(encoded)
