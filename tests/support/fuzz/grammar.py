"""Inputs of each decoder: messages of its kind, damaged ones, and anything."""

from hypothesis import strategies as st
from partition_proto.v1 import log_store_pb2, peer_pb2, seed_pb2
from partition_proto.v1 import storage_pb2 as rows
from partition_proto.v1 import types_pb2 as types

from tests.support.fuzz.inputs import (
    NUMBERS,
    WIRE,
    damaged,
    delimited,
    encoded,
    field,
    varint,
)

KINDS = {
    "AppendRequest": log_store_pb2.AppendRequest,
    "UploadPayloadRequest": log_store_pb2.UploadPayloadRequest,
    "Proposal": types.Proposal,
    "EntryBody": types.EntryBody,
    "blob_digests": types.EntryBody,
    "member_changes": types.MemberChange,
    "RaftBatch": peer_pb2.RaftBatch,
    "Hello": peer_pb2.Hello,
    "TransferHeader": peer_pb2.TransferHeader,
    "TransferManifest": peer_pb2.TransferManifest,
    "InstallSnapshotRequest": peer_pb2.InstallSnapshotRequest,
    "PayloadChunk": peer_pb2.PayloadChunk,
    "rows": rows.IdentityRow,
    "MANIFEST": seed_pb2.Manifest,
    "RAFT": seed_pb2.RaftEntry,
    "hard state": seed_pb2.HardState,
    "conf state": seed_pb2.ConfState,
}


# eraftpb, whose Python code is not generated: by field numbers.
def numbers(*fields: int) -> st.SearchStrategy[bytes]:
    one = st.builds(lambda n, v: field(n, 0, varint(v)), st.sampled_from(fields), NUMBERS)
    return st.lists(one, max_size=4).map(b"".join)


def holding(
    number: int, inner: st.SearchStrategy[bytes], most: int = 1
) -> st.SearchStrategy[bytes]:
    one = inner.map(lambda content: delimited(number, content))
    return st.lists(one, max_size=most).map(b"".join)


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


CONTENT = st.binary(max_size=20)
ENTRY = joined(numbers(1, 2, 3, 5), holding(4, CONTENT), holding(6, CONTENT))
CONF_STATE = joined(numbers(1, 2, 3, 4, 5), holding(1, CONTENT))
SNAPSHOT_METADATA = joined(holding(1, CONF_STATE), numbers(2, 3))
SNAPSHOT = joined(holding(1, CONTENT), holding(2, SNAPSHOT_METADATA))
MESSAGE = joined(
    numbers(1, 2, 3, 4, 5, 6, 8, 10, 11, 13, 14),
    holding(7, ENTRY, 3),
    holding(9, SNAPSHOT),
    holding(12, CONTENT),
)
CHANGE = joined(numbers(1, 2, 3, 4), holding(2, numbers(1, 2), 3), holding(3, CONTENT))

PAIR = encoded(seed_pb2.KeyValue).map(lambda content: varint(len(content)) + content)
PAIRS = st.lists(PAIR, max_size=4).map(b"".join)


def inputs_of(name: str) -> st.SearchStrategy[bytes]:
    if name in KINDS:
        return encoded(KINDS[name])
    own = {
        "Message": MESSAGE,
        "ConfChange": CHANGE,
        "ConfChangeV2": CHANGE,
        "kv-state": PAIRS,
    }.get(name)
    anything = st.one_of(st.binary(max_size=600), st.lists(WIRE, max_size=6).map(b"".join))
    return anything if own is None else st.one_of(own, damaged(own), anything)
