"""What the compiled module does with the bytes of an entry is what Python and protobuf do."""

import random
import struct
import zlib

import partition_raft
import pytest
from google.protobuf.message import DecodeError
from partition_proto.v1 import types_pb2 as types
from partition_replica.core import payloads
from partition_replica.core.model import LogEntry
from partition_replica.engine.entries import blobs_of
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Term
from partition_replica.storage import codec
from partition_replica.storage.blob_names import blob_digests

SIZES = (0, 1, 3, 4, 15, 16, 17, 63, 64, 255, 4096, 65_537)
MUTATIONS = 4000


@pytest.mark.parametrize("size", SIZES)
def test_a_row_has_the_checksum_of_zlib(size: int) -> None:
    source = random.Random(size)
    for key_size in SIZES[:-1]:
        key, payload = source.randbytes(key_size), source.randbytes(size)
        wanted = struct.pack(">I", zlib.crc32(key + payload)) + payload
        assert codec.seal(key, payload) == wanted
        assert codec.unseal("value", key, wanted) == payload


def payload(source: random.Random) -> types.Payload:
    size = source.choice((0, 5, 100_000))
    data = source.randbytes(size) if size <= 5 else b""
    if size and source.random() < 0.2:
        data = b""  # a small blob, as imports have them
    return types.Payload(digest=source.randbytes(32), size=size, mode=0o644, data=data)


def body(source: random.Random) -> types.EntryBody:
    link = types.CreateHardLink(payload=1, destination_path=source.randbytes(9))
    operations = [types.Operation(create_hard_link=link)] * source.randrange(3)
    some = [payload(source) for _ in range(source.randrange(4))]
    match source.randrange(6):
        case 0:
            return types.EntryBody(
                imported=types.ImportedEntry(payloads=some, operations=operations), term=1
            )
        case 1:
            return types.EntryBody(open_session=types.OpenSession(session_id=2_606), time_ms=9)
        case 2:
            return types.EntryBody(close_session=types.CloseSession(session_id=2_606))
        case _:
            proposal = types.Proposal(
                session_id=2**62, sequence=7, payloads=some, operations=operations
            )
            return types.EntryBody(
                proposal=proposal, time_ms=5, elapsed_ms=0, content_digest=bytes(16), term=3
            )


def entry(data: bytes, kind: int = 0) -> LogEntry:
    return LogEntry(LSN(5), Term(1), kind, data)


def test_the_same_blobs_are_found_in_all_entries() -> None:
    source = random.Random(1)
    found = 0
    for _ in range(300):
        data = body(source).SerializeToString()
        wanted = payloads.blob_digests(entry(data))
        assert blob_digests(entry(data)) == wanted
        found += len(wanted)
    assert found > 100


def test_proposals_are_searched_without_protobuf() -> None:
    some = [payload(random.Random(n)) for n in range(20)]
    data = types.EntryBody(proposal=types.Proposal(payloads=some)).SerializeToString()
    wanted = [one.digest for one in some if payloads.is_blob(one)]
    assert partition_raft.blob_digests(data) == wanted != []


@pytest.mark.parametrize(
    "data",
    {
        "two proposals": b"\x0a\x00" * 2,
        "a session behind a proposal": b"\x0a\x00\x12\x00",
        "an imported entry": b"\x2a\x00",
        "an unknown field": b"\x7a\x00",
        "a group": b"\x0b\x0c",
        "a number for bytes": b"\x08\x01",
        "a field that is cut off": b"\x0a\x05a",
        "a number of ten bytes": b"\x20" + b"\xff" * 9 + b"\x01",
        "an unknown field of a payload": b"\x0a\x05\x2a\x03\x7a\x01a",
    }.values(),
)
def test_what_the_search_does_not_know_is_left_to_protobuf(data: bytes) -> None:
    assert partition_raft.blob_digests(data) is None


def test_any_bytes_that_protobuf_reads_give_the_same_blobs() -> None:
    """Bits are flipped, and bytes are cut, doubled and put in."""
    source = random.Random(2)
    read = 0
    for _ in range(MUTATIONS):
        data = bytearray(body(source).SerializeToString())
        for _ in range(source.randrange(1, 4)):
            at, kind = source.randrange(len(data) + 1), source.randrange(4)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << source.randrange(8)
            elif kind == 1:
                del data[at : at + source.randrange(4)]
            elif kind == 2:
                data[at:at] = data[at : at + 40]
            else:
                data[at:at] = source.choice((b"\x0a\x20", b"\x2a\x00", b"\x10\x80\x00"))
        changed = entry(bytes(data))
        try:
            wanted = payloads.blob_digests(changed)
        except Damaged:
            continue
        assert blob_digests(changed) == wanted, data.hex()
        read += 1
    assert read > MUTATIONS // 10


def test_blobs_of_a_message() -> None:
    source = random.Random(3)
    bodies = [body(source).SerializeToString() for _ in range(40)]
    entries = [partition_raft.Entry(n, 1, data) for n, data in enumerate(bodies, 5)]
    entries.append(partition_raft.Entry(45, 1, b"\x0a\x20 a change", 2))
    entries.append(partition_raft.Entry(46, 1, b""))
    wanted = [digest for data in bodies for digest in payloads.blob_digests(entry(data))]
    assert wanted
    assert blobs_of(message(entries)) == wanted
    only = [one for one, data in zip(entries, bodies, strict=False) if data[:1] != b"\x2a"]
    assert message(only).blob_digests() is not None, "found without protobuf"


def message(entries: list[partition_raft.Entry]) -> partition_raft.Message:
    """A leader's append, as it is sent."""
    encoded = b"\x08\x03\x10\x02\x18\x01\x20\x01"
    for one in entries:
        index, term, kind, data, _ = one.row()
        field = b"\x08" + bytes([kind]) + b"\x10" + bytes([term]) + b"\x18" + bytes([index])
        field += b"\x22" + varint(len(data)) + data
        encoded += b"\x3a" + varint(len(field)) + field
    found = partition_raft.Message.decode(encoded)
    assert [entry.row() for entry in found.entries] == [entry.row() for entry in entries]
    assert partition_raft.Message.decode(found.encode()).encode() == found.encode()
    return found


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded) + bytes([value])


def test_protobuf_refuses_what_is_no_entry() -> None:
    with pytest.raises(DecodeError):
        types.EntryBody.FromString(b"\x0a\x20")
    with pytest.raises(Damaged):
        blob_digests(entry(b"\x0a\x20"))
