"""One write and one read at a node of a quiet group, and its next leader."""

import asyncio

from partition_replica.runtime.replica import Replica

from tests.simulation.clients import SESSION_TTL_MS
from tests.simulation.node import Node
from tests.support import proposals

KEY = b"key"
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
