"""Strangers call each RPC between members: of another cluster, for another member, at a volume that
belongs to nobody. A real replica refuses them, and nothing of theirs gets in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import types_pb2
from partition_replica.core.limits import Limits
from partition_replica.errors import WrongCluster
from partition_replica.runtime.peer_requests import PeerRequests
from partition_replica.transport.failures import Failures
from partition_replica.transport.peer_service import PeerService

from tests.simulation.cluster import Cluster
from tests.simulation.node import CLUSTER, Node
from tests.simulation.quiet import leader, quietly

OTHER = "00000000-0000-4000-8000-0000000000ff"
CONTENT = b"a stranger's" * 10_000
DIGEST = b"s" * 32


class Refused(Exception):
    """The call was aborted."""


class Context:
    async def abort(self, code: Any, text: str, _: object = None) -> None:
        raise Refused(f"{code.name}: {text}")


@dataclass(frozen=True)
class Caller:
    """Who a call says it is of, and for."""

    cluster: str
    receiver: int
    sender: int


def stream(*messages: Any) -> AsyncIterator[Any]:
    async def body() -> AsyncIterator[Any]:
        for message in messages:
            yield message

    return body()


def raft(caller: Caller) -> Any:
    hello = api.Hello(
        cluster_id=caller.cluster,
        member_id=caller.sender,
        to_member_id=caller.receiver,
        last_index=1 << 40,
        address="stranger:1",
    )
    return stream(api.RaftBatch(hello=hello, messages=[b""]))


def header(caller: Caller) -> api.TransferHeader:
    return api.TransferHeader(
        cluster_id=caller.cluster, sender=caller.sender, receiver=caller.receiver
    )


Request = Callable[[Caller], Any]
CALLS: dict[str, Request] = {
    "Raft": raft,
    "InstallSnapshot": lambda c: stream(api.InstallSnapshotRequest(header=header(c))),
    "GetSnapshotOffset": header,
    "FetchPayload": lambda c: api.FetchPayloadRequest(cluster_id=c.cluster, digest=DIGEST),
    "FetchPayloads": lambda c: api.FetchPayloadsRequest(cluster_id=c.cluster, digests=[DIGEST]),
    "PushPayload": lambda c: stream(
        api.PayloadChunk(
            cluster_id=c.cluster, digest=DIGEST, size=len(CONTENT), data=CONTENT[:1000]
        )
    ),
    "PushPayloads": lambda c: stream(
        api.PushPayloadsRequest(
            cluster_id=c.cluster,
            payloads=[types_pb2.PayloadContent(digest=DIGEST, content=CONTENT[:1000])],
        )
    ),
}
NAME_A_RECEIVER = ("Raft", "InstallSnapshot", "GetSnapshotOffset")


def test_each_rpc_is_here() -> None:
    """A new one is no stranger to this test."""
    service = api.DESCRIPTOR.services_by_name["Peer"]
    assert {method.name for method in service.methods} == set(CALLS)


async def call(node: Node, method: str, caller: Caller) -> None:
    """Raises Refused."""
    replica, process = node.replica, node.process
    assert replica is not None and process is not None
    fatal: list[BaseException] = []
    service = PeerService(replica.peer_requests, Limits(), Failures(lambda _: None, fatal.append))

    async def serve() -> None:
        found = getattr(service, method)(CALLS[method](caller), Context())
        if hasattr(found, "__aiter__"):
            async for _ in found:
                pass
        else:
            await found

    try:
        await process.spawn(serve())
    finally:
        assert fatal == []


def traces(node: Node) -> tuple[Any, ...]:
    """What a stranger could have left."""
    assert node.volume is not None and node.running is not None
    blobs = node.volume.blobs
    staged = sorted(path.name for path in node.volume.staging.iterdir())
    heard = [m for m in node.running.loop._contacts._heard if m not in (101, 102, 103)]
    learned = node.replica.peer_requests._transport._learned  # type: ignore[union-attr]
    return list(blobs.digests()), blobs.pinned, staged, heard, dict(learned)


def why(error: pytest.ExceptionInfo[Refused]) -> str:
    return str(error.value)


@pytest.mark.parametrize("method", sorted(CALLS))
def test_a_member_of_another_cluster_is_refused(method: str) -> None:
    async def body(cluster: Cluster) -> None:
        leading = await leader(cluster)
        followers = [node for node in cluster.nodes if node is not leading]
        for node in (leading, followers[0]):
            sender = followers[-1].member
            before = traces(node)
            for stranger in (OTHER, ""):
                with pytest.raises(Refused, match="FAILED_PRECONDITION") as refused:
                    await call(node, method, Caller(stranger, node.member, sender))
                assert f"belongs to cluster {CLUSTER}" in why(refused)
            if method in NAME_A_RECEIVER:
                with pytest.raises(Refused, match="belongs to another volume"):
                    await call(node, method, Caller(CLUSTER, leading.member + 77, sender))
            assert traces(node) == before

    quietly(body)


@pytest.mark.parametrize("method", sorted(CALLS))
def test_a_volume_of_nobody_takes_nothing(method: str) -> None:
    async def body(cluster: Cluster) -> None:
        node = cluster.add_node()
        node.start()
        with pytest.raises(Refused, match="belongs to no cluster yet"):
            await call(node, method, Caller(CLUSTER, node.member, 101))
        with pytest.raises(Refused, match="belongs to no cluster yet"):
            await call(node, method, Caller("", node.member, 101))
        assert node.volume is not None and list(node.volume.blobs.digests()) == []

    quietly(body, voters=1)


@pytest.mark.parametrize("method", sorted(CALLS))
def test_a_member_gets_past_the_door(method: str) -> None:
    """Or the tests above would prove nothing: what refuses it now is its content."""

    async def body(cluster: Cluster) -> None:
        node = await leader(cluster)
        sender = next(other.member for other in cluster.nodes if other is not node)
        try:
            await call(node, method, Caller(CLUSTER, node.member, sender))
        except Refused as error:
            assert "cluster" not in str(error)
            assert "another volume" not in str(error)

    quietly(body)


def test_a_message_in_the_name_of_another_member_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection speaks for one member, whatever its messages say."""

    async def body(cluster: Cluster) -> None:
        leading = await leader(cluster)
        one, other = (node for node in cluster.nodes if node is not leading)
        assert leading.replica is not None
        receive = PeerRequests.receive

        def watched(requests: PeerRequests, message: bytes, sender: int) -> None:
            if requests is leading.replica.peer_requests and sender == one.member and not said:  # type: ignore[union-attr]
                said.append(message)
            receive(requests, message, sender)

        said: list[bytes] = []
        monkeypatch.setattr(PeerRequests, "receive", watched)
        while not said:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(PeerRequests, "receive", receive)
        requests = leading.replica.peer_requests
        dropped = requests._metrics.messages_dropped.labels("invalid")
        before = dropped._value.get()
        requests.receive(said[0], one.member)
        assert dropped._value.get() == before
        requests.receive(said[0], other.member)
        assert dropped._value.get() == before + 1

    quietly(body)


def test_a_member_whose_volume_was_rolled_back_is_refused() -> None:
    """It has acknowledged more than its log has: frames of its past must not count again."""

    async def body(cluster: Cluster) -> None:
        leading = await leader(cluster)
        follower = next(node for node in cluster.nodes if node is not leading)
        assert leading.replica is not None and follower.volume is not None
        requests = leading.replica.peer_requests
        last = follower.volume.log.last.index
        assert last > 1
        requests.check_peer(CLUSTER, leading.member, follower.member, last)
        with pytest.raises(WrongCluster, match="its volume was rolled back"):
            requests.check_peer(CLUSTER, leading.member, follower.member, 1)

    quietly(body)
