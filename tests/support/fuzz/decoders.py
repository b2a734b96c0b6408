"""The decoders, by name, each with what it may raise."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import partition_raft as raft
from google.protobuf.message import DecodeError
from partition_proto.v1 import log_store_pb2, peer_pb2
from partition_proto.v1 import storage_pb2 as rows
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import LogEntry
from partition_replica.core.paths import check_path
from partition_replica.core.payloads import blob_digests
from partition_replica.core.validation import check_proposal
from partition_replica.engine.entries import member_changes
from partition_replica.errors import Damaged, ImportRefused, InvalidArgument, PayloadMismatch
from partition_replica.ids import LSN, Term
from partition_replica.offline.seed import base_format as seed_base
from partition_replica.offline.seed import layout as seed_layout
from partition_replica.offline.seed import state_files
from partition_replica.storage import codec


@dataclass(frozen=True, slots=True)
class Decoder:
    decode: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]


def entry(data: bytes, kind: int = 0, context: bytes = b"") -> LogEntry:
    return LogEntry(LSN(1), Term(1), kind, data, context)


def conf_change(kind: int) -> Callable[[bytes], object]:
    return lambda data: raft.decode_conf_change(raft.Entry(1, 1, data, kind))


def message(data: bytes) -> tuple[object, ...]:
    """All that the runtime reads of a peer's message."""
    found = raft.Message.decode(data)
    entries = [(e.index, e.term, e.kind, e.data, e.context) for e in found.entries]
    assert found.entry_count == len(entries)
    head = (found.kind, found.to, found.sender, found.term, found.index, found.commit)
    snapshot = found.snapshot
    tail = None if snapshot is None else (snapshot.index, snapshot.term, snapshot.data)
    return (*head, found.reject, entries, tail, found.encode())


def proposal(data: bytes) -> types.Proposal:
    found = types.Proposal.FromString(data)
    check_proposal(found)
    return found


def pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    return list(seed_base.read_pairs(io.BytesIO(data).read, "f"))


def row_kinds() -> list[type[codec.Message]]:
    return [getattr(rows, name) for name in rows.DESCRIPTOR.message_types_by_name]


def sealed_rows(data: bytes) -> list[object]:
    """Each kind of row, with a checksum that is right."""
    found: list[object] = []
    for kind in row_kinds():
        try:
            found.append(codec.unseal_message("meta", b"k", codec.seal(b"k", data), kind))
        except Damaged as error:
            assert kind.__name__ in str(error)
            found.append(None)
    return found


DECODERS = {
    # Of clients.
    "AppendRequest": Decoder(log_store_pb2.AppendRequest.FromString, (DecodeError,)),
    "UploadPayloadRequest": Decoder(log_store_pb2.UploadPayloadRequest.FromString, (DecodeError,)),
    "Proposal": Decoder(proposal, (DecodeError, InvalidArgument, PayloadMismatch)),
    "path": Decoder(check_path, (InvalidArgument,)),
    # Of peers.
    "EntryBody": Decoder(types.EntryBody.FromString, (DecodeError,)),
    "blob_digests": Decoder(lambda data: blob_digests(entry(data)), (Damaged,)),
    "Message": Decoder(message, (raft.InvalidMessage,)),
    "ConfChange": Decoder(conf_change(1), (raft.InvalidMessage,)),
    "ConfChangeV2": Decoder(conf_change(2), (raft.InvalidMessage,)),
    "member_changes": Decoder(
        lambda data: member_changes(entry(b"", 2, data)), (Damaged, raft.InvalidMessage)
    ),
    "RaftBatch": Decoder(peer_pb2.RaftBatch.FromString, (DecodeError,)),
    "Hello": Decoder(peer_pb2.Hello.FromString, (DecodeError,)),
    "TransferHeader": Decoder(peer_pb2.TransferHeader.FromString, (DecodeError,)),
    "TransferManifest": Decoder(peer_pb2.TransferManifest.FromString, (DecodeError,)),
    "InstallSnapshotRequest": Decoder(peer_pb2.InstallSnapshotRequest.FromString, (DecodeError,)),
    "PayloadChunk": Decoder(peer_pb2.PayloadChunk.FromString, (DecodeError,)),
    # Of the volume, and of snapshots of other replicas.
    "unseal": Decoder(lambda data: codec.unseal("value", b"k", data), (Damaged,)),
    "rows": Decoder(sealed_rows, ()),
    "raft row": Decoder(lambda data: codec.decode_raft(LSN(1), data, b"m"), (Damaged,)),
    "term": Decoder(codec.decode_term, (Damaged,)),
    # Of an imported log.
    "MANIFEST": Decoder(lambda data: seed_layout.parse_manifest(LSN(1), data, 2), (ImportRefused,)),
    "RAFT": Decoder(lambda data: seed_layout.parse_raft(LSN(1), data), (ImportRefused,)),
    "hard state": Decoder(lambda data: state_files.parse_hard_state("f", data), (ImportRefused,)),
    "conf state": Decoder(lambda data: state_files.parse_conf_state("f", data), (ImportRefused,)),
    "kv-state": Decoder(pairs, (ImportRefused,)),
}
