"""An append that names a large payload enters no log before a quorum of voters holds the payload:
the loss of one disk must not take the only copy of what a client was told is kept."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import PayloadQuorum
from partition_replica.ids import Digest

from tests.simulation.checks import log_blobs
from tests.simulation.clients import SESSION_TTL_MS
from tests.simulation.cluster import Cluster
from tests.simulation.node import Node
from tests.simulation.peers import SimulatedPeers
from tests.simulation.quiet import leader, quietly
from tests.support import proposals

CONTENT = b"large" * 20_000
DIGEST = Digest(hashlib.sha256(CONTENT).digest())


class Pushes:
    """Payloads on their way to members; none of `lost` gets one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lost: set[int] = set()
        for name in ("push_payload", "push_arriving"):
            patch.setattr(SimulatedPeers, name, self._unless_lost(getattr(SimulatedPeers, name)))

    def _unless_lost(self, push: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def found(peers: SimulatedPeers, member: int, *arguments: Any) -> None:
            if member in self.lost:
                await asyncio.sleep(0.05)
                raise PeerFailed("it does not take it")
            await push(peers, member, *arguments)

        return found


async def upload(node: Node) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield CONTENT

    assert node.replica is not None
    await node.replica.applications.upload(DIGEST, len(CONTENT), chunks())


async def append(node: Node, session: int) -> None:
    assert node.replica is not None
    proposal = proposals.proposal(
        session, 1, [proposals.link(b"large")], [proposals.payload(CONTENT)]
    )
    await node.replica.applications.append(
        types.Proposal.FromString(proposal.SerializeToString()), retry=False, wait_applied=True
    )


def holders(cluster: Cluster) -> list[Node]:
    return [n for n in cluster.nodes if n.volume is not None and n.volume.blobs.has(DIGEST)]


def naming(cluster: Cluster) -> list[Node]:
    """Whose log has an entry that names the payload."""
    return [n for n in cluster.nodes if n.volume is not None and DIGEST in log_blobs(n.volume)]


def test_an_append_is_not_proposed_before_a_quorum_holds_its_payload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pushes = Pushes(monkeypatch)

    async def body(cluster: Cluster) -> None:
        node = await leader(cluster)
        process, others = node.process, [n for n in cluster.nodes if n is not node]
        assert node.replica is not None and process is not None and node.running is not None
        session, _ = await process.spawn(node.replica.applications.open_session(SESSION_TTL_MS))
        pushes.lost = {other.member for other in others}
        with pytest.raises(PayloadQuorum):
            await process.spawn(upload(node))
        assert holders(cluster) == [node]
        last = node.running.loop.last_proposed
        with pytest.raises(PayloadQuorum):
            await process.spawn(append(node, session))
        assert node.running.loop.last_proposed == last
        assert naming(cluster) == []

        # One more makes a quorum of three, and nobody else is waited for.
        pushes.lost = {others[1].member}
        await process.spawn(append(node, session))
        assert {n.name for n in holders(cluster)} >= {node.name, others[0].name}

    quietly(body)


def test_a_payload_is_on_a_quorum_at_the_moment_its_entry_is_first_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Pushes(monkeypatch)
    seen: list[int] = []

    async def body(cluster: Cluster) -> None:
        node = await leader(cluster)
        process = node.process
        assert node.replica is not None and process is not None
        session, _ = await process.spawn(node.replica.applications.open_session(SESSION_TTL_MS))

        async def watch() -> None:
            while not naming(cluster):
                await asyncio.sleep(0.0001)
            seen.append(len(holders(cluster)))

        watching = asyncio.ensure_future(watch())
        await process.spawn(upload(node))
        await process.spawn(append(node, session))
        await watching

    quietly(body)
    assert seen[0] >= 2
