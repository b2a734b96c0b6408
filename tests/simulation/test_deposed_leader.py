"""A leader that was deposed and has not heard of it answers no linearizable read: the others have
acknowledged writes since that it does not have."""

import asyncio

import pytest
from partition_replica.errors import NoLeader, NotLeader
from partition_replica.runtime.replica import Replica

from tests.simulation.clients import SESSION_TTL_MS
from tests.simulation.cluster import Cluster
from tests.simulation.node import Node
from tests.simulation.quiet import cut_off, leader, quietly
from tests.support import proposals

KEY = b"key"
SEEDS = range(1, 7)
ELECTED_S = 30.0


async def write(node: Node, value: bytes) -> None:
    replica, process = node.replica, node.process
    assert replica is not None and process is not None

    async def serve() -> None:
        session, _ = await replica.applications.open_session(SESSION_TTL_MS)
        proposal = proposals.proposal(session, 1, [proposals.set_key(KEY, value)])
        await replica.applications.append(proposal, retry=False, wait_applied=False)

    await process.spawn(serve())


async def read(replica: Replica) -> bytes | None:
    state = await replica.applications.read_point(linearizable=True)
    return state.get_value(KEY)[0]


async def elected(nodes: list[Node]) -> Node:
    async with asyncio.timeout(ELECTED_S):
        while True:
            for node in nodes:
                if node.running is not None and node.running.serving:
                    return node
            await asyncio.sleep(0.01)


def test_a_deposed_leader_answers_no_linearizable_read() -> None:
    """For a moment there are two that lead: the old one steps down when it has heard of no quorum
    for an election time-out, and the others may be faster."""
    unaware = 0

    async def body(cluster: Cluster) -> None:
        nonlocal unaware
        old = await leader(cluster)
        replica, process = old.replica, old.process
        assert replica is not None and process is not None and old.running is not None
        await write(old, b"before")
        assert await process.spawn(read(replica)) == b"before"
        cut_off(cluster, old)
        await write(await elected([n for n in cluster.nodes if n is not old]), b"after")
        unaware += old.running.loop.role == "leader"
        with pytest.raises((NoLeader, NotLeader)):
            await process.spawn(read(replica))

    for seed in SEEDS:
        quietly(body, seed=seed)
    assert unaware, "in no run there were two"
