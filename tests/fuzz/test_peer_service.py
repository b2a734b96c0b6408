"""Streams of a peer, in any order and of any content: nothing reaches the replica before the
stream said who sends it and was let in, and what is refused is refused by name."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from partition_proto.v1 import peer_pb2 as api
from partition_replica.core.limits import (
    PAYLOAD_BATCH_BYTES_MAX,
    PAYLOAD_BATCHED_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOADS_A_CALL_MAX,
)
from partition_replica.errors import InvalidArgument
from partition_replica.transport.chunks import CHUNK_BYTES_MAX, payload_chunks
from partition_replica.transport.peer_service import PeerService

from tests.support.fuzz.inputs import fuzzing, messages
from tests.support.fuzz.peer_streams import (
    BATCHES,
    CLUSTER,
    GOOD,
    OTHER,
    OWN,
    Context,
    Replica,
    call,
    stream,
)


@fuzzing
@example(batches=[api.RaftBatch(messages=[b"m"])])
@example(batches=[api.RaftBatch(hello=GOOD, messages=[b"m"]), api.RaftBatch(hello=OTHER)])
@given(batches=BATCHES)
def test_messages_are_of_whom_the_hello_names(batches: list[api.RaftBatch]) -> None:
    replica = Replica()
    answered = call(replica, lambda service: service.Raft(stream(batches), Context()))
    if not batches:
        assert answered
        return
    first = batches[0].hello
    good = (first.cluster_id, first.to_member_id) == (CLUSTER, OWN) and first.member_id
    assert answered == bool(good)
    sent = [(found, first.member_id) for batch in batches for found in batch.messages]
    assert replica.seen == (sent if good else [])
    assert not replica.greeted


@fuzzing
@example(chunks=[api.PayloadChunk(cluster_id=CLUSTER, digest=b"d", size=1 << 63)])
@given(
    chunks=st.lists(
        st.one_of(
            messages(api.PayloadChunk),
            st.builds(
                api.PayloadChunk,
                cluster_id=st.just(CLUSTER),
                digest=st.binary(max_size=33),
                size=st.integers(0, 9),
                data=st.binary(max_size=3),
            ),
        ),
        max_size=5,
    )
)
def test_a_push_is_taken_or_refused(chunks: list[api.PayloadChunk]) -> None:
    replica = Replica()
    answered = call(replica, lambda service: service.PushPayload(stream(chunks), Context()))
    good = bool(chunks) and bool(chunks[0].digest) and chunks[0].cluster_id == CLUSTER
    assert answered == (good and chunks[0].size <= PAYLOAD_BYTES_MAX)
    if answered:
        content = b"".join(data for _, data in replica.seen)
        assert content == b"".join(chunk.data for chunk in chunks)


@fuzzing
@example(requests=[api.InstallSnapshotRequest(chunk=b"x")])
@given(
    requests=st.lists(
        st.one_of(
            messages(api.InstallSnapshotRequest),
            st.builds(
                api.InstallSnapshotRequest,
                header=st.builds(
                    api.TransferHeader, sender=st.integers(0, 1), receiver=st.integers(0, 1)
                ),
                chunk=st.binary(max_size=3),
            ),
        ),
        max_size=5,
    )
)
def test_a_snapshot_has_a_header(requests: list[api.InstallSnapshotRequest]) -> None:
    replica = Replica()
    answered = call(replica, lambda service: service.InstallSnapshot(stream(requests), Context()))
    named = bool(requests) and requests[0].header.sender and requests[0].header.receiver
    assert answered == bool(named)
    if answered:
        content = b"".join(data for _, data in replica.seen)
        assert content == b"".join(request.chunk for request in requests)


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Path]:
    folder = tmp_path_factory.mktemp("payloads")
    sizes = {b"empty": 0, b"small": 9, b"most": PAYLOAD_BATCHED_BYTES_MAX}
    found = {}
    for name, size in (sizes | {b"large": PAYLOAD_BATCHED_BYTES_MAX + 1}).items():
        found[name] = folder / name.decode()
        found[name].write_bytes(name[:1] * size)
    return found


ASKED = st.lists(st.sampled_from([b"empty", b"small", b"most", b"large", b"gone"]), max_size=9)


@fuzzing
@example(digests=[b"small"] * (PAYLOADS_A_CALL_MAX + 1), cluster=CLUSTER)
@example(digests=[b"small"] * PAYLOADS_A_CALL_MAX, cluster=CLUSTER)
@example(digests=[b"most"] * 5 + [b"empty"], cluster=CLUSTER)
@given(digests=ASKED, cluster=st.sampled_from([CLUSTER, CLUSTER, "other"]))
def test_payloads_are_given_together_or_refused(
    payloads: dict[bytes, Path], digests: list[bytes], cluster: str
) -> None:
    replica = Replica()
    replica.files = payloads
    request = api.FetchPayloadsRequest(cluster_id=cluster, digests=digests)
    batches: list[list[bytes]] = []

    async def ask(service: PeerService) -> None:
        async for batch in service.FetchPayloads(request, Context()):
            batches.append(list(batch.contents))

    answered = call(replica, ask)
    few = len(digests) <= PAYLOADS_A_CALL_MAX
    assert answered == (cluster == CLUSTER and few and not {b"large", b"gone"} & {*digests})
    contents = [content for batch in batches for content in batch]
    wanted = [payloads[digest].read_bytes() for digest in digests] if answered else contents
    assert contents == wanted
    assert all(sum(map(len, batch)) <= PAYLOAD_BATCH_BYTES_MAX for batch in batches)


@fuzzing
@example(sizes=[CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1])
@given(sizes=st.lists(st.sampled_from([0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1]), max_size=4))
def test_a_chunk_over_the_limit_is_refused(sizes: list[int]) -> None:
    async def collect() -> list[int]:
        requests = stream([api.PayloadChunk(data=bytes(size)) for size in sizes[1:]])
        first = bytes(sizes[0]) if sizes else b""
        return [len(chunk) async for chunk in payload_chunks(first, requests, "data")]

    if max(sizes, default=0) > CHUNK_BYTES_MAX:
        try:
            asyncio.run(collect())
        except InvalidArgument:
            return
        raise AssertionError("a chunk over the limit was taken")
    assert sum(asyncio.run(collect())) == sum(sizes)
