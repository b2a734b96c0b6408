"""Streams of a peer in any order, and a replica that remembers what they brought."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from partition_proto.v1 import peer_pb2 as api
from partition_replica.core.limits import (
    PAYLOAD_BYTES_MAX,
    Limits,
)
from partition_replica.errors import NotFound, ReplicaError, WrongCluster
from partition_replica.transport.chunks import CHUNK_BYTES_MAX
from partition_replica.transport.failures import Failures
from partition_replica.transport.peer_service import PeerService

from tests.support.fuzz.inputs import messages

CLUSTER = "c"
OWN = 7


class Replica:
    """Lets in who names its cluster and member, and remembers what it was given."""

    def __init__(self) -> None:
        self.let_in: set[int] = set()
        self.files: dict[bytes, Path] = {}
        self.seen: list[tuple[Any, ...]] = []
        self.greeted: set[int] = set()

    def check_peer(self, cluster: str, to: int, sender: int = 0, last_index: int = 0) -> None:
        if cluster != CLUSTER or to not in (0, OWN):
            raise WrongCluster("another cluster's")
        self.let_in.add(sender)

    def greet(self, member: int, address: str) -> None:
        assert member in self.let_in
        self.greeted.add(member)

    def disconnected(self, member: int) -> None:
        assert member in self.let_in
        self.greeted.remove(member)

    def receive(self, message: bytes, sender: int) -> None:
        assert sender in self.let_in
        assert sender
        self.seen.append((message, sender))

    async def take_payload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> bool:
        assert self.let_in
        assert size <= PAYLOAD_BYTES_MAX
        async for chunk in chunks:
            assert len(chunk) <= CHUNK_BYTES_MAX
            self.seen.append((digest, chunk))
        return False

    async def receive_state(self, header: api.TransferHeader, chunks: AsyncIterator[bytes]) -> int:
        async for chunk in chunks:
            self.seen.append((header.sender, chunk))
        return 0

    def transfer_offset(self, header: api.TransferHeader) -> int:
        return len(header.digest)

    def status(self) -> Any:
        return type("Status", (), {"cluster": "c", "member": 7, "incarnation": 1, "last_index": 9})

    def payload_file(self, digest: bytes) -> tuple[Path, int]:
        assert self.let_in
        if digest not in self.files:
            raise NotFound("not here")
        return self.files[digest], self.files[digest].stat().st_size


class Aborted(Exception):
    """The call was ended by name."""


class Context:
    async def abort(self, code: Any, message: str, metadata: Any = ()) -> None:
        raise Aborted(message)


async def stream(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def call(replica: Replica, method: Callable[[PeerService], Any]) -> bool:
    """Whether it was answered; False for a refusal by name."""
    refused: list[ReplicaError] = []
    failures = Failures(lambda _: None, lambda _: None)
    failures.refused = refused.append  # type: ignore[method-assign]
    service = PeerService(replica, Limits(), failures)  # type: ignore[arg-type]

    async def run() -> None:
        result = method(service)
        if hasattr(result, "__aiter__"):
            async for _ in result:
                pass
        else:
            await result

    try:
        asyncio.run(run())
    except Aborted:
        assert len(refused) == 1
        return False
    return True


HELLO = st.builds(
    api.Hello,
    cluster_id=st.sampled_from([CLUSTER, "", "other"]),
    member_id=st.sampled_from([0, 1, 2]),
    to_member_id=st.sampled_from([OWN, 0, 8]),
)
BATCHES = st.lists(
    st.one_of(
        st.builds(api.RaftBatch, hello=HELLO, messages=st.lists(st.binary(max_size=4), max_size=3)),
        st.builds(api.RaftBatch, messages=st.lists(st.binary(max_size=4), max_size=3)),
        messages(api.RaftBatch),
    ),
    max_size=5,
)
GOOD = api.Hello(cluster_id=CLUSTER, member_id=1, to_member_id=OWN)
OTHER = api.Hello(cluster_id="other", member_id=2, to_member_id=OWN)
