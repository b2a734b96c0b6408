"""The encoding of entries: protobuf reads from the parts what the leader means."""

import random

import pytest
from partition_proto.v1 import log_store_pb2
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import LogEntry
from partition_replica.core.payloads import blob_digests, may_name_blobs
from partition_replica.core.proposed_entry import ProposalEncoder, Stamp, proposed, varint
from partition_replica.core.sessions import content_digest
from partition_replica.errors import InvalidArgument
from partition_replica.ids import LSN, Term

from tests.support.proposals import delete_key, link, payload, set_key

NUMBERS = [0, 1, 127, 128, 300, 16_383, 16_384, 2**32, 2**63 - 1, 2**64 - 1]


def drawn(rng: random.Random) -> types.Proposal:
    operations = [
        rng.choice(
            [
                set_key(rng.randbytes(rng.randrange(1, 300)), rng.randbytes(rng.randrange(300))),
                delete_key(rng.randbytes(5)),
                link(b"path", 1),
            ]
        )
        for _ in range(rng.randrange(1, 4))
    ]
    preconditions = [types.Precondition(key_absent=b"k")] if rng.random() < 0.3 else []
    payloads = [payload(rng.randbytes(50))] if rng.random() < 0.3 else []
    return types.Proposal(operations=operations, preconditions=preconditions, payloads=payloads)


@pytest.mark.parametrize("value", NUMBERS)
def test_a_varint_is_protobufs(value: int) -> None:
    encoded = types.Proposal(session_id=value).SerializeToString()
    assert encoded == (b"\x08" + varint(value) if value else b"")


@pytest.mark.parametrize("seed", range(20))
def test_a_framed_entry_is_read_as_one_message(seed: int) -> None:
    rng = random.Random(seed)
    below = rng.choice(NUMBERS[:6])
    encoder = ProposalEncoder(rng.choice(NUMBERS[1:]), below)
    batch, expected = [], []
    for sequence in rng.sample(range(1, 1000), 5):
        proposal = drawn(rng)
        content = proposal.SerializeToString(deterministic=True)
        encoded, decoded = encoder.encode(sequence, content)
        entry = encoder.entry(sequence, content, encoded, decoded)
        assert entry.content_digest == content_digest(proposal)
        batch.append(entry)
        body = types.EntryBody(proposal=proposal, content_digest=entry.content_digest)
        body.proposal.session_id, body.proposal.sequence = entry.session, sequence
        body.proposal.acknowledged_below = below
        size = len(content) + encoder.fields_bytes(sequence)
        # A zero is written here, and left out by protobuf.
        assert size == body.proposal.ByteSize() + (0 if below else 2)
        expected.append(body)
    time_ms, elapsed_ms, term = (rng.choice(NUMBERS) for _ in range(3))
    data = Stamp(time_ms=time_ms, elapsed_ms=elapsed_ms, term=term).batch(batch)
    for number, (found, body) in enumerate(zip(data, expected, strict=True)):
        body.time_ms, body.term = time_ms, term
        body.elapsed_ms = 0 if number else elapsed_ms
        read = types.EntryBody.FromString(found)
        assert read == body
        assert read.HasField("elapsed_ms"), "of the others, too: without it, time_ms is the clock"


@pytest.mark.parametrize(
    "body",
    [
        types.EntryBody(open_session=types.OpenSession(time_to_live_ms=5, session_id=9)),
        types.EntryBody(close_session=types.CloseSession(session_id=9)),
        types.EntryBody(
            proposal=types.Proposal(
                session_id=9, sequence=3, acknowledged_below=2, operations=[delete_key(b"k")]
            )
        ),
    ],
)
def test_a_single_entry_keeps_its_body(body: types.EntryBody) -> None:
    entry = proposed(body)
    assert (entry.session, entry.body) == (9, body)
    (data,) = Stamp(time_ms=7, elapsed_ms=8, term=9).batch([entry])
    body.time_ms, body.elapsed_ms, body.term = 7, 8, 9
    if body.HasField("proposal"):
        assert (entry.sequence, entry.acknowledged_below) == (3, 2)
        body.content_digest = content_digest(body.proposal)
    assert types.EntryBody.FromString(data) == body


DEEPER = 97
"""Nested groups at which a proposal can be decoded alone, and not inside an answer of Read."""


@pytest.mark.parametrize("depth", [DEEPER, DEEPER + 1, 99, 100])
def test_what_readers_could_not_decode_is_refused(depth: int) -> None:
    """An entry that can't be decoded would end every replica, at each start."""
    content = set_key(b"k", b"v").SerializeToString()
    nested = types.Proposal(operations=[set_key(b"k", b"v")]).SerializeToString()
    nested += b"\xc3\x3e" * depth + b"\xc4\x3e" * depth  # groups of field 1000
    types.Proposal.FromString(nested)
    encoder = ProposalEncoder(7, 1)
    try:
        encoded, _ = encoder.encode(1, nested)
    except InvalidArgument as error:
        assert "nested too deep" in str(error)
        assert depth > DEEPER
    else:
        body = types.EntryBody.FromString(encoded)
        response = log_store_pb2.ReadResponse(body=body)
        assert log_store_pb2.ReadResponse.FromString(response.SerializeToString()) == response
        assert content in encoded


def test_a_single_proposal_that_readers_could_not_decode_is_refused() -> None:
    nested = b"\xc3\x3e" * 100 + b"\xc4\x3e" * 100
    with pytest.raises(InvalidArgument, match="nested too deep"):
        proposed(types.EntryBody(proposal=types.Proposal.FromString(nested)))


def test_payloads_are_found_in_whatever_bytes_a_caller_sends() -> None:
    """A digest whose length takes two bytes, where protobuf writes one."""
    odd = b"\x0a\xa0\x00" + b"d" * 32 + types.Payload(size=100_000).SerializeToString()
    content = b"\x2a" + varint(len(odd)) + odd
    assert types.Proposal.FromString(content).payloads[0].digest == b"d" * 32
    assert not may_name_blobs(content)
    encoder = ProposalEncoder(7, 1)
    encoded, proposal = encoder.encode(3, content)
    entry = encoder.entry(3, content, encoded, proposal)
    assert may_name_blobs(entry.encoded)
    (data,) = Stamp(time_ms=1, elapsed_ms=1, term=1).batch([entry])
    assert blob_digests(LogEntry(LSN(1), Term(1), 0, data)) == [b"d" * 32]
    assert (entry.session, entry.sequence, entry.acknowledged_below) == (7, 3, 1)


@pytest.mark.parametrize("sequence", [7, 300, 2**40])
def test_content_that_swallows_what_is_behind_it_is_refused(sequence: int) -> None:
    """It ends with the beginning of an unknown field, as long as our fields. Then the session that
    the content names would count, and not the one that the leader has checked."""
    encoder = ProposalEncoder(2**40, 1)
    forged = types.Proposal(session_id=99, sequence=3, acknowledged_below=2)
    forged.operations.append(set_key(b"k", b"v"))
    content = forged.SerializeToString() + b"\xfa\x01" + varint(encoder.fields_bytes(sequence))
    with pytest.raises(InvalidArgument, match="not read as session"):
        encoder.encode(sequence, content)
    whole = forged.SerializeToString()
    assert encoder.encode(sequence, whole)[1].session_id == 2**40
